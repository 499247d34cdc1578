"""Swaps on one row of a placement: ``slots [gpus, k]`` of experts whose copies weigh ``size``.

An empty slot holds the expert behind the last one, of size 0. All loads are float64 sums that are
recomputed wherever they decide what is kept.
"""

import numpy as np

from moeopt._kernel import kernel
from moeopt._sorting import rising_order
from moeopt._stop import raised


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
def best_swap(slots, size, load, rising, colocated):  # type: ignore[no-untyped-def]
    """Swap with the fullest GPU that leaves the lighter pair: place in ``rising`` (GPUs by load), slots; -1 = none."""
    gpus, k = slots.shape
    empty = size.size - 1
    f = rising[gpus - 1]
    best = load[f] * (1 - 1e-12)
    partner = here = there = -1
    for at in range(gpus - 1):
        h = rising[at]
        if (load[f] + load[h]) / 2 >= best:  # fuller GPUs make no lighter pair
            break
        for i in range(k):
            most = size[slots[f, i]]
            for j in range(k):
                give = most - size[slots[h, j]]
                after = max(load[f] - give, load[h] + give)
                if give > 0 and after < best and may_swap(slots, f, i, h, j, empty, colocated):
                    best, partner, here, there = after, at, i, j
    return partner, here, there


@kernel
def descend(slots, size, load, target, swaps, colocated, stop):  # type: ignore[no-untyped-def]
    """At most ``swaps`` swaps of the fullest GPU, each with the GPU and slots that leave the lighter pair."""
    gpus, k = slots.shape
    rising = rising_order(load)
    for _ in range(swaps):
        f = rising[gpus - 1]
        if load[f] <= target or raised(stop):
            return
        at, here, there = best_swap(slots, size, load, rising, colocated)
        if at < 0:
            return
        h = rising[at]
        slots[f, here], slots[h, there] = slots[h, there], slots[f, here]
        for g in (f, h):
            load[g] = 0.0
            for t in range(k):
                load[g] += size[slots[g, t]]
        _sift(rising, load, at)
        _sift(rising, load, gpus - 1 if rising[gpus - 1] == f else gpus - 2)


@kernel
def _sift(rising, load, at):  # type: ignore[no-untyped-def]
    """Move the GPU at place ``at`` to where its load belongs among the others."""
    g = rising[at]
    while at + 1 < rising.size and load[rising[at + 1]] < load[g]:
        rising[at] = rising[at + 1]
        at += 1
    while at > 0 and load[rising[at - 1]] > load[g]:
        rising[at] = rising[at - 1]
        at -= 1
    rising[at] = g


@kernel
def least_makespan(slots, size):  # type: ignore[no-untyped-def]
    """Makespan that no placement of these copies is below: the largest beside the smallest."""
    gpus, k = slots.shape
    sizes = np.empty(gpus * k)
    for i in range(sizes.size):
        sizes[i] = size[slots[i // k, i % k]]
    rising = rising_order(sizes)
    least = sizes[rising[-1]]
    for i in range(k - 1):
        least += sizes[rising[i]]
    return least
