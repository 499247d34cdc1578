"""Speed and quality measured side by side: calls in turn, balancers, the exact method, growth with the size."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarking.records import BalancerRow, Duel, ExactRow, GrowthRow, Measured, MovesRow, OpenLayer
from moeopt import balancers, bounds, metrics
from moeopt.balancers.repair import repaired
from moeopt.bounds import Bound
from moeopt.compare import Method, everything_known, run, tabulate
from moeopt.front import at_ceiling
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution, SolveStatus
from moeopt.traces import generate

ABOVE_BEST = 0.01
"""Height of the ceiling for ``repair`` above the makespan of ``search``."""

Call = Callable[[], Any]
Seconds = NDArray[np.float64]

TURN = 0.02
"""Seconds that a turn of a fast call lasts: its median over up to ``CALLS_A_TURN`` calls counts."""

CALLS_A_TURN = 20

GROWTH_TOKENS = 2**26
"""Tokens of the generated layers of the scaling curves, so that loads of 100,000 experts hardly tie."""


def alternate(
    calls: Mapping[str, Call], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Seconds]:
    """Seconds of every call by ``clock``, ``[rounds]``; in every round each has a turn, in changing order.

    What slows the machine down for a while slows all calls alike, so quotients of two calls'
    seconds in the same round are steadier than the seconds themselves.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for number in range(rounds):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            seconds[name].append(_turn(calls[name], clock))
    return {name: np.array(values) for name, values in seconds.items()}


def _turn(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    taken: list[float] = []
    while len(taken) < CALLS_A_TURN and sum(taken) < TURN:
        taken.append(_seconds(call, clock))
    return float(np.median(taken))


def _seconds(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def duel(
    num_gpus: int, num_slots: int, rival: tuple[str, Call], ours: tuple[str, Call], rounds: int, same: float
) -> Duel:
    """How many times as fast as ``rival`` our call is, round by round; both have run once before.

    ``same`` is the share of layers on which the two place alike.
    """
    taken = alternate(dict([rival, ours]), rounds)
    times = taken[rival[0]] / taken[ours[0]]
    return Duel(
        num_gpus,
        num_slots,
        rival=rival[0],
        rival_ms=1e3 * float(np.median(taken[rival[0]])),
        ours=ours[0],
        ours_ms=1e3 * float(np.median(taken[ours[0]])),
        times=float(np.median(times)),
        times_low=float(times.min()),
        times_high=float(times.max()),
        same=same,
    )


def balancer_rows(
    problem: PlacementProblem, methods: Mapping[str, Method], rounds: int, bound: Bound | None = None
) -> list[BalancerRow]:
    """Runtime and quality of every method on one setting, all held against one bound.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads in the widest reading.
    rounds
        Timed rounds after a warm-up; the methods take turns.
    bound
        A proven bound on this problem, joined with the combinatorial ones.
    """
    runs = {name: run(problem, method) for name, method in methods.items()}
    able = {name: partial(methods[name], problem) for name in runs if runs[name].found.placement is not None}
    taken = alternate(able, rounds)
    runs = {name: replace(done, seconds=tuple(taken.get(name, ()))) for name, done in runs.items()}
    table = tabulate(runs, everything_known(problem, runs, bound=bound))
    rows = []
    for name, done in runs.items():
        layers, measured = table[table.method == name], None
        if name in taken:
            low, median, high = 1e3 * np.quantile(taken[name], [0.25, 0.5, 0.75])
            measured = Measured(
                ms=median, ms_low=low, ms_high=high,
                mean_imbalance=layers.imbalance.mean(), worst_imbalance=layers.imbalance.max(),
                mean_gap=layers.gap.mean(), max_gap=layers.gap.max(),
                proven=float((layers.status == "OPTIMAL").mean()),
            )  # fmt: skip
        shape = (problem.load.source, problem.num_gpus, problem.slots)
        rows.append(BalancerRow(*shape, name, measured, done.found.note[0]))
    return rows


def exact_row(problem: PlacementProblem, solution: Solution) -> ExactRow:
    """What an exact method proved on one setting, which bounds closed how many layers, at what cost."""
    closed = Counter(
        source
        for source, status in zip(solution.bound_source, solution.status, strict=True)
        if status is SolveStatus.OPTIMAL
    )
    still_open = [solution[int(i)] for i in solution.still_open]
    return ExactRow(
        problem.load.source, problem.num_gpus, problem.slots, layers=len(solution), proven=closed.total(),
        mean_gap=float(np.mean(solution.gap)), max_gap=float(np.max(solution.gap)),
        mean_seconds=float(solution.runtime.mean()), max_seconds=float(solution.runtime.max()),
        closed=tuple(closed.most_common()),
        still_open=tuple(
            OpenLayer(layer.problem.load.layer_ids[0], layer.lower_bound[0], layer.makespan[0], layer.gap[0])
            for layer in still_open
        ),
    )  # fmt: skip


def moves_row(load: LoadMatrix, older: LoadMatrix, num_gpus: int, num_slots: int, rounds: int) -> MovesRow:
    """``repair`` on ``load``, from EPLB's placement on ``older``, for one ceiling and with full slots."""
    reference = balancers.eplb(PlacementProblem(older, num_gpus, num_slots))
    problem = PlacementProblem(load, num_gpus, num_slots, reference=reference)
    start = balancers.search(problem)
    posed = at_ceiling(problem, metrics.makespan(metrics.gpu_load(load, start)), ABOVE_BEST)
    call = partial(repaired, posed, start=start)
    placement, reached = call()
    return MovesRow(
        load.source, older.source, num_gpus, num_slots, load.num_layers,
        ms=1e3 * float(np.median(alternate({"repair": call}, rounds)["repair"])),
        moves=float(metrics.moves(reference, placement).mean()),
        reached=int(reached.sum()),
        eplb_moves=float(metrics.moves(reference, balancers.eplb(problem)).mean()),
    )  # fmt: skip


def growth_rows(
    methods: Mapping[str, Method], shapes: Iterable[tuple[int, int, int]], longest: float = 20.0, seed: int = 0
) -> list[GrowthRow]:
    """Seconds for one generated layer of every shape (experts, GPUs, slots), smallest first.

    A method that could take more than ``longest`` seconds, were it quadratic from the last shape
    to this one, has NaN from there on. ``bounds`` is the best combinatorial lower bound.
    """
    calls: dict[str, Callable[[PlacementProblem], Any]] = {**methods, "bounds": bounds.lower_bound}
    rows: list[GrowthRow] = []
    feared = dict.fromkeys(calls, 0.0)
    for last, (experts, gpus, slots) in zip([None, *(shapes := list(shapes))], shapes, strict=False):
        load = generate("decode", num_layers=1, num_experts=experts, tokens=GROWTH_TOKENS, seed=seed).total()
        problem = PlacementProblem(load, gpus, slots, allow_empty_slots=True)
        growth = 1.0 if last is None else max(experts / last[0], gpus / last[1])
        measured = dict.fromkeys(calls, np.nan)
        for name, call in calls.items():
            if feared[name] * growth**2 <= longest:
                seconds = _seconds(partial(call, problem))
                measured[name] = feared[name] = seconds if seconds > 1 else _turn(partial(call, problem))
            else:
                feared[name] = np.inf
        rows.append(GrowthRow(experts, gpus, slots, measured))
    return rows


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Power of the size with which the time grew from the third-largest measured size to the largest."""
    measured = [(size, taken) for size, taken in zip(sizes, seconds, strict=True) if np.isfinite(taken)]
    if len(measured) < 3:
        return np.nan
    (size, taken), (largest, longest) = measured[-3], measured[-1]
    return float(np.log(longest / taken) / np.log(largest / size))
