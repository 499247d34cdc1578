"""Compiled cyclic exchanges of ``repair``: a copy leaves its GPU, pushes another out, and so on round to the first GPU.

The cheapest cycle through a given copy is a shortest path over slots, level by level. The excess of a GPU
is a hinge in the size of what pushes a copy out: nothing up to the room that this one leaves, the
difference beyond. So its best predecessor is the least label among the sizes that fit, or the least label
plus size among the larger ones: minima over a prefix and a suffix of the sorted sizes.
"""

from typing import Any, NamedTuple

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import raised
from moeopt.balancers.repairing.kernels import (
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


class Paths(NamedTuple):
    """What the searches for swaps and cycles need to know of every slot and GPU, and their working memory.

    ``order``: the slots by rising ``sizes``; ``ranked``: the same GPU by GPU. ``away``: 1 where a copy does not
    belong. ``strays``, ``lacks [gpus]``: whether a GPU has such copies, and misses copies of its own. ``room``:
    the size that fits into the slot's place; ``fits``: how many of ``order`` do, -1 = not counted yet.
    ``label [levels, slots]``: cost of the cheapest path on which the slot's copy leaves last; ``back``: the
    slot before it. ``low``, ``high [2, slots + 1]``: the two slots of least cost, on different GPUs, among the
    first of ``order`` and, counting size as cost, among the others.
    """

    order: Any
    rising: Any
    ranked: Any
    strays: Any
    lacks: Any
    gpu_of: Any
    sizes: Any
    away: Any
    room: Any
    fits: Any
    label: Any
    back: Any
    low: Any
    high: Any


@kernel
def new_paths(row, levels):  # type: ignore[no-untyped-def]
    """Room for a survey and for cycles of up to ``levels`` + 1 GPUs."""
    slots, gpus = row.held.size, row.load.size
    return Paths(
        np.argsort(row.size[row.held]),
        np.empty(slots),
        np.empty(slots, np.int64),
        np.empty(gpus, np.int64),
        np.empty(gpus, np.int64),
        np.arange(slots) // (slots // gpus),
        np.empty(slots),
        np.empty(slots),
        np.empty(slots),
        np.empty(slots, np.int64),
        np.empty((levels, slots)),
        np.empty((levels, slots), np.int64),
        np.empty((2, slots + 1), np.int64),
        np.empty((2, slots + 1), np.int64),
    )


@kernel
def survey(row, ceiling, paths):  # type: ignore[no-untyped-def]
    """Look at every slot again; quick where few sizes have changed since the last time."""
    held, size, load, here, home, owned = row.held, row.size, row.load, row.here, row.home, row.owned
    order, rising, ranked, strays, lacks = paths.order, paths.rising, paths.ranked, paths.strays, paths.lacks
    sizes, room, away = paths.sizes, paths.room, paths.away
    slots, gpus = held.size, load.size
    k = slots // gpus
    empty = size.size - 1
    paths.fits[:] = -1
    for gpu in range(gpus):
        left = ceiling - load[gpu]
        kept, strays[gpu] = 0.0, 0
        for slot in range(gpu * k, (gpu + 1) * k):
            expert = held[slot]
            own = size[expert]
            sizes[slot], room[slot], away[slot] = own, left + own, 0.0
            if expert < empty:
                n, n_home = here[gpu, expert], home[gpu, expert]
                if n > n_home:
                    away[slot], strays[gpu] = 1.0, 1
                    kept += n_home / n
                else:
                    kept += 1.0
        lacks[gpu] = int(owned[gpu] - kept > 0.5)
    for i in range(slots):
        slot = order[i]
        own = sizes[slot]
        j = i
        while j > 0 and rising[j - 1] > own:
            rising[j], order[j] = rising[j - 1], order[j - 1]
            j -= 1
        rising[j], order[j] = own, slot
    filled = np.zeros(gpus, np.int64)
    for i in range(slots):
        gpu = paths.gpu_of[order[i]]
        ranked[gpu * k + filled[gpu]] = order[i]
        filled[gpu] += 1


@kernel
def cheapest_cycle(row, root, ceiling, paths, price, soft, colocated, least, cycle):  # type: ignore[no-untyped-def]
    """Cost and length of the cheapest cycle from slot ``root`` below ``least``; its slots go into ``cycle``.

    The cost is ``price`` per move and, if ``soft``, the change of the excess; else none may arise.
    """
    held, here, home, load = row.held, row.here, row.home, row.load
    room, fits, labels, back, low, high = paths.room, paths.fits, paths.label, paths.back, paths.low, paths.high
    sizes, away, gpu_of, strays, lacks = paths.sizes, paths.away, paths.gpu_of, paths.strays, paths.lacks
    slots, gpus = held.size, load.size
    k = slots // gpus
    empty = row.size.size - 1
    levels = labels.shape[0]
    a = held[root]
    f = root // k
    own, own_room = sizes[root], room[root]
    over_f = over(load[f], ceiling)
    most = 0.0
    for h in range(gpus):
        if h != f:
            most = max(most, load[h] - ceiling)
    best, end, depth = least, -1, 0
    lowest = 0.0
    for level in range(levels):
        label = labels[level]
        if level > 0:
            _minima(paths, level - 1, soft)
        above = labels[max(level - 1, 0)]
        # what the GPUs still to come can save, less what the last arrival costs
        rest = over_f + max((most - price if soft else 1.0) * (levels - 1 - level), 0.0)
        if lacks[f] == 0:
            rest -= price
        base, lowest = lowest, np.inf
        for h in range(gpus):
            over_h = over(load[h], ceiling)
            fresh = -over_h
            if level == 0:
                fresh -= price * away[root]
                if a < empty and here[h, a] >= home[h, a]:
                    fresh += price
                reached = fresh
            else:
                reached = base + fresh
                if lacks[h] == 0:
                    reached += price
            if (
                h == f
                or reached - price * strays[h] >= best + rest
                or (level == 0 and not (colocated or a == empty or here[h, a] == 0))
            ):
                label[h * k : (h + 1) * k] = np.inf
                continue
            for q in range(h * k, (h + 1) * k):
                value, source = np.inf, -1
                fit = room[q]
                if level == 0:
                    if (soft or own <= fit) and held[q] != a:
                        value, source = fresh + max(own - fit, 0.0), root
                else:
                    if fits[q] < 0:
                        fits[q] = np.searchsorted(paths.rising, fit, side="right")
                    for side in range(4 if soft else 2):
                        if source >= 0 and side % 2 == 1:
                            continue
                        p = low[side, fits[q]] if side < 2 else high[side - 2, fits[q]]
                        if p < 0:
                            continue
                        reach = above[p] + max(sizes[p] - fit, 0.0)
                        c = held[p]
                        if reach >= value or c == held[q] or gpu_of[p] == h:
                            continue
                        if level > 1 and not _avoids(back, gpu_of, level, p, h):
                            continue
                        if c < empty:
                            if not colocated and here[h, c] > 0:
                                continue
                            if here[h, c] >= home[h, c]:
                                reach += price
                        if reach < value:
                            value, source = reach, p
                    value += fresh
                if source >= 0:
                    value -= price * away[q]
                    if value >= best + rest:
                        value = np.inf
                    else:
                        lowest = min(lowest, value)
                        back[level, q] = source
                        excess = sizes[q] - own_room
                        if soft or excess <= 0.0:
                            closed = value + max(excess, 0.0) - over_f
                            if closed < best:
                                b = held[q]
                                if b < empty and here[f, b] >= home[f, b]:
                                    closed += price
                                if closed < best and (colocated or b == empty or here[f, b] == 0):
                                    best, end, depth = closed, q, level
                label[q] = value
        if lowest == np.inf:
            break
    if end < 0:
        return best, 0
    for level in range(depth, -1, -1):
        cycle[level + 1] = end
        end = back[level, end]
    cycle[0] = root
    return best, depth + 2


@kernel
def _minima(paths, level, soft):  # type: ignore[no-untyped-def]
    """Fill ``low`` and, if ``soft``, ``high`` from the labels of a level."""
    order, label, sizes, gpu_of = paths.order, paths.label[level], paths.sizes, paths.gpu_of
    low, high = paths.low, paths.high
    first = second = -1
    low[0, 0] = low[1, 0] = -1
    for i in range(order.size):
        slot = order[i]
        value = label[slot]
        if value < np.inf:
            if first < 0 or value < label[first]:
                if first >= 0 and gpu_of[first] != gpu_of[slot]:
                    second = first
                first = slot
            elif gpu_of[first] != gpu_of[slot] and (second < 0 or value < label[second]):
                second = slot
        low[0, i + 1], low[1, i + 1] = first, second
    if not soft:
        return
    first = second = -1
    least = next_least = np.inf
    high[0, order.size] = high[1, order.size] = -1
    for i in range(order.size - 1, -1, -1):
        slot = order[i]
        value = label[slot] + sizes[slot]
        if value < least:
            if first >= 0 and gpu_of[first] != gpu_of[slot]:
                second, next_least = first, least
            first, least = slot, value
        elif value < next_least and gpu_of[first] != gpu_of[slot]:
            second, next_least = slot, value
        high[0, i], high[1, i] = first, second


@kernel
def _avoids(back, gpu_of, level, slot, gpu):  # type: ignore[no-untyped-def]
    """Whether the path that ends in ``slot`` one level up leaves ``gpu`` out."""
    for above in range(level - 1, 0, -1):
        slot = back[above, slot]
        if gpu_of[slot] == gpu:
            return False
    return True


@kernel
def turn(row, cycle, length):  # type: ignore[no-untyped-def]
    """Let the copies of a cycle move on by one GPU each."""
    for i in range(1, length):
        exchange(row, cycle[0], cycle[i])


@kernel
def cycle_cost(row, cycle, length):  # type: ignore[no-untyped-def]
    """Moves that a cycle costs."""
    k = row.held.size // row.load.size
    cost = 0
    for i in range(length):
        expert = row.held[cycle[i]]
        cost += arrival(row, expert, cycle[(i + 1) % length] // k) - departure(row, expert, cycle[i] // k)
    return cost


@kernel
def go_home(row, ceiling, levels, colocated, stop):  # type: ignore[no-untyped-def]
    """Bring copies home by cycles and replacements that keep every GPU within the ceiling."""
    held, here, home = row.held, row.here, row.home
    slots = held.size
    k = slots // row.load.size
    empty = row.size.size - 1
    cycle = np.empty(levels + 1, np.int64)
    recount_loads(row)
    paths = new_paths(row, levels)
    survey(row, ceiling, paths)
    waiting = slots
    p = 0
    while waiting > 0 and not raised(stop):
        waiting -= 1
        b, f = held[p], p // k
        if b < empty and here[f, b] > home[f, b]:
            changed = row.count[b] > 1 and _give_back(row, p, ceiling, colocated)
            if not changed:
                _, length = cheapest_cycle(row, p, ceiling, paths, 1.0, False, colocated, -0.5, cycle)
                turn(row, cycle, length)
                changed = length > 0
            if changed:
                recount_loads(row)
                survey(row, ceiling, paths)
                waiting = slots
        p = (p + 1) % slots


@kernel
def _give_back(row, slot, ceiling, colocated):  # type: ignore[no-untyped-def]
    """Put an expert that the reference has on the slot's GPU in the place of a copy that is not its expert's last."""
    gpu = slot // (row.held.size // row.load.size)
    rises = spread(row, row.held[slot], -1, ceiling)
    for a in range(row.size.size - 1):
        if row.here[gpu, a] < row.home[gpu, a] and may_enter(row, a, gpu, colocated):
            change = replacement(row, slot, a, rises, spread(row, a, 1, ceiling), ceiling)
            if change <= 0.0:
                replace(row, slot, a)
                return True
    return False
