"""Few slots per GPU, no replicas: raise a threshold until sets of experts within a window of loads cover all."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt._stop import Flag, stoppable
from moeopt.bounds import Bound
from moeopt.methods import refuses, without_rules
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, FLOAT_RESOLUTION, Solution
from solvers.drive import Hint, Limits, Progress, drive
from solvers.window_cover.sets import find_cover, list_sets

MAX_EXPERTS = 128
"""Experts that the two words of a bit mask hold."""

MAX_SETS = 300_000
"""Sets within the window; more are listed in a tenth of a second, but hardly ever searched to the end."""

_TABLE = 1 << 17
"""Sets of experts remembered as leaving no cover: two megabytes."""

_BITS = 50
"""Binary digits of the total of rounded loads."""

_UNLIMITED = 1 << 62
"""More work than anybody waits for."""

_SHARE = 0.5
"""Share of the work left that one threshold may take."""


def _reason(problem: PlacementProblem) -> str:
    if problem.num_redundant:
        return f"is for partitions, got num_slots={problem.num_slots} for {problem.num_experts} experts"
    if problem.num_experts > MAX_EXPERTS:
        return f"takes at most {MAX_EXPERTS} experts, got {problem.num_experts}"
    return without_rules(problem)


@refuses(_reason)
def solve_window_cover(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    gap: float = DEFAULT_GAP,
    workers: int = 1,
    hint: Hint | None = None,
    seed: int = 0,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Optimal placement of a partition with few slots per GPU.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads of at most 128 experts, as many slots; no hierarchy, no move limit.
    time_limit, gap, workers, hint, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`. Nothing is drawn and there is a single thread: ``workers`` and
        ``seed`` change nothing.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the hint is not feasible.
    ContradictionError
        If a first placement beats the hint's bound; where a later one does, the layer's note says so.
    UnsupportedError
        For redundant slots, more than 128 experts, a hierarchical or a move-limited problem.

    Notes
    -----
    If no GPU is above a threshold T, none is below ``total - (num_gpus - 1) * T``, and the slacks
    T - load add up to ``num_gpus * T - total`` exactly. Few sets of experts lie in that window where
    GPUs have three to five slots and T is near the mean load. A depth-first search, rarest expert
    first, finds sets that cover all experts, a placement, or proves that there are none: no placement
    reaches T (bound source ``window_cover``). T grows from the best bound known, since lower
    thresholds are decided sooner and each one refuted is a bound. Where one expert dominates, the
    window is wide: more than 300,000 sets are not searched, and the layer is left as it is.

    Loads that are not whole numbers are rounded down to 50 binary digits of their total; what is
    proven for those holds for the true loads. Listing takes at most six million steps, the search exponential
    time. Covers: D. Knuth, "Dancing links", Millennial Perspectives in Computer Science (2000),
    doi 10.48550/arXiv.cs/0011047.
    """
    limits = Limits(time_limit, gap, workers, seed)
    return drive(problem, _alone, limits, hint=hint, jobs=jobs, budget=budget, progress=progress)


def _alone(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve one layer after the bound of its hottest experts, where the window may be too wide."""
    value, certificate = bounds.certified_hottest_gpus(problem)
    found = Solution(problem, bound=Bound(value, ("hottest_gpus",), certificate))
    known = known.join(found)
    return found.join(solve_layer(problem, known, limits)) if known.still_open.size else found


@refuses(_reason)
def solve_layer(problem: PlacementProblem, known: Solution, limits: Limits, *, work: int = _UNLIMITED) -> Solution:
    """Solve one layer, given what is known about it; at most ``work`` sets are looked at."""
    return _LayerSearch(known, limits, work).run()


class _LayerSearch:
    """One layer in whole numbers: the bound and the makespan so far, and the threshold between them."""

    def __init__(self, known: Solution, limits: Limits, work: int) -> None:
        self.problem, self.limits = known.problem, limits
        self.gap = 0.99 * max(limits.gap, FLOAT_RESOLUTION)
        true = self.problem.load.values[0]
        # counts are exact, their total is below 2**53; no load is so small that floats round bounds in tokens
        self.digits = 0 if self.problem.load.is_integer else _BITS - math.frexp(float(true.sum()))[1]
        whole = true if self.problem.load.is_integer else np.floor(np.ldexp(true, self.digits))
        self.order = np.argsort(-true, kind="stable")
        self.load = whole.astype(np.int64)[self.order]
        self.total, self.gpus, self.slots = int(self.load.sum()), self.problem.num_gpus, self.problem.slots_per_gpu
        self.work = np.array([work])
        self.bound = max(self._least(float(known.lower_bound[0])), -(-self.total // self.gpus))
        self.proven = Bound.unknown(1)
        self.phy2log: NDArray[np.intp] | None = None
        self.makespan = self.total
        if known.placement is not None:
            self.makespan = int(whole.astype(np.int64)[known.placement.phy2log[0]].reshape(self.gpus, -1).sum(1).max())

    def _least(self, value: float) -> int:
        """Least makespan of the rounded loads, if that of the true ones is ``value`` or more."""
        if math.isnan(value):
            return 0
        lost = 0 if self.problem.load.is_integer else self.slots
        return math.ceil(math.ldexp(value, self.digits)) - lost

    def run(self) -> Solution:
        step, highest = max(int(self.gap * self.bound), 1), self.total
        while self.makespan > self.bound * (1 + self.gap) and not self.limits.late:
            threshold = self._threshold(step, highest)
            if threshold >= highest:
                break
            found = self._decide(threshold)
            if found is None:
                highest = threshold
            elif found:
                step = max(step // 2, 1)
            else:
                self._prove(threshold)
                step *= 2
        return Solution(self.problem, self.phy2log, self.proven, self.limits.stop)

    def _threshold(self, step: int, highest: int) -> int:
        """A little above the bound, at most halfway to what is reached or was too hard, and where it may close."""
        halfway = (self.bound + min(self.makespan, highest)) // 2
        closing = max(int(self.bound * (1 + self.gap)), self.bound)
        return min(max(min(self.bound + step, halfway), closing), self.makespan - 1)

    def _decide(self, threshold: int) -> bool | None:
        """Whether a placement reaches ``threshold``, which is then accepted; None where that takes too long."""
        spent = int(self.work[0] * _SHARE)
        rest = self.work[0] - spent
        self.work[0] = spent
        verdict = stoppable(lambda stop: self._cover(threshold, stop), self.limits.deadline)
        self.work[0] = max(self.work[0], 0) + rest
        return verdict

    def _cover(self, threshold: int, stop: Flag) -> bool | None:
        budget = self.gpus * threshold - self.total
        members = np.empty((MAX_SETS, self.slots), dtype=np.uint16)
        slack = np.empty(MAX_SETS, dtype=np.int64)
        count = list_sets(self.load, self.slots, threshold - budget, threshold, members, slack, stop)
        if count < 0:
            return None
        least_first = np.argsort(slack[:count], kind="stable")
        members, slack = members[least_first], slack[least_first]
        cover, table = np.zeros(self.gpus, dtype=np.int64), np.zeros((_TABLE, 2), dtype=np.uint64)
        found = find_cover(members, slack, budget, table, self.work, cover, stop)
        if found == 1:
            self.phy2log = self.order[members[cover].ravel()]
            self.makespan = threshold - int(slack[cover].min())
        return None if found < 0 else bool(found)

    def _prove(self, refuted: int) -> None:
        """Whole loads that exceed ``refuted`` are one more at least."""
        self.bound = refuted + 1
        value = math.ldexp(float(self.bound), -self.digits)
        self.proven = Bound.of_layer(value, "window_cover", {"method": "window_cover", "threshold": value})
