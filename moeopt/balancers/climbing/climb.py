"""Runs the stages of ``search`` on layers without nodes, side by side, until their targets or a deadline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt._stop import Flag, in_shares
from moeopt.balancers.climbing.levels import level_rows
from moeopt.balancers.climbing.rows import FAR, deal_rows, mend_rows, recount_rows, swap_rows, walk_rows
from moeopt.balancers.climbing.stages import (
    COUNTS,
    COVER,
    DEAL,
    LEVEL,
    PAIRS,
    QUICK,
    REPAIR,
    SWAPS,
    WALK,
    Stage,
    stages,
)
from moeopt.balancers.climbing.windows import cover_rows
from moeopt.balancers.pairing import anneal_layer
from moeopt.balancers.triples import ROOM
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CLOSE = 9e-5
"""Default distance to the bound at which a layer is done: within the usual tolerance of 1e-4."""

_PAIR_STEPS = 4
"""Steps per slot, redundant ones counted tenfold more, in the first annealing of a layer with two slots per GPU: a
millisecond or less; each later one has four times as many, up to the tenth, which takes minutes."""


def near_bound(problem: PlacementProblem) -> Floats:
    """``[layers]`` makespan at which a layer is done by default."""
    return bounds.lower_bound(problem).value * (1 + _CLOSE)


def climb(
    problem: PlacementProblem, start: Placement, goal: Floats, seed: int, deadline: float, rounds: int | None
) -> Placement:
    """Improve every layer of a problem without nodes by ``rounds`` of stages (None = endless), until the deadline."""
    slots = np.where(start.by_gpu < 0, problem.num_experts, start.by_gpu)
    weight = problem.load.values.astype(float)
    makespan, goal = _makespan(slots, weight), goal.copy()

    def work(part: slice, stop: Flag) -> None:
        rows = np.arange(problem.num_layers)[part]
        for number, stage in stages(problem, rounds):
            rows = rows[makespan[rows] > goal[rows]]
            if stop[0] or not rows.size:
                return
            improved, reached, aim = slots[rows], makespan[rows], goal[rows]
            _run(problem, rows, improved, weight[rows], aim, reached, number, stage, seed, stop)
            slots[rows], makespan[rows], goal[rows] = improved, reached, aim

    if (makespan > goal).any():
        in_shares(work, problem.num_layers, slots.size, deadline)
    found = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(found, problem.num_experts, problem.num_gpus)


def _run(
    problem: PlacementProblem,
    rows: NDArray[np.intp],
    slots: Ints,
    weight: Floats,
    goal: Floats,
    makespan: Floats,
    number: int,
    stage: Stage,
    seed: int,
    stop: Flag,
) -> None:
    """One stage on some layers: improves ``slots [rows, gpus, k]`` and ``makespan [rows]`` in place."""
    if stage.kind == PAIRS:
        _anneal(problem, rows, slots, weight, goal, makespan, number, seed, stop)
    elif stage.kind == LEVEL:
        target = goal * (1 + ROOM) if stage.pace == QUICK else goal
        level_rows(slots, weight, target, seed + number, problem.allow_colocated, makespan, stop)
    elif stage.kind == COVER:
        cover_rows(slots, weight, goal, makespan, stop)
    elif stage.kind == SWAPS:
        swap_rows(slots, weight, goal, problem.allow_colocated, makespan, stop)
    elif stage.kind == WALK:
        walk_rows(
            slots, weight, goal, number, seed, stage.pace, stage.halfway, problem.allow_colocated, makespan, stop
        )  # fmt: skip
    elif stage.kind in (DEAL, REPAIR):
        colocated = problem.allow_colocated
        scratch = stage.kind == DEAL and colocated
        deal_rows(slots, weight, goal, number, seed, scratch, stage.pace, stage.halfway, colocated, makespan, stop)
    else:
        switches = problem.allow_colocated, problem.allow_empty_slots
        if stage.kind == COUNTS:
            recount_rows(slots, weight, goal, number, seed, *switches, makespan, stop)
        elif (makespan > FAR * goal).any():  # else there is nothing to mend, and nothing to compile
            mend_rows(slots, weight, goal, number, seed, *switches, makespan, stop)


def _anneal(
    problem: PlacementProblem,
    rows: NDArray[np.intp],
    slots: Ints,
    weight: Floats,
    goal: Floats,
    makespan: Floats,
    number: int,
    seed: int,
    stop: Flag,
) -> None:
    for i, layer in enumerate(rows):
        if stop[0]:
            return
        steps = _PAIR_STEPS * (problem.slots + 10 * problem.num_redundant) * 4 ** min(number, 9)
        found = anneal_layer(problem, int(layer), slots[i].ravel(), goal[i], steps, seed, number, stop)
        found = np.where(found < 0, problem.num_experts, found).reshape(1, problem.num_gpus, 2)
        reached = _makespan(found, weight[i : i + 1])[0]
        if reached < makespan[i]:
            slots[i], makespan[i] = found[0], reached


def _makespan(slots: Ints, weight: Floats) -> Floats:
    """``[rows]`` makespan of ``slots [rows, gpus, k]``; the expert behind the last one is an empty slot."""
    layers, experts = weight.shape
    flat = slots.reshape(layers, -1)
    number = (flat + np.arange(layers)[:, None] * (experts + 1)).ravel()
    copies = np.bincount(number, minlength=layers * (experts + 1)).reshape(layers, -1)
    size = np.zeros(copies.shape)
    size[:, :experts] = weight / copies[:, :experts]
    most: Floats = np.take_along_axis(size, flat, axis=1).reshape(slots.shape).sum(axis=2).max(axis=1)
    return most
