"""Greedy swap descent: exchange one replica of the fullest GPU for a better one elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from moeopt._kernel import copy_into, kernel
from moeopt._stop import stoppable
from moeopt.balancers._reasons import counts_no_moves
from moeopt.balancers.start import as_start, first_placement
from moeopt.balancers.swaps import descend, sum_loads
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

_UNLIMITED = 1 << 62
"""More swaps than any descent makes."""


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
    lexicographically, so it ends. O(slots * slots_per_gpu) per swap at most: GPUs are looked at from the
    lightest on, only as far as one may make a lighter pair.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2)
    >>> balancers.local_search(problem, start=[[0, 1, 2, 3, 4, 5]]).phy2log.tolist()
    [[3, 1, 2, 0, 4, 5]]
    """
    return descended(problem, first_placement(problem) if start is None else as_start(problem, start))


def descended(problem: PlacementProblem, start: Placement, deadline: float = math.inf) -> Placement:
    """Do as ``local_search`` does from a ``start`` that has been checked, until the ``deadline``."""
    slots = np.where(start.by_gpu < 0, problem.num_experts, start.by_gpu)
    size = problem.load.values / np.maximum(start.replica_count, 1)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    stoppable(lambda stop: _descend(slots, size, problem.allow_colocated, per_node, stop), deadline)
    slots = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(slots, problem.num_experts, problem.num_gpus)


@kernel
def _descend(all_slots, all_size, colocated, per_node, stop):  # type: ignore[no-untyped-def]
    """Descend every layer in place, node by node; the expert behind the last one is an empty slot."""
    layers, gpus, _ = all_slots.shape
    empty = all_size.shape[1]
    load = np.empty(per_node)
    size = np.zeros(empty + 1)
    for layer in range(layers):
        copy_into(all_size[layer], size)
        most = 0.0  # of the nodes so far: below it a node need not go
        for first in range(0, gpus, per_node):
            slots = all_slots[layer, first : first + per_node]
            sum_loads(slots, size, load)
            descend(slots, size, load, most, _UNLIMITED, colocated, stop)
            most = max(most, sum_loads(slots, size, load))
