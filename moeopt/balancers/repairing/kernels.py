"""Compiled moves of ``repair`` on one layer: a table of who holds what, kept up to date move by move.

An empty slot holds the expert behind the last one, of weight 0; arriving and leaving it costs no move.

Inner loops spell out ``arrival`` and ``departure``: a call that passes the row makes them two to four times slower.
"""

from typing import Any, NamedTuple

import numpy as np

from moeopt._kernel import copy_into, kernel

FREE = 0.25
"""What an exchange without moves counts as moves when it is compared with others."""

TINY = 1e-12
"""Improvements below this share of the ceiling are rounding."""


class Row(NamedTuple):
    """One layer: ``held [slots]`` experts, and what follows from them.

    ``here`` and ``home`` are ``[gpus, experts + 1]`` copies now and in the reference; ``first``, ``after``
    and ``before`` chain the slots of every expert; ``owned [gpus]`` copies in the reference.
    """

    held: Any
    weight: Any
    size: Any
    count: Any
    here: Any
    home: Any
    owned: Any
    load: Any
    first: Any
    after: Any
    before: Any


@kernel
def new_row(slots, gpus, experts):  # type: ignore[no-untyped-def]
    """Room for a layer."""
    return Row(
        np.empty(slots, np.int64),
        np.zeros(experts + 1),
        np.zeros(experts + 1),
        np.zeros(experts + 1, np.int64),
        np.zeros((gpus, experts + 1), np.int32),
        np.zeros((gpus, experts + 1), np.int32),
        np.zeros(gpus, np.int64),
        np.zeros(gpus),
        np.full(experts + 1, -1),
        np.full(slots, -1),
        np.full(slots, -1),
    )


@kernel
def enter(row, held, weight, reference):  # type: ignore[no-untyped-def]
    """Fill ``row`` with a layer; both maps hold ``experts`` for an empty slot."""
    copy_into(weight, row.weight)
    row.home[:] = 0
    row.owned[:] = 0
    per_gpu = reference.size // row.load.size
    for slot in range(reference.size):
        row.home[slot // per_gpu, reference[slot]] += 1
        row.owned[slot // per_gpu] += int(reference[slot] < weight.size)
    settle(row, held)


@kernel
def settle(row, held):  # type: ignore[no-untyped-def]
    """Let ``row`` hold ``held``, everything recomputed."""
    empty = row.size.size - 1
    copy_into(held, row.held)
    row.count[:] = 0
    row.here[:] = 0
    row.first[:] = -1
    k = held.size // row.load.size
    for slot in range(held.size):
        row.count[held[slot]] += 1
        row.here[slot // k, held[slot]] += 1
        chain(row, slot, held[slot])
    for expert in range(empty):
        row.size[expert] = row.weight[expert] / max(row.count[expert], 1)
    recount_loads(row)


@kernel
def recount_loads(row):  # type: ignore[no-untyped-def]
    """Sum the loads afresh; returns the largest."""
    k = row.held.size // row.load.size
    most = 0.0
    for gpu in range(row.load.size):
        total = 0.0
        for slot in range(gpu * k, (gpu + 1) * k):
            total += row.size[row.held[slot]]
        row.load[gpu] = total
        most = max(most, total)
    return most


@kernel
def chain(row, slot, expert):  # type: ignore[no-untyped-def]
    """Add ``slot`` to the slots of ``expert``; nobody asks which slots are empty."""
    if expert == row.size.size - 1:
        return
    follower = row.first[expert]
    row.before[slot] = -1
    row.after[slot] = follower
    if follower >= 0:
        row.before[follower] = slot
    row.first[expert] = slot


@kernel
def unchain(row, slot, expert):  # type: ignore[no-untyped-def]
    """Take ``slot`` from the slots of ``expert``."""
    if expert == row.size.size - 1:
        return
    ahead, follower = row.before[slot], row.after[slot]
    if ahead >= 0:
        row.after[ahead] = follower
    else:
        row.first[expert] = follower
    if follower >= 0:
        row.before[follower] = ahead


@kernel
def over(load, ceiling):  # type: ignore[no-untyped-def]
    """What exceeds the ceiling."""
    return max(load - ceiling, 0.0)


@kernel
def excess(row, ceiling):  # type: ignore[no-untyped-def]
    """Sum of what exceeds the ceiling."""
    total = 0.0
    for load in row.load:
        total += over(load, ceiling)
    return total


@kernel
def count_moves(row):  # type: ignore[no-untyped-def]
    """Copies on GPUs that did not hold them."""
    held, here, home = row.held, row.here, row.home
    k = held.size // row.load.size
    total = 0.0
    for slot in range(held.size):
        expert = held[slot]
        if expert < row.size.size - 1:
            n = here[slot // k, expert]
            total += max(n - home[slot // k, expert], 0) / n
    return np.int64(np.rint(total))


@kernel
def arrival(row, expert, gpu):  # type: ignore[no-untyped-def]
    """Moves that one more copy on ``gpu`` costs."""
    return np.int64(expert < row.size.size - 1 and row.here[gpu, expert] >= row.home[gpu, expert])


@kernel
def departure(row, expert, gpu):  # type: ignore[no-untyped-def]
    """Moves that one copy less on ``gpu`` saves."""
    return np.int64(expert < row.size.size - 1 and row.here[gpu, expert] > row.home[gpu, expert])


@kernel
def may_enter(row, expert, gpu, colocated):  # type: ignore[no-untyped-def]
    """Whether ``gpu`` may hold one more copy."""
    return colocated or expert == row.size.size - 1 or row.here[gpu, expert] == 0


@kernel
def exchange(row, here, there):  # type: ignore[no-untyped-def]
    """Swap the contents of two slots of different GPUs."""
    k = row.held.size // row.load.size
    a, b = row.held[here], row.held[there]
    f, h = here // k, there // k
    give = row.size[a] - row.size[b]
    row.load[f] -= give
    row.load[h] += give
    row.here[f, a] -= 1
    row.here[h, a] += 1
    row.here[f, b] += 1
    row.here[h, b] -= 1
    unchain(row, here, a)
    unchain(row, there, b)
    row.held[here], row.held[there] = b, a
    chain(row, here, b)
    chain(row, there, a)


@kernel
def replace(row, slot, b):  # type: ignore[no-untyped-def]
    """Put a copy of ``b`` in the place of what ``slot`` holds; every holder's load follows."""
    k = row.held.size // row.load.size
    a = row.held[slot]
    gpu = slot // k
    row.load[gpu] -= row.size[a]
    unchain(row, slot, a)
    row.here[gpu, a] -= 1
    resize(row, a, -1)
    resize(row, b, 1)
    row.held[slot] = b
    row.here[gpu, b] += 1
    chain(row, slot, b)
    row.load[gpu] += row.size[b]


@kernel
def resize(row, expert, change):  # type: ignore[no-untyped-def]
    """Change the number of copies among which the load of ``expert`` is split."""
    row.count[expert] += change
    if expert == row.size.size - 1:
        return
    k = row.held.size // row.load.size
    size = row.weight[expert] / row.count[expert]
    rise = size - row.size[expert]
    row.size[expert] = size
    slot = row.first[expert]
    while slot >= 0:
        row.load[slot // k] += rise
        slot = row.after[slot]


@kernel
def spread(row, expert, change, ceiling):  # type: ignore[no-untyped-def]
    """How the excess of all holders changes when ``expert`` gets ``change`` copies more."""
    if expert == row.size.size - 1:
        return 0.0
    load, here, after = row.load, row.here, row.after
    k = row.held.size // load.size
    rise = row.weight[expert] / (row.count[expert] + change) - row.size[expert]
    total = 0.0
    slot = row.first[expert]
    while slot >= 0:
        gpu = slot // k
        n = here[gpu, expert]
        total += (over(load[gpu] + n * rise, ceiling) - over(load[gpu], ceiling)) / n
        slot = after[slot]
    return total


@kernel
def taken_over(load, ceiling, size_a, grown_a, n_a, size_b, shrunk_b, n_b):  # type: ignore[no-untyped-def]
    """How the excess of the GPU changes on which ``b`` takes the place of ``a``, beyond what ``spread`` says of it."""
    up = n_a * (grown_a - size_a)
    down = n_b * (shrunk_b - size_b)
    change = over(load - size_a + (n_a - 1) * (grown_a - size_a) + down + shrunk_b, ceiling)
    if n_a > 0:
        change -= over(load + up, ceiling) - over(load, ceiling)
    if n_b > 0:
        change -= over(load + down, ceiling) - over(load, ceiling)
    return change - over(load, ceiling)


@kernel
def together(row, gpu, a, b, ceiling):  # type: ignore[no-untyped-def]
    """What two ``spread`` of ``a`` (a copy less) and ``b`` (a copy more) overstate on other GPUs that hold both."""
    empty = row.size.size - 1
    if a == empty or b == empty:
        return 0.0
    load, here, after = row.load, row.here, row.after
    k = row.held.size // load.size
    rise = row.weight[a] / (row.count[a] - 1) - row.size[a]
    fall = row.weight[b] / (row.count[b] + 1) - row.size[b]
    total = 0.0
    slot = row.first[b]
    while slot >= 0:
        other = slot // k
        n_a, n_b = here[other, a], here[other, b]
        if n_a > 0 and other != gpu:
            up, down = n_a * rise, n_b * fall
            both = over(load[other] + up, ceiling) + over(load[other] + down, ceiling) - over(load[other], ceiling)
            total += (both - over(load[other] + up + down, ceiling)) / n_b
        slot = after[slot]
    return total


@kernel
def replacement(row, slot, b, rises, falls, ceiling):  # type: ignore[no-untyped-def]
    """How the excess changes when ``b`` takes ``slot``, given ``spread`` of both."""
    empty = row.size.size - 1
    gpu = slot // (row.held.size // row.load.size)
    a = row.held[slot]
    grown = shrunk = 0.0
    n_a = n_b = 0
    if a < empty:
        grown = row.weight[a] / (row.count[a] - 1)
        n_a = row.here[gpu, a]
    if b < empty:
        shrunk = row.weight[b] / (row.count[b] + 1)
        n_b = row.here[gpu, b]
    change = rises + falls + taken_over(row.load[gpu], ceiling, row.size[a], grown, n_a, row.size[b], shrunk, n_b)
    return change - together(row, gpu, a, b, ceiling) if rises > 0.0 else change
