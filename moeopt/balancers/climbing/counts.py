"""Replica counts of one row of ``search``: a copy taken here, one given there, swaps after it."""

import numpy as np

from moeopt._kernel import copy_rows, kernel
from moeopt._random import below
from moeopt._stop import raised
from moeopt.balancers.swaps import descend, holds, sum_loads

_SWAPS = 8
"""Swaps per copy of the expert that loses one: what does not fit then, does not fit."""


@kernel
def recount(slots, weight, size, copies, target, steps, colocated, gaps, state, stop):  # type: ignore[no-untyped-def]
    """Take a copy from one expert, give one to another, swap down; keep what is not heavier.

    ``gaps``: slots may stay empty, so a copy may be dropped or added alone.
    """
    gpus, k = slots.shape
    empty = size.size - 1
    load = np.empty(gpus)
    most = sum_loads(slots, size, load)
    kept = slots.copy()
    for _ in range(steps):
        if most <= target or raised(stop):
            break
        g, t = below(state, gpus), below(state, k)
        if below(state, 2) == 0:
            g = np.argmax(load)
        old = slots[g, t]
        if old != empty and copies[old] == 1:
            continue
        new = slots[np.argmax(load), below(state, k)] if below(state, 2) == 0 else below(state, empty + gaps)
        if new == old or (not colocated and new != empty and holds(slots[g], new)):
            continue
        slots[g, t] = new
        _set_copies(old, -1, weight, size, copies)
        _set_copies(new, 1, weight, size, copies)
        sum_loads(slots, size, load)
        descend(slots, size, load, target, _SWAPS * (copies[old] + 1), colocated, stop)
        after = sum_loads(slots, size, load)
        if after <= most:
            most = after
            copy_rows(slots, kept)
        else:
            copy_rows(kept, slots)
            _set_copies(old, 1, weight, size, copies)
            _set_copies(new, -1, weight, size, copies)
            sum_loads(slots, size, load)


@kernel
def _set_copies(expert, change, weight, size, copies):  # type: ignore[no-untyped-def]
    if expert < size.size - 1:
        copies[expert] += change
        size[expert] = weight[expert] / copies[expert]
