"""Kernels of ``moves_cover``: the contents of a GPU that prices on experts leave worth having."""

from __future__ import annotations

import numpy as np

from moeopt._kernel import copy_into, copy_rows, kernel
from moeopt._stop import raised

NOTHING = -(1 << 61)
"""Worth of contents that there are not."""


@kernel
def worth_of_rest(value, size, rest):  # type: ignore[no-untyped-def]
    """Fill ``rest [experts + 1, slots + 1, capacity + 1]``: most that so many of the experts from one on are worth."""
    experts, slots, capacity = value.size, rest.shape[1] - 1, rest.shape[2] - 1
    rest[experts] = NOTHING
    rest[experts, 0] = 0
    for i in range(experts - 1, -1, -1):
        copy_rows(rest[i + 1], rest[i])
        for n in range(1, slots + 1):
            for room in range(size[i], capacity + 1):
                rest[i, n, room] = max(rest[i, n, room], rest[i + 1, n - 1, room - size[i]] + value[i])


@kernel
def list_contents(value, size, load, most, rest, least, contents, worth, stop):  # type: ignore[no-untyped-def]
    """List the contents of load <= ``most`` that are worth ``least`` or more; -1 if they are too many.

    ``size`` are the loads in steps of ``rest``'s capacity, rounded down. ``contents[content]`` receives the
    experts, rising, and ``worth[content]`` the sum of their values.
    """
    experts, slots = value.size, contents.shape[1]
    chosen = np.zeros(slots, dtype=np.int64)
    total, heavy = np.zeros(slots + 1, dtype=np.int64), np.zeros(slots + 1, dtype=np.int64)
    room = np.zeros(slots + 1, dtype=np.int64)
    room[0] = rest.shape[2] - 1
    count, steps, depth = 0, 0, 0
    chosen[0] = -1
    while depth >= 0:
        steps += 1
        if steps > 100 * worth.size or raised(stop):
            return -1
        chosen[depth] += 1
        expert, missing = chosen[depth], slots - depth
        if expert + missing > experts or total[depth] + rest[expert, missing, room[depth]] < least:
            depth -= 1
            continue
        if size[expert] > room[depth] or heavy[depth] + load[expert] > most:
            continue
        total[depth + 1] = total[depth] + value[expert]
        heavy[depth + 1] = heavy[depth] + load[expert]
        room[depth + 1] = room[depth] - size[expert]
        if total[depth + 1] + rest[expert + 1, missing - 1, room[depth + 1]] < least:
            continue
        if missing > 1:
            depth += 1
            chosen[depth] = expert
            continue
        if count == worth.size:
            return -1
        copy_into(chosen, contents[count])
        worth[count] = total[slots]
        count += 1
    return count
