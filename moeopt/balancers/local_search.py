"""Greedy swap descent: exchange one replica of the fullest GPU for a better one elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import Stop, raised, stoppable
from moeopt.balancers._reasons import broken_reference
from moeopt.balancers.start import as_start, first_placement
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
    phy2log = first.phy2log.copy()
    share = problem.load.values / np.maximum(first.replica_count, 1)
    node = problem.node_of_gpu if problem.hierarchical else np.zeros(problem.num_gpus, dtype=np.intp)
    limit, home = -1, np.zeros((0, 0, 0), dtype=np.int64)
    if problem.max_moves is not None:
        assert problem.reference is not None
        limit, home = problem.max_moves, problem.reference.copies
    ceiling = np.zeros(problem.num_layers) if problem.max_makespan is None else problem.max_makespan

    def work(stop: Stop) -> None:
        _descend(phy2log, share, node, problem.allow_colocated, home, limit, ceiling, stop)

    stoppable(work)
    found = Placement(phy2log, problem.num_experts, problem.num_gpus)
    if problem.max_makespan is not None:
        try:
            problem.check(found)
        except PlacementError as error:
            raise NoPlacementError(f"local_search ends above the ceiling: {error}") from None
    return found


@kernel
def _descend(phy2log, share, node, colocated, home, max_moves, ceiling, stop):  # type: ignore[no-untyped-def]
    """Improve every layer in place; ``max_moves`` -1 = unlimited."""
    layers, slots = phy2log.shape
    gpus = node.size
    size = slots // gpus
    experts = share.shape[1]
    for layer in range(layers):
        copies = np.zeros((gpus, experts), dtype=np.int64)
        weight = np.zeros(slots)
        total = np.zeros(gpus)
        for slot in range(slots):
            expert = phy2log[layer, slot]
            if expert >= 0:
                weight[slot] = share[layer, expert]
                copies[slot // size, expert] += 1
                total[slot // size] += weight[slot]
        moves = 0
        if max_moves >= 0:
            for gpu in range(gpus):
                for expert in range(experts):
                    moves += max(copies[gpu, expert] - home[layer, gpu, expert], 0)
        while not raised(stop):
            full = np.argmax(total)
            if total[full] <= ceiling[layer]:
                break
            best, best_out, best_in, best_cost = total[full] * (1 - 1e-12), -1, -1, 0
            for gpu in range(gpus):
                if gpu == full or node[gpu] != node[full] or total[gpu] >= best:
                    continue
                for out in range(full * size, (full + 1) * size):
                    for into in range(gpu * size, (gpu + 1) * size):
                        shift = weight[out] - weight[into]
                        if shift <= 0 or max(total[full] - shift, total[gpu] + shift) >= best:
                            continue
                        a, b = phy2log[layer, out], phy2log[layer, into]
                        if not colocated and (copies[gpu, a] > 0 or (b >= 0 and copies[full, b] > 0)):
                            continue
                        cost = 0
                        if max_moves >= 0:
                            cost = _move_cost(copies, home[layer], a, full, gpu)
                            if b >= 0:
                                cost += _move_cost(copies, home[layer], b, gpu, full)
                            if moves + cost > max_moves:
                                continue
                        best, best_out, best_in = max(total[full] - shift, total[gpu] + shift), out, into
                        best_cost = cost
            if best_out < 0:
                break
            gpu = best_in // size
            a, b = phy2log[layer, best_out], phy2log[layer, best_in]
            phy2log[layer, best_out], phy2log[layer, best_in] = b, a
            weight[best_out], weight[best_in] = weight[best_in], weight[best_out]
            copies[full, a] -= 1
            copies[gpu, a] += 1
            if b >= 0:
                copies[gpu, b] -= 1
                copies[full, b] += 1
            moves += best_cost
            total[full] = weight[full * size : (full + 1) * size].sum()
            total[gpu] = weight[gpu * size : (gpu + 1) * size].sum()


@kernel
def _move_cost(copies, home, expert, source, target):  # type: ignore[no-untyped-def]
    """Change in moves when one copy of ``expert`` goes from ``source`` to ``target``."""
    arrives = 1 if copies[target, expert] >= home[target, expert] else 0
    leaves = 1 if copies[source, expert] > home[source, expert] else 0
    return arrives - leaves
