"""EPLB's greedy: hand redundant slots, one by one, to the expert whose replicas are hottest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel


def replicate(weight: NDArray[Any], num_replicas: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Choose the expert of every replica so that the largest replica load is least.

    Parameters
    ----------
    weight
        ``[rows, experts]`` loads, float32 or float64; the arithmetic stays in that type.
    num_replicas
        Replicas per row, at least ``experts``.

    Returns
    -------
    expert, share
        ``[rows, num_replicas]`` expert of every replica (first one copy of each in order, then
        the extra copies in the order in which they were granted), and the load it carries.

    Notes
    -----
    Giving the next copy to the expert with the largest load per copy (ties: lowest id) minimises
    the largest replica load: an optimal plan must split that expert as often, or keep a replica
    at least as hot. O(rows * (experts + redundant * log experts)). Step 2 of DeepSeek's EPLB,
    https://github.com/deepseek-ai/EPLB.
    """
    expert = np.empty((weight.shape[0], num_replicas), dtype=np.int64)
    share = np.empty(expert.shape, dtype=weight.dtype)
    _replicate(np.ascontiguousarray(weight), expert, share)
    return expert, share


@kernel
def _hotter(heat, a, b):  # type: ignore[no-untyped-def]
    """Whether expert ``a`` comes before ``b`` in the heap: hotter, or as hot with a lower id."""
    return heat[a] > heat[b] or (heat[a] == heat[b] and a < b)


@kernel
def sift_down(heap, heat, root):  # type: ignore[no-untyped-def]
    """Restore the heap below ``root``."""
    size = heap.size
    item = heap[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        if child + 1 < size and _hotter(heat, heap[child + 1], heap[child]):
            child += 1
        if not _hotter(heat, heap[child], item):
            break
        heap[root] = heap[child]
        root = child
    heap[root] = item


@kernel
def _replicate(weight, replicas, share):  # type: ignore[no-untyped-def]
    """Fill ``replicas`` and ``share`` row by row with a max-heap of load per copy."""
    rows, experts = weight.shape
    copies = np.empty(experts, dtype=weight.dtype)
    heap = np.empty(experts, dtype=np.int64)
    for row in range(rows):
        heat = weight[row].copy()
        copies[:] = 1
        for expert in range(experts):
            heap[expert] = expert
            replicas[row, expert] = expert
        if replicas.shape[1] > experts:
            for root in range(experts // 2 - 1, -1, -1):
                sift_down(heap, heat, root)
        for replica in range(experts, replicas.shape[1]):
            expert = heap[0]
            replicas[row, replica] = expert
            copies[expert] += 1
            heat[expert] = weight[row, expert] / copies[expert]
            sift_down(heap, heat, 0)
        for replica in range(replicas.shape[1]):
            share[row, replica] = heat[replicas[row, replica]]
