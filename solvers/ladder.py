"""Just give me the optimum: bounds and search first, stronger and dearer methods only where they are needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt.balancers import relabel, search
from moeopt.errors import PlacementError, UnsupportedError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, FLOAT_RESOLUTION, LayerOutcome, Solution, conclude
from solvers.configuration_lp import solve_configuration
from solvers.cpsat import solve_cpsat
from solvers.formulation import interchangeable
from solvers.layers import Limits, check_jobs, layer_outcomes
from solvers.pairing import solve_pairing

_SEARCH_SHARE = 0.3
"""Share of a layer's time limit that the longer search may take before exact methods have their turn."""

_SEARCH_SECONDS_PER_SLOT = 0.005
"""The most it may take in any case."""

_HOTTEST_NODES = 200_000
"""Ten times what the bound spends by default; tens of milliseconds a layer."""

_SMALL = 24
"""Slots up to which CP-SAT is quicker than any detour."""


def solve(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    gap: float = DEFAULT_GAP,
    workers: int = 1,
    hint: Placement | None = None,
    seed: int = 0,
    jobs: int = 1,
) -> Solution:
    """Prove every layer optimal within ``gap``, by the cheapest means that do.

    The rungs of the ladder: (1) cheap bounds and the near-optimal search on all layers at once;
    then, layer by layer and only where the gap is still open, (2) the hottest GPUs' bound, (3) a longer
    search, (4) the method made for two slots a GPU, (5) the configuration LP for three,
    (6) CP-SAT with everything known as hint and domain. Each rung starts from the best placement
    and the best bound of those below it.

    Parameters
    ----------
    time_limit
        Seconds a layer for the rungs above the first; None = until the gap is reached, which a
        hard layer may never do.
    gap
        Relative gap at which a layer counts as optimal.
    workers
        Threads of CP-SAT within one layer.
    hint
        A placement to start from, beside the search's own.
    seed
        Of every random choice.
    jobs
        Layers solved side by side, in processes.

    Returns
    -------
    Solution
        The best placement and bound of every layer, whatever time it took; ``bound_source`` names
        the proof and ``certificate`` lets an outsider check it.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the hint is not feasible.
    """
    limits = Limits(time_limit, gap, workers, seed)
    check_jobs(jobs)
    started = time.perf_counter()
    if hint is not None:
        problem.check(hint)
    placement = _first(problem, hint, seed)
    if placement is not None and problem.reference is not None and interchangeable(problem):
        placement = relabel(problem, start=placement)
    outcomes = [LayerOutcome()] * problem.num_layers
    still_open = np.arange(problem.num_layers)
    if placement is not None:
        outcomes = [LayerOutcome(phy2log=row) for row in placement.phy2log]
        still_open = _open_layers(problem, placement, gap)
    share = (time.perf_counter() - started) / problem.num_layers
    outcomes = [replace(outcome, runtime=share) for outcome in outcomes]
    if still_open.size:
        rest = None if placement is None else placement[still_open]
        climbed = layer_outcomes(problem[still_open], _climb, limits, rest, jobs)
        for layer, outcome in zip(still_open, climbed, strict=True):
            outcomes[layer] = replace(outcome, runtime=outcome.runtime + share)
    return conclude(problem, outcomes, gap)


def _first(problem: PlacementProblem, hint: Placement | None, seed: int) -> Placement | None:
    """Rung 1: the search's placement, or the hint's where that is better; None if neither is feasible."""
    try:
        found: Placement | None = search(problem, seed=seed)
    except (UnsupportedError, PlacementError):
        found = None  # the layers that remain open get a plainer start, one by one
    if hint is None or found is None:
        return found if hint is None else hint
    better = _makespan(problem, hint) < _makespan(problem, found)
    return Placement(np.where(better[:, None], hint.phy2log, found.phy2log), problem.num_experts, problem.num_gpus)


def _makespan(problem: PlacementProblem, placement: Placement) -> NDArray[np.float64]:
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def _open_layers(problem: PlacementProblem, placement: Placement, gap: float) -> NDArray[np.intp]:
    """Layers whose cheap bound does not prove the placement."""
    if problem.objective == "moves":
        return np.arange(problem.num_layers)
    relative = metrics.gap(_makespan(problem, placement), bounds.lower_bound(problem).value)
    return np.flatnonzero(relative > max(gap, FLOAT_RESOLUTION))


def _climb(problem: PlacementProblem, hint: Placement | None, limits: Limits) -> LayerOutcome:
    """Rungs 2 to 6 on one layer; the last one alone where the layer is small."""
    deadline = math.inf if limits.time_limit is None else time.perf_counter() + limits.time_limit
    best = LayerOutcome(phy2log=None if hint is None else hint.phy2log[0])
    for rung in RUNGS if problem.slots > _SMALL else RUNGS[-1:]:
        known = conclude(problem, [best], limits.gap)
        remaining = deadline - time.perf_counter()
        if known.is_optimal or remaining <= 0:
            break
        left = replace(limits, time_limit=None if math.isinf(remaining) else remaining)
        try:
            outcome = rung(problem, known, left)
        except UnsupportedError as reason:
            best = replace(best, note=best.note or str(reason))
            continue
        best = _merge(known, outcome)
    return best


def _merge(known: Solution, outcome: LayerOutcome) -> LayerOutcome:
    """The better placement and the better bound of what was known and what a rung found."""
    if outcome.lower_bound is None or outcome.lower_bound <= known.lower_bound[0]:
        outcome = replace(
            outcome,
            lower_bound=float(known.lower_bound[0]),
            bound_source=known.bound_source[0],
            certificate=known.certificate[0],
        )
    if outcome.phy2log is None and known.placement is not None:
        outcome = replace(outcome, phy2log=known.placement.phy2log[0])
    return outcome


def _hottest_gpus(problem: PlacementProblem, known: Solution, limits: Limits) -> LayerOutcome:
    """Rung 2: the exact problem of the hottest experts' GPUs, for partitions."""
    if problem.objective != "makespan":
        raise UnsupportedError("the hottest GPUs' bound is on the makespan")
    value, certificate = bounds.certified_hottest_gpus(problem, max_nodes=_HOTTEST_NODES)
    if math.isnan(value[0]):
        raise UnsupportedError("the hottest GPUs' bound says nothing here")
    return LayerOutcome(lower_bound=float(value[0]), bound_source="hottest_gpus", certificate=certificate[0])


def _longer_search(problem: PlacementProblem, known: Solution, limits: Limits) -> LayerOutcome:
    """Rung 3: more of the search, aimed at the best bound."""
    if problem.slots_per_gpu < 3 or known.placement is None:
        raise UnsupportedError("other methods search better with fewer than three slots a GPU")
    seconds = _SEARCH_SECONDS_PER_SLOT * problem.slots
    if limits.time_limit is not None:
        seconds = min(seconds, _SEARCH_SHARE * limits.time_limit)
    target = known.lower_bound * (1 + 0.9 * limits.gap)
    found = search(problem, start=known.placement, budget=seconds, target=target, seed=limits.seed)
    return LayerOutcome(phy2log=found.phy2log[0])


def _exact(solver: Callable[..., Solution]) -> Callable[[PlacementProblem, Solution, Limits], LayerOutcome]:
    """A rung that is an exact method of its own, started from the best placement known."""

    def rung(problem: PlacementProblem, known: Solution, limits: Limits) -> LayerOutcome:
        options = {"time_limit": limits.time_limit, "gap": limits.gap, "workers": limits.workers, "seed": limits.seed}
        solution = solver(problem, hint=known.placement, **options)
        return LayerOutcome(
            phy2log=None if solution.placement is None else solution.placement.phy2log[0],
            lower_bound=None if np.isnan(solution.lower_bound[0]) else float(solution.lower_bound[0]),
            bound_source=solution.bound_source[0],
            status=solution.status[0],
            note=solution.note[0],
            certificate=solution.certificate[0],
        )

    return rung


RUNGS: tuple[Callable[[PlacementProblem, Solution, Limits], LayerOutcome], ...] = (
    _hottest_gpus,
    _longer_search,
    _exact(solve_pairing),
    _exact(solve_configuration),
    _exact(solve_cpsat),
)
"""What is tried on a layer whose gap is open, in this order."""
