"""Greedy swap descent: exchange one replica of the fullest GPU for a better one elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt._stop import Flag, raised, stoppable
from moeopt.balancers._reasons import broken_reference
from moeopt.balancers.start import as_start, first_placement
from moeopt.balancers.swaps import may_swap, sum_loads
from moeopt.errors import NoPlacementError, PlacementError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(broken_reference)
def local_search(problem: PlacementProblem, *, start: Placement | Any = None) -> Placement:
    """Swap replicas between the fullest GPU and another one for as long as that helps.

    Every step takes the swap that lowers the larger of the two GPU loads most; an empty slot
    swaps like a replica without load. Replica counts stay as they are. Never worse than the start.

    Parameters
    ----------
    start
        Where to begin (Placement or ``[layers, slots]``): EPLB's placement, dealt apart where copies may not
        share a GPU, or the reference where moves are limited or minimised. Moves beyond ``max_moves``
        are not made; with ``max_makespan`` the descent stops as soon as the ceiling is kept, so that
        few copies move.

    Raises
    ------
    UnsupportedError
        If moves matter and the reference has another number of slots than the problem, or breaks its rules.
    InputError
        If ``start`` is no placement; PlacementError if it breaks the problem.
    NoPlacementError
        If the descent ends above the ceiling ``max_makespan``.

    Notes
    -----
    Stops when the fullest GPU cannot be improved by one swap; the sorted GPU loads fall
    lexicographically, so it ends. O(slots * slots_per_gpu) a swap.
    """
    first = first_placement(problem) if start is None else as_start(problem, start)
    ceiling = np.zeros(problem.num_layers) if problem.max_makespan is None else problem.max_makespan
    found = stoppable(lambda stop: descent(problem, first, ceiling, stop))
    if problem.max_makespan is not None:
        try:
            problem.check(found)
        except PlacementError as error:
            raise NoPlacementError(f"local_search ends above the ceiling: {error}") from None
    return found


def descent(problem: PlacementProblem, start: Placement, target: NDArray[np.float64], stop: Flag) -> Placement:
    """Swap the fullest GPU of every layer down to its target, or as far as swaps and ``max_moves`` allow.

    Each step takes the swap (inside the node where there are nodes) that leaves the lighter pair and
    keeps the limit; swapping an expert back home gives moves back.
    """
    slots = np.where(start.by_gpu < 0, problem.num_experts, start.by_gpu)
    home, limit = slots, -1
    if problem.max_moves is not None:
        assert problem.reference is not None
        home, limit = problem.reference.by_gpu, problem.max_moves
        home = np.where(home < 0, problem.num_experts, home)
    size = problem.load.values / np.maximum(start.replica_count, 1)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    _descend(slots, size, home, target, limit, problem.allow_colocated, per_node, stop)
    slots = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(slots, problem.num_experts, problem.num_gpus)


@kernel
def _descend(all_slots, all_size, all_home, target, max_moves, colocated, per_node, stop):  # type: ignore[no-untyped-def]
    """Descend every layer in place; ``max_moves`` -1 = unlimited, the expert behind the last one is an empty slot."""
    layers, gpus, k = all_slots.shape
    empty = all_size.shape[1]
    limited = max_moves >= 0
    load = np.empty(gpus)
    size = np.zeros(empty + 1)
    for layer in range(layers):
        slots, home = all_slots[layer], all_home[layer]
        size[:empty] = all_size[layer]
        sum_loads(slots, size, load)
        left = max_moves
        if limited:
            for g in range(gpus):
                left -= _moves(slots[g], home[g], empty)
        while not raised(stop):
            f = np.argmax(load)
            if load[f] <= target[layer]:
                break
            best = load[f] * (1 - 1e-12)
            partner = here = there = -1
            spent = 0
            for h in range(f // per_node * per_node, (f // per_node + 1) * per_node):
                if (load[f] + load[h]) / 2 >= best:
                    continue
                for i in range(k):
                    a = slots[f, i]
                    for j in range(k):
                        b = slots[h, j]
                        give = size[a] - size[b]
                        after = max(load[f] - give, load[h] + give)
                        if give <= 0 or after >= best or not may_swap(slots, f, i, h, j, empty, colocated):
                            continue
                        cost = 0
                        if limited:
                            cost += int(_surplus(slots[h], home[h], a) >= 0) - int(_surplus(slots[f], home[f], a) > 0)
                        if limited and b != empty:
                            cost += int(_surplus(slots[f], home[f], b) >= 0) - int(_surplus(slots[h], home[h], b) > 0)
                        if not limited or cost <= left:
                            best, partner, here, there, spent = after, h, i, j, cost
            if partner < 0:
                break
            left -= spent
            slots[f, here], slots[partner, there] = slots[partner, there], slots[f, here]
            load[f] = load[partner] = 0.0
            for t in range(k):
                load[f] += size[slots[f, t]]
                load[partner] += size[slots[partner, t]]


@kernel
def _surplus(slots, home, expert):  # type: ignore[no-untyped-def]
    """Copies of ``expert`` on a GPU beyond those it has at home there: if above 0, the last one is a move."""
    surplus = 0
    for other in slots:
        surplus += int(other == expert)
    for other in home:
        surplus -= int(other == expert)
    return surplus


@kernel
def _moves(slots, home, empty):  # type: ignore[no-untyped-def]
    """Copies on a GPU that are not at home there."""
    moves = 0
    for t in range(slots.size):
        if slots[t] != empty:
            moves += int(_surplus(slots[: t + 1], home, slots[t]) > 0)
    return moves
