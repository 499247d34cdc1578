"""Where balancers begin: a given start, checked, or the placement that suits the problem's rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.balancers.eplb import greedy_placement
from moeopt.placement import Placement, as_placement
from moeopt.problem import PlacementProblem
from moeopt.replication import replicate


def first_placement(problem: PlacementProblem) -> Placement:
    """Return a placement that keeps the problem's rules; only a reference may be above the ceiling.

    The reference where moves matter; methods that begin here refuse a ``broken_reference`` before. Otherwise
    EPLB's; layers in which that puts an expert on a GPU twice, where this is forbidden, are dealt
    in turn instead: hottest copies first, those of an expert to GPUs one after another, so they all
    differ. That is always possible: a problem whose GPUs have more slots than there are experts
    for them lets slots stay empty. O(layers * slots * log slots).
    """
    if problem.max_moves is not None or problem.max_makespan is not None:
        assert problem.reference is not None
        return problem.reference
    placement = greedy_placement(problem)
    if problem.allow_colocated or problem.num_redundant == 0 or problem.slots_per_gpu == 1:
        return placement
    return _separated(problem, placement)


def capped_counts(weight: NDArray[np.float64], num_slots: int, most: int) -> NDArray[np.int64]:
    """EPLB's replica counts, ``[experts]``, with at most ``most`` copies each; slots beyond that stay empty."""
    counts = np.bincount(replicate(weight[None], num_slots)[0][0], minlength=len(weight))
    while (counts > most).any():
        counts[np.argmax(counts)] -= 1
        if (counts < most).any():
            counts[np.argmax(np.where(counts < most, weight / counts, -1.0))] += 1
    return counts


def as_start(problem: PlacementProblem, start: Any) -> Placement:
    """Return ``start`` (Placement or ``[layers, slots]``) as a placement that keeps the problem's rules.

    It may be above the ceiling ``max_makespan``: methods that take one begin there and descend.

    Raises
    ------
    InputError
        If it is no array of expert ids; PlacementError if it does not fit the problem or breaks a rule.
    """
    placement = as_placement(start, problem.num_experts, problem.num_gpus)
    (problem if problem.max_makespan is None else replace(problem, max_makespan=None)).check(placement)
    return placement


def node_of_group(problem: PlacementProblem, placement: Placement) -> NDArray[np.int64]:
    """``[layers, groups]`` node of every group, where a placement keeps groups on nodes. O(layers * slots)."""
    group = placement.phy2log // (problem.num_experts // problem.num_groups)
    node = np.arange(problem.slots) // (problem.slots // problem.num_nodes)
    hosts = np.zeros((problem.num_layers, problem.num_groups + 1), dtype=np.int64)  # the last column: empty slots
    np.put_along_axis(hosts, group, np.broadcast_to(node, group.shape), axis=1)
    return hosts[:, :-1]


def _separated(problem: PlacementProblem, placement: Placement) -> Placement:
    """``placement``, with layers in which a GPU holds an expert twice dealt in turn."""
    slots = placement.phy2log.copy()
    nodes = problem.num_nodes if problem.hierarchical else 1
    hosts = np.zeros((problem.num_layers, problem.num_groups), dtype=np.int64)
    if nodes > 1:
        hosts = node_of_group(problem, placement)
    per_group = problem.num_experts // problem.num_groups
    rows = np.sort(placement.by_gpu, axis=2)
    twice = ((rows[:, :, 1:] == rows[:, :, :-1]) & (rows[:, :, 1:] >= 0)).any(axis=(1, 2))
    for layer in np.flatnonzero(twice):
        dealt = []
        for node in range(nodes):
            experts = np.flatnonzero(np.repeat(hosts[layer] == node, per_group))
            weight = problem.load.values[layer, experts].astype(float)
            order = _dealt_in_turn(weight, problem.num_gpus // nodes, problem.slots_per_gpu)
            dealt.append(np.where(order < 0, -1, experts[order]))
        slots[layer] = np.concatenate(dealt)
    return Placement(slots, problem.num_experts, problem.num_gpus)


def _dealt_in_turn(weight: NDArray[np.float64], gpus: int, per_gpu: int) -> NDArray[np.int64]:
    """Slots ``[gpus * per_gpu]`` that never hold an expert twice on a GPU; empty ones only beyond all experts on all.

    Counts are greedy, at most one copy per GPU; copies of an expert follow each other and are dealt
    to the GPUs in turn, so they all go to different ones.
    """
    copies = capped_counts(weight, gpus * per_gpu, gpus)
    falling = np.argsort(-weight / copies, kind="stable")
    replicas = np.full(gpus * per_gpu, -1)
    replicas[: copies.sum()] = np.repeat(falling, copies[falling])
    dealt: NDArray[np.int64] = replicas.reshape(per_gpu, gpus).T.ravel()
    return dealt
