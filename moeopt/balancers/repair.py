"""Repair: from the placement in force to balance with the fewest moves."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, metrics
from moeopt.balancers._repair_rows import repair_rows, rows_of
from moeopt.balancers.relabel import relabel
from moeopt.balancers.search import search
from moeopt.errors import NoPlacementError, PlacementError, UnsupportedError
from moeopt.methods import refuses
from moeopt.placement import Placement, as_placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FEW_SLOTS = 2
"""Slots per GPU up to which forwards gets stuck more often than not."""


def _reason(problem: PlacementProblem) -> str:
    if problem.max_makespan is None and problem.max_moves is None:
        return "repairs a reference: it needs max_makespan or max_moves"
    return ""


@refuses(_reason)
def repair(
    problem: PlacementProblem, *, start: Placement | Any = None, budget: float | None = None, seed: int = 0
) -> Placement:
    """..."""
    placement, reached = repaired(problem, start=start, budget=budget, seed=seed)
    if not reached.all():
        load = metrics.makespan(metrics.gpu_load(problem.load, placement))
        assert problem.max_makespan is not None
        short = np.flatnonzero(~reached)
        worst = (load[short] / problem.max_makespan[short]).max() - 1
        ids = ", ".join(str(problem.load.layer_ids[layer]) for layer in short)
        raise NoPlacementError(
            f"repair found no placement within max_makespan for layers {ids}; it came within {worst:.3%} of it"
        )
    return placement


def repaired(
    problem: PlacementProblem, *, start: Placement | Any = None, budget: float | None = None, seed: int = 0
) -> tuple[Placement, Flags]:
    """..."""
    assert problem.reference is not None and problem.max_makespan is not None
    ceiling = problem.max_makespan
    free = replace(problem, max_makespan=None, max_moves=None)
    sound = _sound_layers(free, problem.reference)
    best = _Found(problem, np.zeros(problem.num_layers, bool))
    if sound.any():
        part = np.flatnonzero(sound)
        some = problem[part]
        rows = rows_of(some, some.reference)
        held, _ = repair_rows(rows, rows.local(some.reference), np.repeat(ceiling[part], rows.per_layer))
        best.offer(part, rows.placement(held))
    back = np.flatnonzero(~best.reached | (problem.slots_per_gpu <= _FEW_SLOTS))
    if len(back):
        near = search(free[back], seed=seed) if start is None else as_placement(start, problem.num_experts, problem.num_gpus)[back]
        best.offer(back, bring_home(problem[back], relabel(problem[back], start=near), ceiling[back]))
    return best.placement(), best.reached


def bring_home(problem: PlacementProblem, start: Placement, ceiling: Floats) -> Placement:
    """..."""
    rows = rows_of(problem, start)
    held, _ = repair_rows(rows, rows.local(start), np.repeat(ceiling, rows.per_layer), forwards=False)
    return rows.placement(held)


class _Found:
    """The best placement known of every layer."""

    def __init__(self, problem: PlacementProblem, reached: Flags) -> None:
        self.problem = problem
        self.slots = np.full((problem.num_layers, problem.slots), -1)
        self.reached = reached
        self.makespan = np.full(problem.num_layers, np.inf)
        self.moves = np.zeros(problem.num_layers, np.int64)

    def offer(self, layers, placement: Placement) -> None:
        part = self.problem[layers]
        makespan = metrics.makespan(metrics.gpu_load(part.load, placement))
        moves = metrics.moves(part.reference, placement)
        reached = makespan <= part.max_makespan * (1 + metrics.FLOAT_SLACK)
        better = (reached & ~self.reached[layers]) | (reached & self.reached[layers] & (moves < self.moves[layers]))
        better |= ~reached & ~self.reached[layers] & (makespan < self.makespan[layers])
        take = layers[better]
        self.slots[take] = placement.phy2log[better]
        self.reached[take], self.makespan[take], self.moves[take] = reached[better], makespan[better], moves[better]

    def placement(self) -> Placement:
        return Placement(self.slots, self.problem.num_experts, self.problem.num_gpus)


def _sound_layers(problem: PlacementProblem, placement: Placement) -> Flags:
    """``[layers]`` whether ``placement`` keeps the problem's rules."""
    try:
        problem.check(placement)
        return np.ones(problem.num_layers, bool)
    except PlacementError:
        pass
    sound = np.zeros(problem.num_layers, bool)
    for layer in range(problem.num_layers):
        try:
            problem[layer].check(placement[layer])
            sound[layer] = True
        except PlacementError:
            continue
    return sound
