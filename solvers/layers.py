"""What every exact method shares: limits, the first hint, and running layers one by one or side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from moeopt import metrics
from moeopt.balancers import local_search, relabel
from moeopt.errors import InputError, NoPlacementError, PlacementError, UnsupportedError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import LayerOutcome, Solution, SolveStatus, conclude
from solvers.formulation import interchangeable


@dataclass(frozen=True)
class Limits:
    """How long and how far to search one layer: seconds, relative gap, threads, seed."""

    time_limit: float | None
    gap: float
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.time_limit is not None and not self.time_limit > 0:
            raise InputError(f"time_limit must be > 0 seconds, got {self.time_limit}")
        if not (math.isfinite(self.gap) and self.gap >= 0):
            raise InputError(f"gap must be finite and >= 0, got {self.gap}")
        if self.workers < 1:
            raise InputError(f"workers must be >= 1, got {self.workers}")


SolveLayer = Callable[[PlacementProblem, Placement | None, Limits], LayerOutcome]
"""Solves a problem of one layer, given a feasible hint or None."""


def solve_layers(
    problem: PlacementProblem, solve_layer: SolveLayer, limits: Limits, hint: Placement | None, jobs: int
) -> Solution:
    """Solve every layer on its own and put the outcomes together.

    Raises
    ------
    PlacementError
        If the given hint is not feasible.
    """
    return conclude(problem, layer_outcomes(problem, solve_layer, limits, hint, jobs), limits.gap)


def layer_outcomes(
    problem: PlacementProblem, solve_layer: SolveLayer, limits: Limits, hint: Placement | None, jobs: int
) -> list[LayerOutcome]:
    """Solve every layer on its own, one by one or side by side.

    Without a hint the swap descent gives one where it can. A result worse than the hint is
    replaced by the hint. A layer too large for the back end is SKIPPED with the reason.
    """
    check_jobs(jobs)
    if hint is not None:
        problem.check(hint)
    layers = range(problem.num_layers)
    tasks = [(problem[i], None if hint is None else hint[i], limits, solve_layer) for i in layers]
    if jobs == 1 or len(tasks) == 1:
        return [_solve_one(*task) for task in tasks]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=min(jobs, len(tasks)))(delayed(_solve_one)(*task) for task in tasks))


def check_jobs(jobs: int) -> None:
    """Refuse fewer than one layer at a time."""
    if jobs < 1:
        raise InputError(f"jobs must be >= 1, got {jobs}")


def heuristic_hint(problem: PlacementProblem) -> Placement | None:
    """The swap descent's placement where it keeps the problem's rules, else None."""
    try:
        placement = local_search(problem)
        problem.check(placement)
    except (NoPlacementError, PlacementError, UnsupportedError):
        return None
    return placement


def _solve_one(
    problem: PlacementProblem, hint: Placement | None, limits: Limits, solve_layer: SolveLayer
) -> LayerOutcome:
    start = time.perf_counter()
    hint = heuristic_hint(problem) if hint is None else hint
    try:
        outcome = solve_layer(problem, hint, limits)
    except UnsupportedError as reason:
        return LayerOutcome(status=SolveStatus.SKIPPED, note=str(reason))
    if outcome.status is SolveStatus.INFEASIBLE and hint is not None:
        outcome = LayerOutcome(status=SolveStatus.ERROR, note="the back end denies that the hint is feasible")
    phy2log = _better(problem, outcome.phy2log, hint)
    if phy2log is not None and problem.reference is not None and interchangeable(problem):
        found = Placement(phy2log, problem.num_experts, problem.num_gpus)
        phy2log = relabel(problem, start=found).phy2log[0]
    return replace(outcome, phy2log=phy2log, runtime=time.perf_counter() - start)


def _better(problem: PlacementProblem, phy2log: np.ndarray | None, hint: Placement | None) -> np.ndarray | None:
    """The better one of a back end's placement and the hint, by the problem's own objective."""
    if hint is None or phy2log is None:
        return phy2log if hint is None else hint.phy2log[0]
    found = Placement(phy2log, problem.num_experts, problem.num_gpus)
    return phy2log if _objective(problem, found) <= _objective(problem, hint) else hint.phy2log[0]


def _objective(problem: PlacementProblem, placement: Placement) -> float:
    if problem.objective == "moves":
        assert problem.reference is not None
        return float(metrics.moves(problem.reference, placement)[0])
    return float(metrics.makespan(metrics.gpu_load(problem.load, placement))[0])
