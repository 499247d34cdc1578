"""Bounds on the sum over steps: below every placement, each of them, and one through another."""

import json
from dataclasses import replace

import numpy as np
import pytest

from moeopt import Bound, InputError, PlacementProblem, bounds, metrics
from moeopt.balancers import eplb, scenario_search, search
from moeopt.bounds.steps import _from_multipliers, blocks, mean_of_steps, pair_lp, steps_bound
from moeopt.traces import Trace
from moeopt.verify.check import check_layer
from moeopt.verify.layer import Claim
from moeopt.verify.solution import exact_layer
from tests.instances import SMALL_RULES
from tests.steps_oracle import least_cost, least_partition, stepped, steps_of

ROUNDING = 1e-12


def is_proven(problem, bound):
    """What an outsider says, of the bound's certificate as JSON carries it."""
    proof = json.loads(json.dumps(bound.certificate[0]))
    claim = Claim(bound=float(bound.value[0]), source=bound.source[0], certificate=proof)
    return check_layer(exact_layer(problem, 0, by_steps=True), claim, 0, 0).bound == "proven"


def every_bound(problem):
    """By name, ``[layers]``."""
    found = {f"blocks of {size}": blocks(problem, size) for size in range(1, len(problem.steps) + 1)}
    return found | {
        "mean": mean_of_steps(problem),
        "pair_lp": pair_lp(problem).value,
        "best": steps_bound(problem).value,
    }


@pytest.mark.parametrize("rules", SMALL_RULES)
@pytest.mark.parametrize("unit", [1, 1 / 3, pytest.param(1e9, marks=pytest.mark.slow)])
def test_no_placement_of_a_small_layer_costs_less(rules, unit):
    for seed in range(4):
        problem = stepped(rules, seed)
        problem = replace(problem, load=Trace(problem.steps * unit))
        optimum = least_cost(problem)
        for name, value in every_bound(problem).items():
            if not np.isnan(value[0]):
                assert value[0] <= optimum * (1 + ROUNDING), (name, seed)
        if problem.load.is_integer:
            assert is_proven(problem, steps_bound(problem))


def test_no_placement_within_a_limit_of_moves_costs_less():
    for seed in range(6):
        for rules in ("partition", "replicated"):
            problem = stepped(rules, seed, reference=search(stepped(rules, seed + 50)), max_moves=seed % 3)
            optimum = least_cost(problem)
            for name, value in every_bound(problem).items():
                assert np.isnan(value[0]) or value[0] <= optimum * (1 + ROUNDING), (name, seed, rules)


@pytest.mark.parametrize(("experts", "gpus", "steps"), [(8, 4, 16), (12, 4, 16), (8, 2, 4)])
def test_no_partition_costs_less_and_the_pair_lp_is_the_closest(experts, gpus, steps):
    windows = steps_of(np.random.default_rng(experts + gpus), steps, experts, layers=2)
    problem = PlacementProblem(Trace(windows), gpus)
    found = every_bound(problem)
    for layer in range(2):
        optimum = least_partition(windows[:, layer], experts // gpus)
        for name, value in found.items():
            assert value[layer] <= optimum, name
            assert value[layer] <= found["best"][layer], name
        assert found["best"][layer] >= optimum * 0.93
    assert set(steps_bound(problem).source) == {"pair_lp"}


def test_multipliers_prove_no_more_than_is_true_whatever_they_are():
    rng = np.random.default_rng(5)
    windows = steps_of(rng, 6, 8)[:, 0].astype(float)
    optimum, problem = least_partition(windows, 2), PlacementProblem(Trace(windows[:, None]), 4)
    least = Bound(windows.max(axis=1), ["hottest_replica"] * 6, [{"method": "hottest_replica"}] * 6)
    for size in (0.01, 0.2, 1.0, 10.0):
        for _ in range(50):
            price, degree = size * rng.random((6, 8)), size * rng.normal(0, 50, 8)
            bound = _from_multipliers(windows, least, problem, price, degree)
            assert bound.value[0] <= optimum
            assert is_proven(problem, bound)
            assert not is_proven(problem, Bound([optimum + 1], bound.source, bound.certificate))


def test_a_step_is_bounded_as_its_own_problem_and_all_together_as_the_sum():
    problem = stepped("replicated", 3)
    alone = [bounds.lower_bound(replace(problem, load=step)).value for step in problem.steps]
    assert blocks(problem, 1) == pytest.approx(np.sum(alone, axis=0), rel=1e-14)
    assert blocks(problem, 5) == pytest.approx(bounds.lower_bound(problem).value, rel=1e-14)
    assert blocks(problem, 3) == pytest.approx(
        sum(bounds.lower_bound(replace(problem, load=part.sum(axis=0))).value for part in np.split(problem.steps, [3]))
    )


def test_one_hot_expert_in_every_step_is_seen_by_single_steps_and_by_the_sum_only_if_it_is_the_same():
    same = np.array([[[12, 1, 1, 1]]] * 4)
    turns = 1 + 11 * np.eye(4, dtype=int)[:, None]
    assert blocks(PlacementProblem(Trace(same), 2), 4) == 52
    assert blocks(PlacementProblem(Trace(turns), 2), 4) == 30
    assert steps_bound(PlacementProblem(Trace(turns), 2)).value == 52
    assert steps_bound(PlacementProblem(Trace(turns), 2)).source == ("per_step",)


def test_at_full_size_the_best_bound_lies_between_the_mean_and_what_is_found():
    problem = PlacementProblem(Trace(steps_of(np.random.default_rng(1), 24, 64, layers=2)), 8, 72)
    bound = steps_bound(problem)
    cost = metrics.step_makespans(problem.steps, scenario_search(problem)).sum(axis=0)
    assert (mean_of_steps(problem) <= bound.value).all()
    assert (bound.value <= cost).all()
    assert np.isnan(pair_lp(problem).value).all()


def test_layers_without_load_and_steps_without_tokens_cost_nothing():
    windows = np.zeros((3, 2, 4), dtype=int)
    windows[1, 1] = [4, 3, 2, 1]
    assert steps_bound(PlacementProblem(Trace(windows), 2)).value.tolist() == [0, 5]


def test_a_ceiling_is_ignored_and_a_problem_without_steps_refused():
    problem = stepped("partition", 0)
    reference = eplb(problem)
    ceiling = replace(problem, reference=reference, max_makespan=1.0)
    assert steps_bound(ceiling).value == steps_bound(problem).value
    with pytest.raises(InputError, match="knows its steps"):
        steps_bound(PlacementProblem([[3, 1]], 2))
