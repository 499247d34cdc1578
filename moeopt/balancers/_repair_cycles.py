"""Compiled cyclic exchanges of ``repair``: a copy leaves its GPU, pushes another out, and so on round to the first GPU.

The best cycle through a given copy is a shortest path over slots, level by level. Since the excess of a
GPU is a hinge in the size of what arrives, the best predecessor of a slot is the least label among the
sizes that still fit, or the least label plus size among the larger ones: two minima over sorted sizes.
"""

import numpy as np

from moeopt._kernel import kernel
from moeopt.balancers._repair_kernels import (
    arrival,
    departure,
    exchange,
    may_enter,
    over,
    recount_loads,
    replace,
    replacement,
    spread,
)


@kernel
def best_cycle(row, root, order, ceiling, steep, price, levels, colocated, least, cycle):  # type: ignore[no-untyped-def]
    """Least ``steep`` times the change in excess plus ``price`` times that in moves, of a cycle from slot ``root``.

    ``order`` lists the slots by rising size; ``cycle`` gets the slots in which the copies sit before they
    leave. Returns the cost, ``least`` if none is below, and the number of GPUs.
    """
    held, size, here, home, load = row.held, row.size, row.here, row.home, row.load
    slots, gpus = held.size, load.size
    k = slots // gpus
    empty = size.size - 1
    a = held[root]
    f = root // k
    label = np.full((levels, slots), np.inf)
    back = np.full((levels, slots), -1)
    base = over(load[f], ceiling)
    start = -price * departure(row, a, f)
    best, end, depth = least, -1, 0
    # the two least labels from different GPUs among the smaller sizes, and label + size among the larger
    low = np.empty((2, slots + 1), np.int64)
    high = np.empty((2, slots + 1), np.int64)
    for level in range(levels):
        if level > 0:
            for side in range(2):
                low[side, 0] = -1
                high[side, slots] = -1
            for i in range(slots):
                _push(low, i, i + 1, order[i], label[level - 1], size, held, 0.0, k)
            for i in range(slots - 1, -1, -1):
                _push(high, i + 1, i, order[i], label[level - 1], size, held, steep, k)
        for h in range(gpus):
            if h == f:
                continue
            over_h = over(load[h], ceiling)
            if level == 0 and not may_enter(row, a, h, colocated):
                continue
            fresh = price * arrival(row, a, h)
            for q in range(h * k, (h + 1) * k):
                b = held[q]
                if b == a:
                    continue
                gone = price if b < empty and here[h, b] > home[h, b] else 0.0
                if level == 0:
                    value = start + fresh + steep * (over(load[h] + size[a] - size[b], ceiling) - over_h) - gone
                    source = root
                else:
                    value, source = np.inf, -1
                    room = ceiling - load[h] + size[b]
                    left, right = 0, slots
                    while left < right:
                        middle = (left + right) // 2
                        if size[held[order[middle]]] <= room:
                            left = middle + 1
                        else:
                            right = middle
                    for side in range(2):
                        p = low[side, left]
                        if p >= 0 and label[level - 1, p] < value and _free(back, level, p, h, k):
                            if held[p] != b and may_enter(row, held[p], h, colocated):
                                value, source = label[level - 1, p], p
                        p = high[side, left]
                        if p >= 0:
                            dear = label[level - 1, p] + steep * (size[held[p]] - room)
                            if dear < value and _free(back, level, p, h, k):
                                if held[p] != b and may_enter(row, held[p], h, colocated):
                                    value, source = dear, p
                    if source < 0:
                        continue
                    value += price * arrival(row, held[source], h) - steep * over_h - gone
                label[level, q] = value
                back[level, q] = source
                after = over(load[f] - size[a] + size[b], ceiling) - base
                closed = value + steep * after
                if b < empty and here[f, b] >= home[f, b]:
                    closed += price
                if closed < best and may_enter(row, b, f, colocated):
                    best, end, depth = closed, q, level + 1
    if end >= 0:
        for level in range(depth - 1, -1, -1):
            cycle[level + 1] = end
            end = back[level, end]
        cycle[0] = root
        depth += 1
    return best, depth


@kernel
def _push(table, old, new, slot, label, size, held, steep, k):  # type: ignore[no-untyped-def]
    """Carry the two least labels, of different GPUs, from column ``old`` to ``new`` with ``slot`` added."""
    table[0, new] = table[0, old]
    table[1, new] = table[1, old]
    if label[slot] == np.inf:
        return
    value = label[slot] + steep * size[held[slot]]
    first = table[0, new]
    if first < 0 or value < label[first] + steep * size[held[first]]:
        if first >= 0 and first // k != slot // k:
            table[1, new] = first
        table[0, new] = slot
    elif first // k != slot // k:
        second = table[1, new]
        if second < 0 or value < label[second] + steep * size[held[second]]:
            table[1, new] = slot


@kernel
def _free(back, level, slot, gpu, k):  # type: ignore[no-untyped-def]
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
def go_home(row, ceiling, levels, colocated):  # type: ignore[no-untyped-def]
    """Bring copies home by cycles and replacements that keep every GPU within the ceiling; returns moves saved.

    Cycles that would raise the excess by less than rounding are told apart by ``steep``.
    """
    slots, gpus = row.held.size, row.load.size
    k = slots // gpus
    empty = row.size.size - 1
    steep = 1e9 / max(ceiling, 1e-300)
    cycle = np.empty(levels + 1, np.int64)
    saved = 0
    changed = True
    while changed:
        changed = False
        order = np.argsort(row.size[row.held])
        for p in range(slots):
            b = row.held[p]
            f = p // k
            if b == empty or row.here[f, b] <= row.home[f, b]:
                continue
            if row.count[b] > 1:
                rises = spread(row, b, -1, ceiling)
                for a in range(empty):
                    if row.here[f, a] < row.home[f, a] and may_enter(row, a, f, colocated):
                        if steep * replacement(row, p, a, rises, spread(row, a, 1, ceiling), ceiling) < 0.5:
                            replace(row, p, a)
                            recount_loads(row)
                            order = np.argsort(row.size[row.held])
                            saved += 1
                            changed = True
                            break
                if row.held[p] != b:
                    continue
            cost, length = best_cycle(row, p, order, ceiling, steep, 1.0, levels, colocated, -0.5, cycle)
            if length > 0:
                turn(row, cycle, length)
                recount_loads(row)
                order = np.argsort(row.size[row.held])
                saved += int(np.rint(-cost))
                changed = True
    return saved
