"""``scenario_search``: the sum over steps of the fullest GPU, by annealing."""

from __future__ import annotations

import math
import time
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, metrics
from moeopt._stop import Flag, in_shares
from moeopt.balancers._reasons import broken_reference
from moeopt.balancers.local_search import local_search
from moeopt.balancers.search import search
from moeopt.balancers.start import as_start
from moeopt.balancers.stepping.anneal import anneal
from moeopt.balancers.stepping.nearby import descend
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

_TRIALS, _FEWEST_TRIALS, _MOST_TRIALS = 2_000_000, 10_000, 50_000
"""Changes tried in a first annealing: the first by the number of slots, but between the other two."""

_SMALL = 24
"""Slots up to which a second, longer annealing belongs to the fixed effort."""

_HEAT_WITHIN = 0.15
"""Least first temperature within a limit of moves: to take a move back is a high hill."""

_NO_LIMIT = 2**40


def _not_stepped(problem: PlacementProblem) -> str:
    if problem.objective != "makespan":
        return "minimises what steps cost; with max_makespan the problem minimises moves"
    return broken_reference(problem)


@refuses(_not_stepped)
def scenario_search(
    problem: PlacementProblem, *, start: Placement | Any = None, budget: float | None = None, seed: int = 0
) -> Placement:
    """Exchange experts, and change replica counts, for the least sum over ``problem.steps`` of the fullest GPU.

    Each layer is annealed by swaps of two slots and by replacements (a copy of one expert takes the slot of
    another's), half of them on the GPU that is fullest in a step drawn at random. The temperature comes from the
    rise of swaps sampled at the start. Groups stay on the nodes where the start has them. Copies share evenly.

    With ``max_moves`` it begins at the reference: the best single change, a swap of two copies or a
    replacement, is enumerated, and another after it while moves are left, once by gain and once by gain per move;
    the better of both is annealed within the limit. So with ``max_moves=1`` and 2 no single swap or
    replacement is better than the answer.

    Never worse on these steps than the start. What that is worth on the steps that follow is another
    question, see ``docs/steps.md``. A problem without steps, or with one, is the problem of the sum, and
    ``search`` is asked.

    Parameters
    ----------
    start
        Placement (or ``[layers, slots]``) to begin from; that of ``local_search`` by default. With ``max_moves``
        the reference is tried beside it.
    budget
        Seconds for all layers together, used up unless every GPU of every step has the mean load, or fewer than
        two moves are allowed; None = a fixed number of trials, the same answer on every machine. A larger
        budget never gives a worse answer.
    seed
        Of the random draws, 0 to 2**31 - 1.

    Raises
    ------
    UnsupportedError
        If the problem minimises moves, or limits them from a reference that breaks its rules.
    InputError
        If an argument breaks its rule; PlacementError if ``start`` breaks the problem's.

    Notes
    -----
    A swap is tried in O(steps), a replacement in O(steps * gpus). The best change of all takes
    O(slots**2 * steps + slots * experts * gpus * steps). This is sample average approximation: A. Kleywegt,
    A. Shapiro, T. Homem-de-Mello, SIAM J. Optim. 12 (2002), doi 10.1137/S1052623499363220.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers, metrics
    >>> from moeopt.traces import Trace
    >>> trace = Trace([[[8, 0, 1, 1]], [[0, 8, 1, 1]]])
    >>> problem = PlacementProblem(trace, num_gpus=2)
    >>> metrics.step_makespans(trace.windows, balancers.scenario_search(problem)).tolist()
    [[8.0], [8.0]]
    """
    seconds, seed = _arguments.seconds("budget", budget, zero=True), _arguments.seed(seed)
    if problem.steps is None or len(problem.steps) == 1:
        return search(problem, start=start, budget=budget, seed=seed)
    deadline = math.inf if seconds is None else time.perf_counter() + seconds
    given = None if start is None else as_start(problem, start)
    first = given
    if problem.max_moves is not None:
        first = problem.reference
    elif first is None:
        first = local_search(problem)
    assert first is not None
    turns = None if seconds is not None else 2 if problem.slots <= _SMALL else 1
    return _annealed(problem, first, given, seed, deadline, turns)


def _annealed(
    problem: PlacementProblem,
    first: Placement,
    given: Placement | None,
    seed: int,
    deadline: float,
    turns: int | None,
) -> Placement:
    """Anneal ``first`` so many times, None = endless; where moves are limited, after descents or from ``given``."""
    held = _numbered(problem, first)
    reference = held.copy()
    cost = np.full(problem.num_layers, np.inf)
    least = problem.load.values.sum(axis=1) / problem.num_gpus * (1 + metrics.FLOAT_SLACK)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    rules = problem.num_gpus, per_node, problem.allow_colocated, problem.allow_empty_slots
    limit = _NO_LIMIT if problem.max_moves is None else problem.max_moves
    trials = min(max(_TRIALS // problem.slots, _FEWEST_TRIALS), _MOST_TRIALS)
    heat = _heat(problem)

    def descents(layer: int, stop: Flag) -> None:
        other = held[layer].copy()
        cost[layer] = descend(held[layer], _weight(problem, layer), *rules, limit, False, stop)
        if limit > 1 and descend(other, _weight(problem, layer), *rules, limit, True, stop) < cost[layer]:
            held[layer] = other

    def work(part: slice, stop: Flag) -> None:
        rows = np.arange(problem.num_layers)[part]
        if problem.max_moves is not None:
            for layer in rows:
                descents(layer, stop)
            if given is not None:
                now = _placement(problem, held)[rows]
                held[rows] = _numbered(problem, _cheaper(problem[rows], given[rows], now))
        if limit < 2:
            return  # all changes have been looked at
        for turn in count() if turns is None else range(turns):
            rows = rows[cost[rows] > least[rows]]
            if stop[0] or not rows.size:
                return
            for layer in rows:
                effort = limit, heat, trials * 2**turn, seed, turn, stop
                cost[layer] = anneal(held[layer], _weight(problem, layer), reference[layer], *rules, *effort)

    in_shares(work, problem.num_layers, held.size, deadline)
    return _placement(problem, held)


def _heat(problem: PlacementProblem) -> float:
    """First temperature, in mean rises of a swap, as measured on recordings of 8 to 256 experts and 4 to 256 steps.

    With many slots or steps heat only leads away from a good placement; a small layer is combed through.
    """
    assert problem.steps is not None
    least = 0.6 / len(problem.steps) if problem.max_moves is None else _HEAT_WITHIN
    return min(max(least, 0.3 * (20 / problem.slots) ** 4), 0.5)


def _weight(problem: PlacementProblem, layer: int) -> NDArray[np.float64]:
    """``[experts, steps]`` loads of a layer."""
    assert problem.steps is not None
    return np.ascontiguousarray(problem.steps[:, layer].T, dtype=float)


def _numbered(problem: PlacementProblem, placement: Placement) -> NDArray[np.int64]:
    """``[layers, slots]`` of a placement; the expert behind the last one is an empty slot."""
    return np.where(placement.phy2log < 0, problem.num_experts, placement.phy2log)


def _placement(problem: PlacementProblem, held: NDArray[np.int64]) -> Placement:
    return Placement(np.where(held == problem.num_experts, -1, held), problem.num_experts, problem.num_gpus)


def _cheaper(problem: PlacementProblem, a: Placement, b: Placement) -> Placement:
    """The placement that costs less over the steps, layer by layer; ``a`` where they cost the same."""
    first, second = (metrics.step_makespans(problem.steps, placement).sum(axis=0) for placement in (a, b))
    return Placement(np.where((second < first)[:, None], b.phy2log, a.phy2log), problem.num_experts, problem.num_gpus)
