"""Levelling of ``search`` on one row: GPUs brought exactly to a cap, one after another, by exchanges of subsets.

A GPU meets another one; all exchanges of equally many experts between up to twelve of each are
looked through by meet in the middle, for one that takes the GPU to the cap. The other takes the rest,
so slack gathers on ever fewer GPUs, where it makes room. After E. Horowitz, S. Sahni, "Computing
partitions with applications to the knapsack problem", J. ACM 21 (1974), doi 10.1145/321812.321823.
"""

import numpy as np
from numba import njit

from moeopt.balancers._search_kernels import _distinct, below, sum_loads

_WIDEST = 12
_MOST_SUBSETS = 924
"""Subsets of six out of twelve, the most of one size."""

_LOOK_WORK = 1 << 16
"""Subsets made for one GPU before it waits for better partners."""


@njit(cache=True, nogil=True)
def _subsets(row, width, size, state, sums, masks, count):  # type: ignore[no-untyped-def]
    """Shuffle ``width`` experts of ``row`` to its front; their subsets' sums, rising, by number of members."""
    count[:] = 0
    count[0] = 1
    sums[0, 0] = 0.0
    masks[0, 0] = 0
    for i in range(width):
        if width < row.size:
            j = i + below(state, row.size - i)
            row[i], row[j] = row[j], row[i]
        more = size[row[i]]
        bit = 1 << i
        for t in range(i + 1, 0, -1):
            # merge from the back: the subsets without i stand in row t, those with i come from row t - 1
            a, b = count[t] - 1, count[t - 1] - 1
            count[t] += count[t - 1]
            for at in range(count[t] - 1, -1, -1):
                if b < 0:
                    break
                if a >= 0 and sums[t, a] > sums[t - 1, b] + more:
                    sums[t, at], masks[t, at] = sums[t, a], masks[t, a]
                    a -= 1
                else:
                    sums[t, at], masks[t, at] = sums[t - 1, b] + more, masks[t - 1, b] | bit
                    b -= 1


@njit(cache=True, nogil=True)
def _exchange(width, sums, masks, count, sums2, masks2, count2, low, high):  # type: ignore[no-untyped-def]
    """Subsets whose difference is the least in [low, high]: difference and both masks; inf if there are none."""
    best, give, take = np.inf, 0, 0
    for t in range(1, width + 1):
        b = -1
        last = count2[t] - 1
        for a in range(count[t]):
            while b < last and sums2[t, b + 1] <= sums[t, a] - low:
                b += 1
            if b >= 0 and sums[t, a] - sums2[t, b] <= high:
                high = sums[t, a] - sums2[t, b]
                best, give, take = high, masks[t, a], masks2[t, b]
                if best == low:
                    return best, give, take
    return best, give, take


@njit(cache=True, nogil=True)
def _apply(mine, other, give, take):  # type: ignore[no-untyped-def]
    """Exchange the marked experts; doing it twice undoes it."""
    j = 0
    for i in range(_WIDEST):
        if give >> i & 1:
            while not take >> j & 1:
                j += 1
            mine[i], other[j] = other[j], mine[i]
            j += 1


@njit(cache=True, nogil=True)
def level(slots, size, cap, work, colocated, state):  # type: ignore[no-untyped-def]
    """Exchange until no GPU is above ``cap``, or ``work`` subsets were made; whether none is.

    A GPU is done within half the mean slack below the cap. GPUs that are not done look for partners
    among themselves; one above the cap that finds none passes its excess on to one that is done.
    """
    gpus, k = slots.shape
    empty = size.size - 1
    load = np.empty(gpus)
    sum_loads(slots, size, load)
    loose = max((cap - load.sum() / gpus) / 2, 1e-13 * cap)
    widest = min(k, _WIDEST)
    width = min(widest, 4)
    shape = widest + 1, _MOST_SUBSETS
    sums, sums2 = np.empty(shape), np.empty(shape)
    masks, masks2 = np.empty(shape, np.int64), np.empty(shape, np.int64)
    count, count2 = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.int64)
    todo = np.empty(gpus, np.int64)  # the first ``left`` are not done, ``place`` says where each is
    place = np.arange(gpus)
    left = over = 0
    for g in range(gpus):
        todo[g] = g
    for g in range(gpus):
        if load[g] > cap:
            over += 1
        if load[g] > cap or load[g] < cap - loose:
            left = _move(todo, place, g, left, 1)
    while over > 0 and work > 0:
        f = todo[below(state, left)]
        excess = load[f] - cap
        _subsets(slots[f], width, size, state, sums, masks, count)
        looks = 0
        most = max(8, _LOOK_WORK >> width)
        partners = min(most, left - 1 if width == k else most)
        if excess > 0:
            partners += min(most, gpus)
        first = below(state, gpus)
        fresh = partners - min(most, gpus) if excess > 0 else partners
        found = False
        while looks < partners and not found:
            among_todo = looks < fresh
            looks += 1
            h = todo[(first + looks) % left] if among_todo else (first + looks) % gpus
            other = load[h] - cap
            if h == f or (among_todo and excess * other > 0 and left > 8):
                continue
            work -= 1 << width
            _subsets(slots[h], width, size, state, sums2, masks2, count2)
            high = excess + loose
            if excess > 0:
                high = max(high, -other)
            shift, give, take = _exchange(width, sums, masks, count, sums2, masks2, count2, excess, high)
            if shift == np.inf:
                continue
            _apply(slots[f], slots[h], give, take)
            if not colocated and not (_distinct(slots[f : f + 1], empty) and _distinct(slots[h : h + 1], empty)):
                _apply(slots[f], slots[h], give, take)
                continue
            found = True
            over -= int(excess > 0) + int(other > 0)
            for g, change in ((f, -shift), (h, shift)):
                load[g] += change
                over += int(load[g] > cap)
                left = _move(todo, place, g, left, int(load[g] > cap or load[g] < cap - loose))
        # a wider look costs twice as much and finds four times as many exchanges
        if not found or looks > 4:
            width = min(width + 1, widest)
        elif looks == 1:
            width = max(width - 1, 1)
    return over == 0


@njit(cache=True, nogil=True)
def _move(todo, place, g, left, wanted):  # type: ignore[no-untyped-def]
    """Bring ``g`` into the first ``left`` of ``todo``, or out of them; their new number."""
    inside = place[g] < left
    if inside == (wanted == 1):
        return left
    at = left - 1 if inside else left
    there, other = place[g], todo[at]
    todo[at], todo[there] = g, other
    place[g], place[other] = at, there
    return left - 1 if inside else left + 1
