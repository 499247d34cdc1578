"""Claims to put before ``verify``: genuine solutions, bounds alone, and whatever a forger writes."""

import json
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from moeopt import Bound, PlacementProblem, Solution, bounds, verify
from solvers import configuration_bound, solve_pairing
from solvers.configuration.dual import Dual
from solvers.configuration.tree import Tree
from solvers.drive import Limits
from solvers.pairing.branch import Left
from solvers.pairing.branch import Tree as CountTree
from solvers.pairing.model import columns_at
from solvers.pairing.walks import Walks

FIELDS = (
    "placement", "status", "makespan", "moves", "objective", "lower_bound", "bound_source", "certificate",
)  # fmt: skip


def through_json(bound):
    """A bound whose certificates have been written and read."""
    return Bound(bound.value, bound.source, json.loads(json.dumps(bound.certificate)))


def certified(problem, phy2log=None):
    """A solution with the cheap bounds, its certificates carried through JSON."""
    return Solution(problem, phy2log, through_json(bounds.lower_bound(problem)))


def claim(problem, value, certificate, source="forged"):
    """A bound without a placement."""
    layers = problem.num_layers
    return Solution(problem, bound=Bound(np.full(layers, value), (source,) * layers, (certificate,) * layers))


def forged(solution, **changes):
    """The plain numbers of a solution with some of them replaced: what nobody could construct."""
    return SimpleNamespace(**{name: getattr(solution, name) for name in FIELDS} | changes)


def accepts(problem, value, certificate):
    verdict = verify(problem, claim(problem, value, certificate)).layers[0]
    assert verdict.bound in ("proven", "rejected")
    assert verdict.reason.startswith("REJECTED") == (verdict.bound == "rejected")
    return verdict.bound == "proven"


def largest_proven(problem, certificate, low, high):
    """The largest float that a check accepts, by bisection over floats."""
    assert accepts(problem, low, certificate)
    assert not accepts(problem, high, certificate)
    while math.nextafter(low, high) < high:
        middle = low + (high - low) / 2
        middle = middle if low < middle < high else math.nextafter(low, high)
        low, high = (middle, high) if accepts(problem, middle, certificate) else (low, middle)
    return low


@cache
def pairs(method="pairing_lp"):
    """A problem of two slots per GPU, and a solution of it proven by ``method``."""
    for seed in range(40):
        load = np.ceil(np.random.default_rng(seed).lognormal(6, 0.8, 40)).astype(np.int64)
        problem = PlacementProblem(load, 24, 48, allow_empty_slots=True)
        solution = solve_pairing(problem)
        if solution.bound_source == (method,):
            return problem, replace(solution, bound=through_json(solution.bound))
    raise AssertionError("no instance")


@cache
def branched_pairs():
    """A problem of two slots per GPU, and a certificate that refutes all below its optimum in a tree of branches."""
    load = np.ceil(np.random.default_rng(2).lognormal(6, 0.8, 48)).astype(np.int64)
    problem = PlacementProblem(load, 32, 64, allow_empty_slots=True)
    threshold = float(solve_pairing(problem).makespan[0]) * (1 - 1e-6)
    columns = columns_at(load.astype(float), threshold * (1 + 1e-9), problem.slots, problem.max_replicas)
    left = Left(Walks.over(columns, float(load.sum())), np.zeros(48), np.ones(48))
    tree = CountTree(left, Limits())
    assert tree.grow(lambda counts: False, math.inf)
    certificate = {"threshold": threshold, **tree.certificate}
    assert len(certificate["nodes"]) > 3
    return problem, json.loads(json.dumps(certificate))


@cache
def triples():
    """A problem of three slots per GPU, and a configuration-LP bound of it."""
    load = np.ceil(np.random.default_rng(4).lognormal(6, 1.3, 24)).astype(np.int64)
    problem = PlacementProblem(load, 10, 30, allow_empty_slots=True)
    found = configuration_bound(load, 10, 3)
    assert found.value > bounds.lower_bound(problem).value[0]
    return problem, json.loads(json.dumps(found.certificate))


@cache
def branched():
    """A problem of three slots per GPU, and a bound from branching on counts above that of the linear program."""
    load = np.ceil(np.random.default_rng(4).lognormal(5, 1.2, 12)).astype(np.int64)
    problem = PlacementProblem(load, 6, 18, allow_empty_slots=True)
    dual = Dual(load.astype(float), 6, 3)
    alone = dual.climb(None, None)
    tree = Tree(dual)
    tree.grow(math.inf, math.inf)
    assert tree.bound > alone.value * 1.001
    return problem, json.loads(json.dumps(tree.certificate))
