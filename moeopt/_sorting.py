"""Sorting and bisection for kernels: numba's own take long to compile, sorts even seconds, for every kind and type."""

import numpy as np

from moeopt._kernel import kernel

_RUN = 8
"""Items that are sorted by insertion before runs are merged."""


@kernel
def rising_order(value):  # type: ignore[no-untyped-def]
    """Positions by rising ``value [items]``, equal ones in their order."""
    items = value.size
    order, merged = np.empty(items, dtype=np.int64), np.empty(items, dtype=np.int64)
    for at in range(items):
        place = at
        first = at - at % _RUN
        while place > first and value[order[place - 1]] > value[at]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = at
    run = _RUN
    while run < items:
        for first in range(0, items, 2 * run):
            left, right = first, min(first + run, items)
            middle, end = right, min(first + 2 * run, items)
            for at in range(first, end):
                if left < middle and (right == end or value[order[left]] <= value[order[right]]):
                    merged[at] = order[left]
                    left += 1
                else:
                    merged[at] = order[right]
                    right += 1
        order, merged = merged, order
        run *= 2
    return order


@kernel
def number_up_to(rising, limit):  # type: ignore[no-untyped-def]
    """How many are at most ``limit``; halves without a jump that a processor must foresee."""
    number, left = 0, rising.size
    while left > 0:
        half = (left + 1) // 2
        number += half if rising[number + half - 1] <= limit else 0
        left -= half
    return number


@kernel
def number_below(rising, limit):  # type: ignore[no-untyped-def]
    """How many are less than ``limit``."""
    low, high = 0, rising.size
    while low < high:
        middle = (low + high) // 2
        if rising[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low
