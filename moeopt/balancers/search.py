"""``search`` and ``quick_search``: the near-optimal balancer, by its stages' fixed number or for as long as wanted."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments as arguments
from moeopt._arrays import to_numpy
from moeopt.balancers._reasons import broken_reference
from moeopt.balancers.climbing import better, climbed
from moeopt.balancers.repair import repaired
from moeopt.balancers.start import as_start
from moeopt.errors import InputError, NoPlacementError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def _not_searched(problem: PlacementProblem) -> str:
    if problem.objective != "makespan":
        return "minimises the makespan; with max_makespan the problem minimises moves"
    return broken_reference(problem)


@refuses(_not_searched)
def search(
    problem: PlacementProblem,
    *,
    start: Placement | Any = None,
    budget: float | None = None,
    target: Any = None,
    seed: int = 0,
) -> Placement:
    """Exchange experts, and change replica counts, to bring every layer near its lower bound.

    Begins with the better one of ``local_search`` and ``bldm`` on every layer. Stages follow, each applied
    to the layers that are still above their target: swaps from the fullest GPU; dealing replicas to
    GPUs from scratch, each filled as close to a cap as random draws and two pointers find, with repair
    of a few GPUs at a time that gathers the slack; moving a copy from one expert to another. Layers of
    at most 128 slots with three to six per GPU are covered by sets of copies within a window of loads.
    Layers of 512 slots and more, four or more per GPU, are levelled instead of dealt: GPU after GPU is
    brought exactly to a cap by exchanges of subsets. With three slots on eight GPUs or more a walk over partial
    partitions takes the place of most deals, and with two slots per GPU and replicas the counts are
    annealed, as ``pairing`` does. With ``max_moves`` ``repair`` is asked instead. A stage never leaves a
    layer worse, and what it does depends on the layer, the stage and the seed only, so a larger budget
    never gives a worse answer; without ``start``, ``target`` and ``budget`` the answer is never worse than those of
    ``eplb``, ``bldm`` and, in layers of up to 8192 slots, ``local_search``.

    Parameters
    ----------
    start
        Placement (or ``[layers, slots]``) to improve. Problems with ``max_moves`` start from their reference,
        those with a ``target`` from EPLB's placement, dealt apart where copies may not share a GPU.
    budget
        Seconds for all layers together, used up unless every layer reaches its target; None = a fixed
        number of stages, the same answer on every machine.
    target
        Makespan at which a layer is done, a number or ``[layers]``; by default the best combinatorial
        lower bound plus 0.009 %.
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
    Swapping is O(slots) for a pair of GPUs, dealing O(slots**2) in all, levelling O(slots), covering a constant
    at most. Best fit under
    a cap with gathered slack follows bin-packing practice: A. Alvim, C. Ribeiro, F. Glover, D. Aloise,
    "A hybrid improvement heuristic for the one-dimensional bin packing problem", J. Heuristics 10
    (2004), doi 10.1023/B:HEUR.0000026267.44673.ed.

    Examples
    --------
    >>> from moeopt import PlacementProblem, Solution, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8)
    >>> Solution(problem, balancers.search(problem)).makespan.tolist()
    [11.0]
    """
    budget = arguments.seconds("budget", budget, zero=True)
    deadline = math.inf if budget is None else time.perf_counter() + budget
    return _improved(problem, start, target, seed, deadline, 1 if budget is None else None)


@refuses(_not_searched)
def quick_search(
    problem: PlacementProblem,
    *,
    start: Placement | Any = None,
    target: Any = None,
    seed: int = 0,
    rounds: int = 1,
    deadline: float = math.inf,
) -> Placement:
    """Run the stages that ``search`` runs without a budget, or more of them, cut off at a deadline.

    Parameters
    ----------
    start, target, seed
        As in ``search``.
    rounds
        How many times as many stages.
    deadline
        Value of ``time.perf_counter()``, in seconds, at which the best so far is returned; without one the
        answer depends on the other arguments alone.

    Raises
    ------
    UnsupportedError, InputError, PlacementError
        As ``search``.

    Examples
    --------
    >>> from moeopt import PlacementProblem, Solution, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8)
    >>> Solution(problem, balancers.quick_search(problem, rounds=2)).makespan.tolist()
    [11.0]
    """
    if deadline != math.inf:
        deadline = arguments.real("deadline", deadline)
    return _improved(problem, start, target, seed, deadline, arguments.integer("rounds", rounds, 1))


def _improved(
    problem: PlacementProblem, start: Any, target: Any, seed: int, deadline: float, rounds: int | None
) -> Placement:
    seed = arguments.seed(seed)
    goal = None if target is None else _target(problem, target)
    first = None if start is None else as_start(problem, start)
    if problem.max_moves is None:
        return climbed(problem, first, goal, seed, deadline, rounds)
    left = None if rounds is not None or math.isinf(deadline) else max(deadline - time.perf_counter(), 0.0)
    found, kept = repaired(problem, budget=left, seed=seed, deadline=deadline)
    if not kept.all() and first is None:
        raise NoPlacementError(f"search found no placement within max_moves={problem.max_moves} for some layers")
    return found if first is None else better(problem, first, found, kept)


def _target(problem: PlacementProblem, target: Any) -> NDArray[np.float64]:
    values = to_numpy("target", target).astype(float)
    if values.ndim > 1 or values.size not in (1, problem.num_layers):
        raise InputError(f"target must be a number or [{problem.num_layers}], got shape {values.shape}")
    if np.isnan(values).any():
        raise InputError(f"target must hold numbers, got {arguments.shown(target)}")
    return np.broadcast_to(values, (problem.num_layers,)).copy()
