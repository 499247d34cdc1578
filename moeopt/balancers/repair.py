"""Repair: from the placement in force to balance with the fewest moves."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, bounds, metrics
from moeopt.balancers.climbing import climbed, near_bound
from moeopt.balancers.relabel import relabel
from moeopt.balancers.repairing.best import Best, Floats, sound_layers
from moeopt.balancers.repairing.rows import HOT, NO_LIMIT, anneal_rows, repair_rows, rows_of
from moeopt.balancers.repairing.within import anneal_within, bisect, limited_descent
from moeopt.balancers.start import as_start
from moeopt.errors import NoPlacementError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

_FEW_SLOTS = 2
"""Slots per GPU up to which going backwards wins: with so few, forwards gets stuck."""

_SMALL = 64
"""Slots up to which annealing is cheap enough to belong to the fixed effort."""

_SMALL_STEPS = 30_000
"""Steps of an annealing that belongs to it."""

_SMALL_HOT = (0.3, 0.03, HOT)
"""First temperatures of these, in mean GPU loads: where a GPU holds few copies one of them is a high hill."""

_STEPS = 200_000
"""Steps of a row's annealing, some 50 ms; while there is time another one follows."""


def _reason(problem: PlacementProblem) -> str:
    if problem.max_moves is None and problem.max_makespan is None:
        return "mends a reference within limits: it needs max_makespan or max_moves"
    return ""


@refuses(_reason)
def repair(
    problem: PlacementProblem, *, start: Placement | Any = None, budget: float | None = None, seed: int = 0
) -> Placement:
    """Mend the reference: with ``max_makespan`` by the fewest moves, with ``max_moves`` to the least makespan.

    Forwards from the reference, the move that removes most excess over the ceiling per move comes next: a
    swap, or a replacement (a copy of one expert takes the slot of another's: one move, and the loads of all
    holders of both follow). Under the ceiling, copies go home again by cyclic exchanges of a few GPUs.
    Backwards from a near-optimum, relabelled, all copies that can go home under the ceiling do; this is
    done for layers that forwards does not bring under the ceiling, and with two slots per GPU. With
    ``max_moves`` a ceiling is sought that they suffice for, every one starting from the reference again.
    Where groups bind experts to nodes, every node is a problem of its own under the layer's ceiling, and
    groups are dealt to other nodes only if the ceiling cannot be kept otherwise, or for fewer moves.

    Parameters
    ----------
    start
        The near-optimum (Placement or ``[layers, slots]``) to go backwards from; that of ``search`` by default.
    budget
        Seconds for all layers together that annealing may use beyond the fixed effort; None = none,
        the same answer on every machine. More never gives a worse answer.
    seed
        Of the random draws, 0 to 2**31 - 1.

    Raises
    ------
    UnsupportedError
        If the problem limits neither makespan nor moves.
    NoPlacementError
        If no placement was found that keeps the limit; names the layers and how near they came.
    InputError
        For a budget that is not a number >= 0 or a bad seed.
    PlacementError
        If ``start`` breaks the problem's rules.

    Notes
    -----
    O(slots * (slots_per_gpu + log slots)) a move. The same moves for scaled loads and ceilings.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, 3]], max_moves=2)
    >>> balancers.repair(problem).phy2log.tolist()
    [[2, 1, 0, 3]]
    """
    placement, reached = repaired(problem, start=start, budget=budget, seed=seed)
    if not reached.all():
        raise NoPlacementError(_shortfall(problem, placement, np.flatnonzero(~reached)))
    return placement


@refuses(_reason)
def repaired(
    problem: PlacementProblem,
    *,
    start: Placement | Any = None,
    budget: float | None = None,
    seed: int = 0,
    deadline: float = math.inf,
) -> tuple[Placement, NDArray[np.bool_]]:
    """As :func:`repair`, for callers that go on where the limit is not kept.

    Parameters
    ----------
    start, budget, seed
        As in ``repair``.
    deadline
        Value of ``time.perf_counter()``, in seconds, at which the best so far is returned, whatever was left to do.

    Returns
    -------
    placement, reached
        The best placement found of every layer, and ``[layers]`` whether it keeps ``max_makespan`` or
        ``max_moves``; where it does not, it has the lowest makespan, or the fewest moves, found.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, 3]], max_makespan=9)
    >>> placement, reached = balancers.repaired(problem)
    >>> reached.tolist()  # half of the load is 10
    [False]
    """
    seconds, seed = _arguments.seconds("budget", budget, zero=True), _arguments.seed(seed)
    until = None if seconds is None else time.perf_counter() + seconds
    free = replace(problem, max_makespan=None, max_moves=None)
    near = None if start is None else as_start(free, start)
    assert problem.reference is not None
    sound = sound_layers(free, problem.reference)
    best = Best(problem, deadline)
    _forwards(best, np.flatnonzero(sound))
    back = np.flatnonzero(_hopeful(best) | (problem.slots_per_gpu <= _FEW_SLOTS))
    if len(back) and problem.slots > 1 and not best.late:
        _backwards(best, back, free, near, seed)
    if problem.slots <= _SMALL:
        for hot in _SMALL_HOT:
            _anneal(best, _SMALL_STEPS, seed, None, hot)
    if until is not None:
        _anneal(best, _STEPS, seed, min(until, deadline))
    return best.placement(), best.reached


def bring_home(problem: PlacementProblem, start: Placement, ceiling: Floats, deadline: float = math.inf) -> Placement:
    """Bring copies of ``start`` home to ``problem.reference`` while every GPU stays within ``ceiling [layers]``.

    By cyclic exchanges of a few GPUs that save moves in all, and by giving a slot back to the expert that
    the reference has there. Inside the nodes, where groups bind experts to them. Layers of ``start`` that
    are above the ceiling stay as they are. O(slots * log slots) a copy and round.
    """
    rows = rows_of(problem, start, deadline)
    held, _ = repair_rows(rows, rows.held(start), np.repeat(ceiling, rows.per_layer), forwards=False)
    return rows.placement(held)


def _forwards(best: Best, layers: NDArray[np.intp]) -> None:
    """From the reference, where it keeps the rules."""
    if not len(layers):
        return
    problem = best.problem[layers]
    assert problem.reference is not None
    rows = rows_of(problem, problem.reference, best.deadline)
    held = rows.held(problem.reference)

    def at(some: NDArray[np.intp], ceiling: Floats) -> Placement:
        limit = NO_LIMIT if problem.max_moves is None else problem.max_moves
        return rows.placement(repair_rows(rows, held, np.repeat(ceiling, rows.per_layer), limit=limit)[0])

    if problem.max_makespan is not None:
        best.offer(layers, at(layers, _padded(problem.max_makespan)))
    else:
        best.offer(layers, problem.reference)
        limited_descent(best, layers)
        bisect(best, layers, at)


def _hopeful(best: Best) -> NDArray[np.bool_]:
    """``[layers]`` where going backwards may win: the limit is not kept, or moving groups may cost less."""
    problem = best.problem
    if not problem.hierarchical:
        return ~best.reached
    # two groups that change places are all arrivals
    price = 2 * problem.num_experts // problem.num_groups
    affordable = best.moves > price if problem.max_moves is None else problem.max_moves >= price
    return ~best.reached | affordable


def _backwards(best: Best, layers: NDArray[np.intp], free: PlacementProblem, near: Placement | None, seed: int) -> None:
    """From a relabelled near-optimum."""
    problem, free = best.problem[layers], free[layers]
    start = climbed(free, None, near_bound(free), seed, best.deadline, 1) if near is None else near[layers]
    start = relabel(free, start=start)
    if problem.max_makespan is not None:
        best.offer(layers, bring_home(problem, start, _padded(problem.max_makespan), best.deadline))
    else:
        most = np.full(len(layers), np.inf)
        best.offer(layers, bring_home(problem, start, most, best.deadline))
        bisect(best, layers, lambda some, ceiling: bring_home(problem, start, ceiling, best.deadline))


def _anneal(best: Best, steps: int, seed: int, deadline: float | None, hot: float = HOT) -> None:
    """Anneal once with so many steps, or until the clock says ``deadline`` again and again."""
    problem = best.problem
    needed = bounds.lower_bound(problem).value
    for turn in count() if deadline is not None else range(1):
        if deadline is not None and time.perf_counter() >= deadline:
            return
        value = best.moves if problem.max_makespan is not None else best.makespan
        layers = np.flatnonzero((~best.reached | ~(value <= needed)) & np.isfinite(best.makespan))
        if not len(layers):
            return
        part = problem[layers]
        if part.max_makespan is None:
            anneal_within(best, layers, steps, seed, deadline, hot)
            return
        rows = rows_of(part, best.placement()[layers], best.deadline)
        ceiling = np.repeat(_padded(part.max_makespan), rows.per_layer)
        held, moves = repair_rows(rows, rows.held(best.placement()[layers]), ceiling, forwards=False)
        moves[np.repeat(~best.reached[layers], rows.per_layer)] = NO_LIMIT
        anneal_rows(rows, held, moves, ceiling, steps, seed + turn, deadline, hot)
        best.offer(layers, rows.placement(held))


def _padded(ceiling: Floats) -> Floats:
    """The ceiling with room for the rounding that ``problem.check`` forgives."""
    return ceiling * (1 + metrics.FLOAT_SLACK / 2)


def _shortfall(problem: PlacementProblem, placement: Placement, layers: NDArray[np.intp]) -> str:
    names = ", ".join(str(problem.load.layer_ids[layer]) for layer in layers[:10])
    names += ", .." if len(layers) > 10 else ""
    part, found = problem[layers], placement[layers]
    assert part.reference is not None
    if (found.phy2log < 0).all():
        return f"repair knows no feasible placement of layers {names}"
    if part.max_makespan is None:
        fewest = metrics.moves(part.reference, found).max()
        return (
            f"repair found no placement within max_moves={part.max_moves} for layers {names}; the worst takes {fewest}"
        )
    makespan = metrics.makespan(metrics.gpu_load(part.load, found))
    with np.errstate(divide="ignore"):
        above = (makespan / part.max_makespan).max() - 1
    return f"repair found no placement within max_makespan for layers {names}; the worst is {above:.3%} above it"
