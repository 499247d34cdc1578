"""The one driver of exact methods: layers, time, progress, and running side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moeopt import bounds
from moeopt._arguments import fraction, integer, seconds
from moeopt._arguments import seed as checked_seed
from moeopt.balancers import local_search, relabel, repaired
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution, Stop, stack

MOST_WORKERS = 256
"""Threads that CP-SAT may be asked for; each has a copy of the model."""

MOST_JOBS = 4096

Progress = Callable[[int], None]
"""Called with the number of layers that have just been finished."""

Start = Placement | Solution | Any
"""A placement to start from (or ``[layers, slots]``), or a Solution, whose bounds are believed too."""


@dataclass(frozen=True)
class Limits:
    """How long and how far to work on one layer.

    Parameters
    ----------
    time_limit
        Seconds; None = until the layer is closed.
    tolerance
        Relative gap at which a layer counts as optimal.
    workers
        Threads within the layer.
    seed
        Of every random choice.
    deadline
        When the time is over, by ``time.perf_counter``; set by :meth:`started`.
    """

    time_limit: float | None = None
    tolerance: float = DEFAULT_TOLERANCE
    workers: int = 1
    seed: int = 0
    deadline: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_limit", seconds("time_limit", self.time_limit))
        object.__setattr__(self, "tolerance", fraction("tolerance", self.tolerance))
        object.__setattr__(self, "workers", integer("workers", self.workers, 1, MOST_WORKERS))
        object.__setattr__(self, "seed", checked_seed(self.seed))

    def started(self, spent: float = 0.0) -> Limits:
        """Return the limits of a layer whose time runs from now on, less the seconds ``spent`` on it before."""
        if self.time_limit is None:
            return self
        return replace(self, deadline=time.perf_counter() + max(self.time_limit - spent, 0.0))

    @property
    def left(self) -> float:
        """Seconds left, >= 0; infinite without a time limit."""
        return max(self.deadline - time.perf_counter(), 0.0)

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.left == 0.0

    @property
    def stop(self) -> Stop:
        """Why a method that ends now has ended."""
        return Stop.TIME_LIMIT if self.late else Stop.DONE


LayerMethod = Callable[[PlacementProblem, Solution, Limits], Solution]
"""Works on a problem of one layer, given what is known about it, and returns what it found."""

LayerStart = Callable[[PlacementProblem, float], Solution]
"""Finds a first placement of one layer, before a deadline."""


def drive(
    problem: PlacementProblem,
    method: LayerMethod,
    limits: Limits,
    *,
    start: Start | None = None,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Work on every layer on its own, and join what is found with what is known.

    The cheap bounds and the start are known to ``method`` from the beginning, and so is the swap descent's
    placement where the start has none; layers that these close are not worked on.

    Parameters
    ----------
    method
        What to do with one layer; must be picklable where ``jobs`` are processes.
    limits
        For each layer.
    start
        A placement to start from, which the answer is never worse than, or a Solution.
    jobs
        Layers at a time, through joblib: ``joblib.parallel_config`` chooses processes, threads or a
        cluster. None = as joblib is configured, one where it is not.
    budget
        Seconds for all layers together; layers not begun by then are left with what is known.
    progress
        Called as layers are finished.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.
    """
    known = known_before(problem, start, limits.tolerance)
    return work(known, method, limits, first=descended, jobs=jobs, budget=budget, progress=progress)


def known_before(problem: PlacementProblem, start: Start | None, tolerance: float) -> Solution:
    """Return the cheap bounds, joined with what a start says."""
    known = Solution(problem, bound=bounds.lower_bound(problem), tolerance=tolerance)
    return known if start is None else known.join(as_solution(problem, start))


def as_solution(problem: PlacementProblem, start: Start) -> Solution:
    """Return a start as what it says about ``problem``; PlacementError if its placement is not feasible.

    The bound of an even split says nothing about the optimal one.
    """
    if not isinstance(start, Solution):
        return Solution(problem, start)
    believed = start.problem.splits or not problem.splits
    return Solution(problem, start.placement, start.bound if believed else None)


def work(
    known: Solution,
    method: LayerMethod,
    limits: Limits,
    *,
    first: LayerStart | None = None,
    spent: float = 0.0,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Work on the open layers of ``known``, of which ``spent`` seconds each are over already.

    ``first`` finds a placement where there is none; its time counts.
    """
    from joblib import Parallel, delayed

    jobs = None if jobs is None else integer("jobs", jobs, 1, MOST_JOBS)
    budget = seconds("budget", budget)
    end = math.inf if budget is None else time.perf_counter() + budget
    layers = known.still_open
    tell = progress or (lambda layers: None)
    tell(known.num_layers - len(layers))
    if not len(layers):
        return _labelled(known)

    def tasks() -> Iterator[Any]:
        for layer in layers:
            if time.perf_counter() > end:
                return
            yield delayed(_one_layer)(known[int(layer)], method, limits, first, spent)

    parts: list[Solution] = []
    for found in Parallel(n_jobs=jobs, return_as="generator")(tasks()):
        parts.append(found)
        tell(1)
    if len(parts) < len(layers):
        left = known[layers[len(parts) :]]
        parts.append(left.ended(Stop.SKIPPED, f"not tried: the {budget:g} s for all layers were used up"))
        tell(len(left))
    return _labelled(known.updated(layers, stack(known.problem[layers], parts)))


def _one_layer(
    known: Solution, method: LayerMethod, limits: Limits, first: LayerStart | None, spent: float
) -> Solution:
    begun, before = time.perf_counter(), known.runtime
    limits = limits.started(spent)
    try:
        if known.placement is None and first is not None:
            known = known.join(first(known.problem, limits.deadline))
        if known.still_open.size:
            known = known.join(method(known.problem, known, limits))
    except Exception as error:  # a fault in one layer does not touch the others
        known = known.ended(Stop.ERROR, f"{type(error).__name__}: {error}")
    return replace(known, runtime=before + (time.perf_counter() - begun))


def _labelled(known: Solution) -> Solution:
    """Rename GPUs, where names do not matter, so that least moves from the reference."""
    problem = known.problem
    if known.placement is None or problem.reference is None or not interchangeable(problem):
        return known
    part, placed = problem[known.solved], known.placement[known.solved]
    renamed = relabel(part, start=placed)
    fewer = Solution(part, renamed).moves < Solution(part, placed).moves
    rows = known.placement.phy2log.copy()
    rows[known.solved[fewer]] = renamed.phy2log[fewer]
    return replace(known, placement=Placement(rows, problem.num_experts, problem.num_gpus))


def descended(problem: PlacementProblem, deadline: float = math.inf) -> Solution:
    """Return the swap descent's placement, or the repaired reference where moves matter, if it keeps the limit."""
    if interchangeable(problem):
        return Solution(problem, local_search(problem))
    placement, reached = repaired(problem, deadline=deadline)
    return Solution(problem, np.where(reached[:, None], placement.phy2log, -1))


def interchangeable(problem: PlacementProblem) -> bool:
    """Whether GPUs (within nodes) and nodes can swap names without changing the problem."""
    return problem.max_moves is None and problem.max_makespan is None
