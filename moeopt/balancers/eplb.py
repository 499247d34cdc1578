"""EPLB, DeepSeek's expert-parallel load balancer: greedy replication, then balanced packing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.balancers._reasons import packs_blindly
from moeopt.balancers.staged import staged_placement
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

_ID = np.uint64(0xFFFFFFFF)
"""The low half of a key: an item's or a pack's number."""

_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The key of a pack without room: after all others."""


@refuses(packs_blindly)
def eplb(problem: PlacementProblem) -> Placement:
    """DeepSeek's EPLB: global, or hierarchical where the problem has nodes and groups.

    Groups are packed onto nodes, redundant slots go greedily to the hottest replicas inside every
    node, replicas are packed onto GPUs. The arithmetic is float32 as in the original, so loads
    above 2**24 are rounded; equal loads keep the lower index first (the original leaves ties to
    an unstable sort).

    Packing is LPT with equal item counts; for a partition its makespan stays within
    ``4/3 - 1/(3m)`` of the optimum in every case ever searched, and reaches that ratio.
    O(layers * slots * (log slots + log GPUs)).

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised, or copies must not share a GPU and could.

    References
    ----------
    .. [1] DeepSeek-AI, "Expert Parallelism Load Balancer", https://github.com/deepseek-ai/EPLB
    .. [2] R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17
       (1969), doi 10.1137/0117039

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8)
    >>> balancers.eplb(problem).phy2log.tolist()
    [[0, 2, 3, 5, 0, 1, 1, 4]]
    """
    return greedy_placement(problem)


def greedy_placement(problem: PlacementProblem) -> Placement:
    """EPLB's placement, whether or not it keeps the rules of ``problem`` on colocation and moves."""
    return staged_placement(problem, problem.load.values.astype(np.float32), balanced_packing)


def balanced_packing(weight: NDArray[np.float32], num_packs: int) -> NDArray[np.int64]:
    """Pack items into packs of equal item count: heaviest first, into the lightest open pack.

    Parameters
    ----------
    weight
        ``[rows, items]`` float32 weights >= 0; ``items`` is a multiple of ``num_packs``.

    Returns
    -------
    ndarray
        ``[rows, items]`` slot of every item; pack ``p`` owns ``items/num_packs`` slots in a row,
        filled in the order of packing. One item per pack is the identity, as in the original.
        Equal weights keep the lower index first.
    """
    return pack_in_order(weight, num_packs, falling)


def pack_in_order(
    weight: NDArray[np.float32], num_packs: int, order: Callable[[NDArray[np.float32]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Do as ``balanced_packing`` does, with items in the order that ``order(weight)`` gives, ``[rows, items]``."""
    rows, items = weight.shape
    slot = np.empty((rows, items), dtype=np.int64)
    if items == num_packs:
        slot[:] = np.arange(items)
        return slot
    _pack(order(weight), weight, num_packs, slot)
    return slot


def falling(weight: NDArray[np.float32]) -> NDArray[np.int64]:
    """Items by falling weight, equal ones by rising index.

    The bits of non-negative floats rise with their values, so one vectorised sort of integers, the
    index as their low half, replaces a stable argsort.
    """
    bits = np.ascontiguousarray(weight).view(np.uint32).astype(np.uint64)
    keys = ((_ID - bits) << np.uint64(32)) | np.arange(weight.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys & _ID).astype(np.int64)


@kernel
def _pack(order, weight, num_packs, slot):  # type: ignore[no-untyped-def]
    """LPT into packs of equal count; the min-heap holds packs as integers, float bits above the id."""
    rows, items = order.shape
    per_pack = items // num_packs
    pack_weight = np.empty(num_packs, dtype=weight.dtype)
    bits = pack_weight.view(np.uint32)
    filled = np.empty(num_packs, dtype=np.int64)
    heap = np.empty(num_packs + 1, dtype=np.uint64)
    for row in range(rows):
        for i in range(num_packs):
            pack_weight[i], filled[i], heap[i] = 0.0, 0, i
        heap[num_packs] = _FULL
        for position in range(items):
            item = order[row, position]
            pack = np.int64(heap[0] & _ID)
            slot[row, item] = pack * per_pack + filled[pack]
            pack_weight[pack] += weight[row, item]
            filled[pack] += 1
            key = (np.uint64(bits[pack]) << np.uint64(32)) | np.uint64(pack)
            if filled[pack] == per_pack:
                key = _FULL
            root = 0
            while root < num_packs // 2:
                left = 2 * root + 1
                child = left + (heap[left + 1] < heap[left])
                if heap[child] >= key:
                    break
                heap[root] = heap[child]
                root = child
            heap[root] = key
