"""The optimum: bounds and search first, stronger and more expensive methods only where they are needed."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from moeopt import bounds
from moeopt.balancers import quick_search, search
from moeopt.bounds import Bound
from moeopt.methods import refusal, refuses
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution, Stop
from solvers import configuration, cpsat, milp, moves_cover, pairing, window_cover
from solvers.drive import LayerMethod, Limits, Progress, Start, descended, interchangeable, known_before, work
from solvers.moves_bound import moves_bound, too_many_slots

_SEARCH_SHARE = 0.3
"""Share of a layer's time limit that the longer search may take before exact methods have their turn."""

_SEARCH_ROUNDS = 30
"""Times the stages of the default mode that it runs at most: seconds where slots are many."""

_HOTTEST_NODES = 200_000
"""Ten times what the bound spends by default; tens of milliseconds per layer."""

_COVERED_SLOTS = range(3, 7)
"""Slots per GPU at which covers are quicker than the search: with more the search reaches the mean load at once."""

_COVER_SHARE = 0.75
"""Share of the time left that covers may take."""

_COVER_WORK = 300_000_000
"""Sets that covers may look at: a second or two."""

_PRICES_SHARE = 0.5
"""Share of the time left that prices on copies may take."""

_SMALL = 24
"""Slots up to which CP-SAT is quicker than any detour."""


def solve(
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
    """Prove every layer optimal within ``tolerance``, by the cheapest means that do.

    First the cheap bounds and the near-optimal search on all layers at once, or the swap descent where
    few slots per GPU let covers come before the search; then, layer by layer and only where the gap is
    still open, the rungs of ``RUNGS`` in their order. What is known after one rung, the best placement
    and the best bound with its proof, is where the next one begins.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules; every variant.
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`. Without a time limit a hard layer may never end; the answer
        then depends on the arguments only.

    Returns
    -------
    Solution
        The best placement and bound of every layer, whatever time it took; ``bound_source`` names
        the proof and ``certificate`` lets an outsider check it.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve
    >>> found = solve(PlacementProblem([[9, 5, 4, 2, 1, 1], [30, 5, 4, 2, 1, 1]], num_gpus=2))
    >>> found.is_optimal, found.makespan.tolist(), found.bound_source
    (True, [11.0, 32.0], ('mean_load', 'hottest_with_companions'))
    """
    limits = Limits(time_limit, tolerance, workers, seed)
    started = time.perf_counter()
    known = known_before(problem, start, limits.tolerance)
    if not refusal(few_slots, problem):
        return work(known, climb, limits, first=descended, jobs=jobs, budget=budget, progress=progress)
    known = known.join(_searched(problem, limits))
    each = (time.perf_counter() - started) / problem.num_layers
    known = known.join(Solution(problem, runtime=each))
    return work(known, climb, limits, spent=each, jobs=jobs, budget=budget, progress=progress)


def _searched(problem: PlacementProblem, limits: Limits) -> Solution:
    """What the search finds on all layers at once, or the repair where moves matter, within the time of all of them."""
    limit = math.inf if limits.time_limit is None else limits.time_limit * problem.num_layers
    deadline = time.perf_counter() + limit
    if not interchangeable(problem):
        return descended(problem, deadline)
    return Solution(problem, quick_search(problem, seed=limits.seed, deadline=deadline))


def climb(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Climb the rungs on one layer, the last one alone where it is small and not for covers, until it is closed."""
    for rung in RUNGS if problem.slots > _SMALL or not refusal(few_slots, problem) else RUNGS[-1:]:
        if not known.still_open.size:
            return known
        if limits.late:
            return known.ended(Stop.TIME_LIMIT)
        if not refusal(rung, problem):
            known = known.join(rung(problem, known, limits))
    # what the last rung leaves out has been worked on all the same
    return known.ended(Stop.DONE) if known.stop == (Stop.SKIPPED,) else known


@refuses(lambda problem: "" if problem.num_redundant == 0 and problem.objective == "makespan" else "is for partitions")
def hottest_gpus(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve the GPUs of the hottest experts exactly: a bound for partitions, with ten times its usual effort."""
    value, certificate = bounds.certified_hottest_gpus(problem, max_nodes=_HOTTEST_NODES)
    return Solution(problem, bound=Bound(value, ("hottest_gpus",), certificate))


def _many_slots(problem: PlacementProblem) -> str:
    if problem.slots_per_gpu not in _COVERED_SLOTS:
        return f"are for {_COVERED_SLOTS[0]} to {_COVERED_SLOTS[-1]} slots per GPU"
    return refusal(window_cover.solve_layer, problem)


@refuses(_many_slots)
def few_slots(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Covers by sets within a window of loads: placement and bound of a partition with few slots per GPU."""
    share = replace(limits, deadline=time.perf_counter() + _COVER_SHARE * limits.left)
    return window_cover.solve_layer(problem, known, share, work=_COVER_WORK)


def _no_prices(problem: PlacementProblem) -> str:
    if problem.objective != "moves":
        return "are on moves"
    return "are the first step of covers" if not refusal(moves_cover.solve_layer, problem) else too_many_slots(problem)


def _no_longer(problem: PlacementProblem) -> str:
    if problem.slots_per_gpu < 3:
        return "needs three slots per GPU or more"
    if not refusal(configuration.solve_layer, problem) and problem.num_redundant:
        return "is left to the walks of the configuration LP's rung, which know better bounds"
    return refusal(search, problem)


@refuses(_no_longer)
def longer_search(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """More of the search from the best placement, aimed at the best bound."""
    if known.placement is None:
        return Solution(problem)
    target = known.lower_bound * (1 + 0.9 * limits.tolerance)
    end = time.perf_counter() + _SEARCH_SHARE * limits.left
    found = quick_search(
        problem, start=known.placement, target=target, seed=limits.seed, rounds=_SEARCH_ROUNDS, deadline=end
    )
    return Solution(problem, found, stop=limits.stop)


@refuses(_no_prices)
def copy_prices(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Prices on copies: a bound on moves, where the best placement known is not proven to have the fewest."""
    seconds = None if math.isinf(limits.left) else _PRICES_SHARE * limits.left
    return Solution(problem, bound=moves_bound(problem, time_limit=seconds, target=known.objective))


@refuses(lambda problem: "" if problem.splits else "are for the optimal split")
def flows(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """HiGHS: most of the model with flows is linear, and closed sooner than by CP-SAT."""
    return milp.solve_layer("highs", problem, known, limits)


RUNGS: tuple[LayerMethod, ...] = (
    hottest_gpus,
    few_slots,
    longer_search,
    moves_cover.solve_layer,
    copy_prices,
    pairing.solve_layer,
    configuration.solve_layer,
    flows,
    cpsat.solve_layer,
)
"""What is tried on a layer whose gap is open, in this order."""
