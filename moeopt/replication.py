"""Replica counts: redundant slots are handed out one by one, by EPLB's greedy or another divisor method."""

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


def divisor_counts(weight: NDArray[np.float64], num_replicas: int, lean: float) -> NDArray[np.int64]:
    """Replica counts of one layer, ``[experts]``, by a divisor method between EPLB's greedy and its opposite.

    Parameters
    ----------
    weight
        ``[experts]`` loads.
    num_replicas
        Sum of the counts, at least ``experts``.
    lean
        The next copy goes to the largest ``load / (copies**(1 - lean) * (copies + 1)**lean)`` (ties: lowest id): 0
        = the hottest replica is split, as EPLB does; 1 = the copy goes where it is hottest afterwards; between
        them 0.5 is the method of Huntington and Hill.

    Notes
    -----
    All these counts are close to proportional. They differ for experts whose replicas are about as
    hot, which decides whether replicas fit together on GPUs of few slots. O(experts + redundant * log
    experts). E. V. Huntington, "The apportionment of representatives in Congress", Transactions of the
    American Mathematical Society 30 (1928), doi 10.1090/S0002-9947-1928-1501423-0.
    """
    counts = np.empty(len(weight), dtype=np.int64)
    divide(np.asarray(weight, dtype=np.float64), num_replicas, lean, counts)
    return counts


@kernel
def divide(weight, num_replicas, lean, counts):  # type: ignore[no-untyped-def]
    """Fill ``counts [experts]`` as ``divisor_counts`` does."""
    counts[:] = 1
    heat = weight * 0.5**lean
    heap = np.arange(weight.size)
    for root in range(weight.size // 2 - 1, -1, -1):
        sift_down(heap, heat, root)
    for _ in range(num_replicas - weight.size):
        expert = heap[0]
        counts[expert] += 1
        heat[expert] = weight[expert] / (counts[expert] ** (1.0 - lean) * (counts[expert] + 1.0) ** lean)
        sift_down(heap, heat, 0)


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
    copies, heat = np.empty(experts, dtype=weight.dtype), np.empty(experts, dtype=weight.dtype)
    heap = np.empty(experts, dtype=np.int64)
    for row in range(rows):
        for expert in range(experts):
            heat[expert], copies[expert] = weight[row, expert], 1
            heap[expert] = replicas[row, expert] = expert
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
