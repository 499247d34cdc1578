"""Swaps on one row of a placement: ``slots [gpus, k]`` of experts whose copies weigh ``size``.

An empty slot holds the expert behind the last one, of size 0. All loads are float64 sums that are
recomputed wherever they decide what is kept.
"""

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import raised

# Keeps the work of a stage linear where there are thousands of GPUs; far above what a recorded layer needs.
_MOST_SWAP_TRIALS = 10_000_000


@kernel
def sum_loads(slots, size, load):  # type: ignore[no-untyped-def]
    """Fill ``load [gpus]`` and return its maximum."""
    most = 0.0
    for g in range(slots.shape[0]):
        total = 0.0
        for t in range(slots.shape[1]):
            total += size[slots[g, t]]
        load[g] = total
        most = max(most, total)
    return most


@kernel
def holds(row, expert):  # type: ignore[no-untyped-def]
    """Whether ``expert`` is in ``row``."""
    found = False
    for other in row:
        found = found or other == expert
    return found


@kernel
def distinct(rows, empty):  # type: ignore[no-untyped-def]
    """Whether no GPU holds an expert twice."""
    for row in rows:
        for t in range(1, row.size):
            if row[t] != empty and holds(row[:t], row[t]):
                return False
    return True


@kernel
def may_swap(slots, f, i, h, j, empty, colocated):  # type: ignore[no-untyped-def]
    """Whether the swap puts no second copy of an expert on a GPU, or that is allowed."""
    a, b = slots[f, i], slots[h, j]
    return colocated or ((a == empty or not holds(slots[h], a)) and (b == empty or not holds(slots[f], b)))


@kernel
def best_swap(slots, size, load, f, first, last, colocated):  # type: ignore[no-untyped-def]
    """GPU among ``first`` to ``last - 1`` and slots whose swap with GPU ``f`` leaves the lighter pair; -1 = none."""
    k = slots.shape[1]
    empty = size.size - 1
    best = load[f] * (1 - 1e-12)
    partner = here = there = -1
    for h in range(first, last):
        if (load[f] + load[h]) / 2 >= best:
            continue
        for i in range(k):
            most = size[slots[f, i]]
            for j in range(k):
                give = most - size[slots[h, j]]
                after = max(load[f] - give, load[h] + give)
                if give > 0 and after < best and may_swap(slots, f, i, h, j, empty, colocated):
                    best, partner, here, there = after, h, i, j
    return partner, here, there


@kernel
def descend(slots, size, load, target, colocated, stop):  # type: ignore[no-untyped-def]
    """Swap the fullest GPU down, each time with the GPU and slot that leave the lighter pair."""
    gpus, k = slots.shape
    for _ in range(max(100, _MOST_SWAP_TRIALS // (gpus * k * k))):
        f = np.argmax(load)
        if load[f] <= target or raised(stop):
            return
        partner, here, there = best_swap(slots, size, load, f, 0, gpus, colocated)
        if partner < 0:
            return
        give = size[slots[f, here]] - size[slots[partner, there]]
        load[f] -= give
        load[partner] += give
        slots[f, here], slots[partner, there] = slots[partner, there], slots[f, here]
