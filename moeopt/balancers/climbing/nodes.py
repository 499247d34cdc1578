"""Problems with nodes and groups: once groups are dealt to nodes, every node is a problem of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.balancers.bldm import bldm
from moeopt.balancers.climbing.climb import climb, near_bound
from moeopt.balancers.local_search import descended
from moeopt.balancers.start import first_placement, node_of_group
from moeopt.load import LoadMatrix
from moeopt.methods import refusal
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST_DESCENDED = 8192
"""Slots up to which ``local_search`` comes first: it is quadratic, and other stages end closer in larger layers."""


def climbed(
    problem: PlacementProblem,
    start: Placement | None,
    goal: Floats | None,
    seed: int,
    deadline: float,
    rounds: int | None,
) -> Placement:
    """Improve every layer of a problem that limits no moves by ``rounds`` of stages, until ``goal [layers]``.

    From ``start``, or from a first placement; with groups on nodes then also from groups dealt from scratch.
    Without a goal, layers end near their bound, and those without a start begin with the best of other methods.
    """
    first = first_placement(problem) if start is None else start
    if goal is None:
        goal = near_bound(problem)
        if start is None:
            first = _best_of_others(problem, first, deadline)
    if not problem.hierarchical:
        return climb(problem, first, goal, seed, deadline, rounds)
    found = climb_nodes(problem, first, goal, seed, deadline, 1)
    if start is None and time.perf_counter() < deadline:
        other = regrouped(problem, seed, deadline)
        found = better(problem, found, climb_nodes(problem, other, goal, seed, deadline, 1))
    return found if rounds == 1 else climb_nodes(problem, found, goal, seed, deadline, rounds)


def _best_of_others(problem: PlacementProblem, first: Placement, deadline: float) -> Placement:
    """What ``local_search`` makes of the first placement, or that of ``bldm`` where it is better."""
    best = descended(problem, first, deadline) if problem.slots <= _MOST_DESCENDED else first
    return best if refusal(bldm, problem) else better(problem, best, bldm(problem))


def climb_nodes(
    problem: PlacementProblem, start: Placement, goal: Floats, seed: int, deadline: float, rounds: int | None
) -> Placement:
    """Climb inside every node, with the groups where ``start`` has them."""
    rows, member = _node_rows(problem, np.argsort(node_of_group(problem, start), axis=1, kind="stable"))
    local = np.full((len(member), problem.num_experts + 1), -1)  # the last column serves empty slots
    np.put_along_axis(local, member, np.arange(member.shape[1])[None, :], axis=1)
    begin = np.take_along_axis(local, start.phy2log.reshape(len(member), -1), axis=1)
    first = Placement(begin, rows.num_experts, rows.num_gpus)
    best = climb(rows, first, np.repeat(goal, problem.num_nodes), seed, deadline, rounds)
    return _global(problem, member, best)


def regrouped(problem: PlacementProblem, seed: int, deadline: float) -> Placement:
    """A first placement inside the nodes, after a search for the best deal of groups to nodes."""
    group_load: Any = problem.load.values.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2)
    deal = PlacementProblem(LoadMatrix(group_load), problem.num_nodes)
    hosting = climb(deal, first_placement(deal), near_bound(deal), seed, deadline, 1)
    rows, member = _node_rows(problem, hosting.phy2log)
    return _global(problem, member, first_placement(rows))


def better(
    problem: PlacementProblem, a: Placement, b: Placement, allowed: NDArray[np.bool_] | bool = True
) -> Placement:
    """The placement with the lower makespan, layer by layer; ``b`` only where it is ``allowed [layers]``."""
    first, second = (metrics.makespan(metrics.gpu_load(problem.load, placement)) for placement in (a, b))
    chosen = np.where(((second < first) & allowed)[:, None], b.phy2log, a.phy2log)
    return Placement(chosen, problem.num_experts, problem.num_gpus)


def _node_rows(problem: PlacementProblem, groups: NDArray[Any]) -> tuple[PlacementProblem, Ints]:
    """One problem per node, given the groups in the order of their nodes; and its experts, ``[rows, experts]``."""
    size = problem.num_experts // problem.num_groups
    order = (groups[:, :, None] * size + np.arange(size)).reshape(problem.num_layers, -1)
    loads: Any = np.take_along_axis(problem.load.values, order, axis=1)
    member = order.reshape(problem.num_layers * problem.num_nodes, -1)
    rows = PlacementProblem(
        LoadMatrix(loads.reshape(member.shape)),
        num_gpus=problem.num_gpus // problem.num_nodes,
        num_slots=problem.slots // problem.num_nodes,
        allow_colocated=problem.allow_colocated,
        allow_empty_slots=problem.allow_empty_slots,
    )
    return rows, member


def _global(problem: PlacementProblem, member: Ints, local: Placement) -> Placement:
    """Placement of the nodes' own experts as one of all experts."""
    own = local.phy2log
    slots = np.where(own < 0, -1, np.take_along_axis(member, np.maximum(own, 0), axis=1))
    return Placement(slots.reshape(problem.num_layers, -1), problem.num_experts, problem.num_gpus)
