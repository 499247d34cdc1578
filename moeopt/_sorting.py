"""A stable sort for kernels: numba's own take seconds to compile, one for every kind and type."""

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
