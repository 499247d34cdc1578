"""BLDM, the balanced largest differencing method, for packs of equal item count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import copy_into, kernel
from moeopt._sorting import rising_order
from moeopt.balancers._reasons import packs_blindly
from moeopt.balancers.staged import staged_placement
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.replication import sift_down


@refuses(packs_blindly)
def bldm(problem: PlacementProblem) -> Placement:
    """Greedy replication, then packing by balanced largest differencing.

    Takes whatever LoadMatrix takes, torch tensors included: there is one implementation. With
    nodes and groups the groups are packed onto nodes by the same method first.

    For ``k`` items per pack the makespan of a partition is within 4/3, 19/12, 103/60, 643/360,
    4603/2520 of the optimum for ``k = 3..7``, and within ``2 - 1/m`` for ``m`` packs [1]_.
    O(layers * slots * (log slots + log GPUs)).

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised, or copies must not share a GPU and could.

    References
    ----------
    .. [1] W. Michiels, J. Korst, E. Aarts, J. van Leeuwen, "Performance ratios for the
       differencing method applied to the balanced number partitioning problem", STACS 2003,
       doi 10.1007/3-540-36494-3_51

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8)
    >>> balancers.bldm(problem).phy2log.tolist()
    [[2, 3, 0, 5, 1, 1, 0, 4]]
    """
    return staged_placement(problem, problem.load.values.astype(np.float64), balanced_differencing)


def balanced_differencing(weight: NDArray[Any], num_packs: int) -> NDArray[np.int64]:
    """Pack items into packs of equal item count by balanced largest differencing.

    Sort, cut into partial solutions of one item per pack, and merge the two whose largest and
    smallest packs differ most, largest pack with smallest, until one is left. Ties: lower index.

    Parameters
    ----------
    weight
        ``[rows, items]`` weights >= 0; ``items`` is a multiple of ``num_packs``.

    Returns
    -------
    ndarray
        ``[rows, items]`` slot of every item; pack ``p`` owns ``items/num_packs`` slots in a row.
        One item per pack is the identity.
    """
    rows, items = weight.shape
    slot = np.empty((rows, items), dtype=np.int64)
    if items == num_packs:
        slot[:] = np.arange(items)
        return slot
    falling = np.argsort(-weight, axis=1, kind="stable")
    _difference(np.ascontiguousarray(weight), falling, num_packs, slot)
    return slot


@kernel
def _sort_packs(total, order):  # type: ignore[no-untyped-def]
    """Sort ``order`` (pack ids of one partial solution) by falling ``total``, stable."""
    lightness, packs = np.empty(order.size), np.empty(order.size, dtype=order.dtype)
    for i in range(order.size):
        lightness[i], packs[i] = -total[order[i]], order[i]
    rising = rising_order(lightness)
    for i in range(order.size):
        order[i] = packs[rising[i]]


@kernel
def _difference(weight, falling, num_packs, slot):  # type: ignore[no-untyped-def]
    """Merge partial solutions; items of a pack are linked lists threaded through ``following``.

    Pack ids are positions in the sorted item list, so partial solution ``p`` starts with the
    packs ``[p*num_packs, (p+1)*num_packs)`` and keeps its own slice of ``order``.
    """
    rows, items = weight.shape
    per_pack = items // num_packs
    total = np.empty(items, dtype=weight.dtype)
    last = np.empty(items, dtype=np.int64)
    following = np.empty(items, dtype=np.int64)
    spread = np.empty(per_pack, dtype=weight.dtype)
    for row in range(rows):
        for pack in range(items):
            total[pack] = weight[row, falling[row, pack]]
            last[pack] = pack
            following[pack] = -1
        order = np.arange(items).reshape(per_pack, num_packs)
        for part in range(per_pack):
            spread[part] = total[order[part, 0]] - total[order[part, num_packs - 1]]
        heap = np.arange(per_pack)
        for root in range(per_pack // 2 - 1, -1, -1):
            sift_down(heap, spread, root)
        for size in range(per_pack - 1, 0, -1):
            widest = heap[0]
            heap[0] = heap[size]
            sift_down(heap[:size], spread, 0)
            other = heap[0]
            for i in range(num_packs):
                large, small = order[widest, i], order[other, num_packs - 1 - i]
                total[large] += total[small]
                following[last[large]] = small
                last[large] = last[small]
            copy_into(order[widest], order[other])
            _sort_packs(total, order[other])
            spread[other] = total[order[other, 0]] - total[order[other, num_packs - 1]]
            sift_down(heap[:size], spread, 0)
        for pack in range(num_packs):
            item = order[heap[0], pack]
            for position in range(per_pack):
                slot[row, falling[row, item]] = pack * per_pack + position
                item = following[item]
