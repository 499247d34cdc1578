"""Compiled cyclic exchanges of ``repair``: a copy leaves its GPU, pushes another out, and so on round to the first GPU.

The cheapest cycle through a given copy, with every GPU within the ceiling, is a shortest path over slots,
level by level: what pushes a copy out must fit into the room that this one leaves, so its best predecessor
is the least label among the sizes up to that room, a minimum over a prefix of the sorted sizes.
"""

import numpy as np

from moeopt._kernel import kernel
from moeopt.balancers._repair_kernels import exchange, may_enter, recount_loads, replace, replacement, spread


@kernel
def cheapest_cycle(row, root, order, room, fits, label, back, low, colocated, cycle):  # type: ignore[no-untyped-def]
    """Write into ``cycle`` the slots of the cycle from slot ``root`` that saves most moves; returns moves, length.

    ``order`` lists the slots by rising size; of each slot ``room`` is the size that fits into its place and
    ``fits`` how many of ``order`` do. ``label [levels, slots]``: moves of the cheapest path on which the
    slot's copy leaves last, ``back`` the slot before it; ``low [2, slots + 1]`` the two slots of least label,
    on different GPUs, among the first of ``order``.
    """
    held, size, here, home = row.held, row.size, row.here, row.home
    slots, gpus = held.size, row.load.size
    k = slots // gpus
    empty = size.size - 1
    far = 1 << 20
    a = held[root]
    f = root // k
    best, end, depth = 0, -1, 0
    for level in range(label.shape[0]):
        if level > 0:
            _least(order, label[level - 1], low, k, far)
        for h in range(gpus):
            if h == f or (level == 0 and not may_enter(row, a, h, colocated)):
                label[level, h * k : (h + 1) * k] = far
                continue
            fresh = int(here[h, a] >= home[h, a]) - 1
            for q in range(h * k, (h + 1) * k):
                b = held[q]
                value, source = far, -1
                if level == 0:
                    if size[a] <= room[q] and b != a:
                        value, source = fresh, root
                else:
                    for side in range(2):
                        p = low[side, fits[q]]
                        if p >= 0 and label[level - 1, p] < value - 1:
                            c = held[p]
                            if c != b and _avoids(back, level, p, h, k) and may_enter(row, c, h, colocated):
                                value, source = label[level - 1, p], p
                                if c < empty and here[h, c] >= home[h, c]:
                                    value += 1
                if source >= 0:
                    back[level, q] = source
                    if b < empty and here[h, b] > home[h, b]:
                        value -= 1
                    if size[b] <= room[root]:
                        closed = value
                        if b < empty and here[f, b] >= home[f, b]:
                            closed += 1
                        if closed < best and may_enter(row, b, f, colocated):
                            best, end, depth = closed, q, level
                label[level, q] = value
    if end < 0:
        return 0, 0
    for level in range(depth, -1, -1):
        cycle[level + 1] = end
        end = back[level, end]
    cycle[0] = root
    return best, depth + 2


@kernel
def _least(order, label, low, k, far):  # type: ignore[no-untyped-def]
    """Fill ``low`` with running minima of ``label`` along ``order``."""
    first = second = -1
    low[0, 0] = low[1, 0] = -1
    for i in range(order.size):
        slot = order[i]
        value = label[slot]
        if value < far:
            if first < 0 or value < label[first]:
                if first >= 0 and first // k != slot // k:
                    second = first
                first = slot
            elif first // k != slot // k and (second < 0 or value < label[second]):
                second = slot
        low[0, i + 1], low[1, i + 1] = first, second


@kernel
def _avoids(back, level, slot, gpu, k):  # type: ignore[no-untyped-def]
    """Whether the path that ends in ``slot`` one level up leaves ``gpu`` out."""
    for above in range(level - 1, -1, -1):
        if slot // k == gpu:
            return False
        slot = back[above, slot]
    return True


@kernel
def turn(row, cycle, length):  # type: ignore[no-untyped-def]
    """Let the copies of a cycle move on by one GPU each."""
    for i in range(1, length):
        exchange(row, cycle[0], cycle[i])


@kernel
def _survey(row, ceiling, order, room, fits):  # type: ignore[no-untyped-def]
    """Loads afresh, slots by size, and what fits into the place of each."""
    recount_loads(row)
    held, size, load = row.held, row.size, row.load
    sizes = size[held]
    order[:] = np.argsort(sizes)
    k = held.size // load.size
    for slot in range(held.size):
        room[slot] = ceiling - load[slot // k] + sizes[slot]
    fits[:] = np.searchsorted(sizes[order], room, side="right")


@kernel
def go_home(row, ceiling, levels, colocated):  # type: ignore[no-untyped-def]
    """Bring copies home by cycles and replacements that keep every GPU within the ceiling."""
    held, here, home = row.held, row.here, row.home
    slots, gpus = held.size, row.load.size
    k = slots // gpus
    empty = row.size.size - 1
    cycle = np.empty(levels + 1, np.int64)
    order, fits = np.empty(slots, np.int64), np.empty(slots, np.int64)
    room = np.empty(slots)
    label, back = np.empty((levels, slots), np.int64), np.empty((levels, slots), np.int64)
    low = np.empty((2, slots + 1), np.int64)
    _survey(row, ceiling, order, room, fits)
    waiting = slots
    p = 0
    while waiting > 0:
        waiting -= 1
        b, f = held[p], p // k
        if b < empty and here[f, b] > home[f, b]:
            changed = False
            if row.count[b] > 1:
                rises = spread(row, b, -1, ceiling)
                for a in range(empty):
                    if here[f, a] < home[f, a] and may_enter(row, a, f, colocated):
                        if replacement(row, p, a, rises, spread(row, a, 1, ceiling), ceiling) <= 0.0:
                            replace(row, p, a)
                            changed = True
                            break
            if not changed:
                _, length = cheapest_cycle(row, p, order, room, fits, label, back, low, colocated, cycle)
                turn(row, cycle, length)
                changed = length > 0
            if changed:
                _survey(row, ceiling, order, room, fits)
                waiting = slots
        p = (p + 1) % slots
