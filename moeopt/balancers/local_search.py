"""Greedy swap descent: exchange one replica of the fullest GPU for a better one elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import raised, stoppable
from moeopt.balancers._reasons import counts_no_moves
from moeopt.balancers.start import as_start, first_placement
from moeopt.balancers.swaps import best_swap, sum_loads
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(counts_no_moves)
def local_search(problem: PlacementProblem, *, start: Placement | Any = None) -> Placement:
    """Swap replicas between the fullest GPU and another one for as long as that helps.

    Every step takes the swap that lowers the larger of the two GPU loads most; an empty slot
    swaps like a replica without load. Replica counts stay as they are. Never worse than the start.

    Parameters
    ----------
    start
        Where to begin (Placement or ``[layers, slots]``): EPLB's placement, dealt apart where copies may not
        share a GPU.

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised: ``repair`` does that.
    InputError
        If ``start`` is no placement; PlacementError if it breaks the problem.

    Notes
    -----
    Stops when the fullest GPU cannot be improved by one swap; the sorted GPU loads fall
    lexicographically, so it ends. O(slots * slots_per_gpu) a swap.
    """
    first = first_placement(problem) if start is None else as_start(problem, start)
    slots = np.where(first.by_gpu < 0, problem.num_experts, first.by_gpu)
    size = problem.load.values / np.maximum(first.replica_count, 1)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    stoppable(lambda stop: _descend(slots, size, problem.allow_colocated, per_node, stop))
    slots = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(slots, problem.num_experts, problem.num_gpus)


@kernel
def _descend(all_slots, all_size, colocated, per_node, stop):  # type: ignore[no-untyped-def]
    """Descend every layer in place, inside the nodes; the expert behind the last one is an empty slot."""
    layers, gpus, k = all_slots.shape
    empty = all_size.shape[1]
    load = np.empty(gpus)
    size = np.zeros(empty + 1)
    for layer in range(layers):
        slots = all_slots[layer]
        size[:empty] = all_size[layer]
        sum_loads(slots, size, load)
        while not raised(stop):
            f = np.argmax(load)
            first = f // per_node * per_node
            partner, here, there = best_swap(slots, size, load, f, first, first + per_node, colocated)
            if partner < 0:
                break
            slots[f, here], slots[partner, there] = slots[partner, there], slots[f, here]
            load[f] = load[partner] = 0.0
            for t in range(k):
                load[f] += size[slots[f, t]]
                load[partner] += size[slots[partner, t]]
