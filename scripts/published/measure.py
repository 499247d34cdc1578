"""Published balancers and ours on one setting: every placement held against one bound, times taken in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from benchmarking.measure import Seconds, alternate

from moeopt import metrics
from moeopt.compare import Method, Run, everything_known, run, tabulate
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution

OURS = ("eplb", "local_search", "search")
"""Balancers of ours that stand beside the others; the times of the first and the last are the units."""

FLASHLB_EXAMPLE = LoadMatrix([[600, 560, 120, 120, 20, 10, 10, 10]], source="FlashLB's example")
"""The loads with which FlashLB was proposed: 8 GPUs with 2 slots each."""


@dataclass(frozen=True)
class Quality:
    """What a method's placements are worth, all layers together where not said otherwise.

    Parameters
    ----------
    mean_gap, worst_gap, worst_layer, step_gap
        Distance from the proven bound, and the layer where it is largest.
    moves
        Copies that the placement in force does not have on their GPU.
    doubled
        Copies that sit on a GPU with another copy of their expert.
    ahead
        Layers on which the fullest GPU has less than that of ``search``.
    ms, times_eplb, times_search
        CPU milliseconds of a call, and as a multiple of those of two methods of ours.
    """

    mean_gap: float
    worst_gap: float
    worst_layer: int
    step_gap: float
    moves: int
    doubled: int
    ahead: int
    ms: float
    times_eplb: float
    times_search: float


@dataclass(frozen=True)
class Row:
    """A method on a setting; ``quality`` is None, and ``fault`` says why, where it has no valid placement."""

    method: str
    quality: Quality | None
    fault: str = ""


@dataclass(frozen=True, eq=False)
class Contest:
    """One setting: a row per method, and what is known from all of them."""

    problem: PlacementProblem
    known: Solution
    rows: tuple[Row, ...]


def contest(problem: PlacementProblem, methods: Mapping[str, Method], solve: Method, rounds: int) -> Contest:
    """Run all methods on one setting; the first call of each is its warm-up and does not count.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads in the widest reading.
    methods
        Balancers by name, ``OURS`` among them.
    solve
        The exact method, which runs once, after a first layer that does not count.
    rounds
        Timed rounds, in which the balancers take turns.

    Raises
    ------
    ContradictionError
        If a placement beats a claimed bound.
    """
    runs = {name: run(problem, method, warmup=0) for name, method in methods.items()}
    run(problem[:1], solve)
    start = time.process_time()
    runs["solve"] = run(problem, solve)
    seconds = {"solve": np.array([time.process_time() - start])}
    able = {name: partial(methods[name], problem) for name in methods if runs[name].found.placement is not None}
    seconds |= alternate(able, rounds, time.process_time)
    known = everything_known(problem, runs)
    return Contest(problem, known, tuple(_row(name, runs, known, seconds) for name in runs))


def example(methods: Mapping[str, Method], solve: Method) -> Contest:
    """Run all methods on FlashLB's example."""
    problem = PlacementProblem(FLASHLB_EXAMPLE, 8, 16, allow_empty_slots=True)
    return contest(problem, methods, solve, rounds=1)


def _row(name: str, runs: Mapping[str, Run], known: Solution, seconds: Mapping[str, Seconds]) -> Row:
    table = tabulate({name: runs[name]}, known)
    placement = runs[name].found.placement
    if placement is None:
        return Row(name, None, f"{table.status[0]}: {table.note[0]}")
    ours = runs[OURS[-1]].found.makespan
    worst = table.gap.idxmax()
    times_eplb, times_search = (float(np.median(seconds[name] / seconds[unit])) for unit in (OURS[0], OURS[-1]))
    quality = Quality(
        mean_gap=table.gap.mean(), worst_gap=table.gap.max(), worst_layer=int(table.layer[worst]),
        step_gap=metrics.step_gap(table.makespan, table.lower_bound),
        moves=int(table.moves.sum()), doubled=int((placement.held[1] - 1).sum()),
        ahead=int((table.makespan < ours * (1 - metrics.FLOAT_SLACK)).sum()),
        ms=1e3 * float(np.median(seconds[name])), times_eplb=times_eplb, times_search=times_search,
    )  # fmt: skip
    return Row(name, quality)
