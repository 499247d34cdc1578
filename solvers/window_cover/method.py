"""Few slots per GPU, no replicas: raise a threshold until sets of experts within a window of loads cover all."""

from __future__ import annotations

import math

import numpy as np

from moeopt import bounds
from moeopt._stop import stoppable
from moeopt.bounds import Bound
from moeopt.covers import CoverSearch, Effort, whole_loads
from moeopt.methods import refuses, without_rules
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, FLOAT_RESOLUTION, Solution
from solvers.drive import Limits, Progress, Start, drive

MAX_EXPERTS = 128
"""Experts that the two words of a bit mask hold."""

MAX_SETS = 300_000
"""Sets within the window; more are listed in a tenth of a second, but hardly ever searched to the end."""

_TABLE = 1 << 17
"""Sets of experts remembered as leaving no cover: two megabytes."""

_UNLIMITED = 1 << 62
"""More work than anybody waits for."""


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
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    start: Start | None = None,
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
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`. Nothing is drawn and there is a single thread: ``workers`` and
        ``seed`` change nothing.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.
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

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_window_cover
    >>> found = solve_window_cover(PlacementProblem([[9, 8, 7, 6, 5, 4]], num_gpus=3))
    >>> found.status[0].name, found.makespan.tolist(), found.lower_bound.tolist()
    ('OPTIMAL', [13.0], [13.0])
    """
    limits = Limits(time_limit, tolerance, workers, seed)
    return drive(problem, _alone, limits, start=start, jobs=jobs, budget=budget, progress=progress)


def _alone(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve one layer after the bound of its hottest experts, where the window may be too wide."""
    value, certificate = bounds.certified_hottest_gpus(problem)
    found = Solution(problem, bound=Bound(value, ("hottest_gpus",), certificate))
    known = known.join(found)
    return found.join(solve_layer(problem, known, limits)) if known.still_open.size else found


@refuses(_reason)
def solve_layer(problem: PlacementProblem, known: Solution, limits: Limits, *, work: int = _UNLIMITED) -> Solution:
    """Solve one layer, given what is known about it; at most ``work`` sets are looked at."""
    true = problem.load.values[0]
    whole, digits = whole_loads(true)
    least, makespan = 0, int(whole.sum())
    if not math.isnan(known.lower_bound[0]):
        lost = 0 if problem.load.is_integer else problem.slots_per_gpu
        least = math.ceil(math.ldexp(float(known.lower_bound[0]), digits)) - lost
    if known.placement is not None:
        makespan = int(whole[known.placement.phy2log[0]].reshape(problem.num_gpus, -1).sum(axis=1).max())
    order = np.argsort(-true, kind="stable")
    search = CoverSearch(
        whole[order], problem.num_gpus, least, makespan, 0.99 * max(limits.tolerance, FLOAT_RESOLUTION),
        Effort(MAX_SETS, _TABLE, work),
    )  # fmt: skip
    stoppable(search.run, limits.deadline)
    proven = Bound.unknown(1)
    if search.refuted:  # whole loads that exceed a threshold are one more at least
        value = math.ldexp(float(search.refuted + 1), -digits)
        proven = Bound.of_layer(value, "window_cover", {"method": "window_cover", "threshold": value})
    found = None if search.cover is None else order[search.cover.ravel()]
    return Solution(problem, found, proven, limits.stop)
