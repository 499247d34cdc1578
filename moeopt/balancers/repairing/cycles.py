"""Compiled cyclic exchanges of ``repair``: a copy leaves its GPU, pushes another out, and so on round to the first GPU.

The cheapest cycle through a given copy is a shortest path over slots, level by level. The excess of a GPU
is a hinge in the size of what pushes a copy out: nothing up to the room that this one leaves, the
difference beyond. So its best predecessor is the least label among the sizes that fit, or the least label
plus size among the larger ones: minima over a prefix and a suffix of the sorted sizes.
"""

import numpy as np

from moeopt._kernel import kernel
from moeopt._sorting import number_up_to
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
from moeopt.balancers.repairing.paths import new_paths, survey


@kernel
def cheapest_cycle(row, roots, aim, ceiling, paths, price, soft, colocated, least, cycle):  # type: ignore[no-untyped-def]
    """Cost and length of the cheapest cycle from a slot of ``roots`` below ``least``; its slots go into ``cycle``.

    The cost is ``price`` per move and, if ``soft``, the change of the excess; else none may arise. The roots are
    slots of one GPU by rising size; of two that push the same copy out, the path keeps the one that is better if
    a copy of size ``aim`` comes last.

    The costs up to some copy of a cycle are below ``least`` for every copy, if the first one is chosen well: so
    paths whose costs are not, are given up.
    """
    load, room, away, label, back, push = row.load, paths.room, paths.away, paths.label, paths.back, paths.push
    levels = label.shape[0]
    f = roots[0] // (row.held.size // load.size)
    over_f = over(load[f], ceiling)
    most = 0.0
    for h in range(load.size):
        if h != f:
            most = max(most, load[h] - ceiling)
    for root in roots:
        push[root] = (max(aim - room[root], 0.0) if soft else 0.0) - price * away[root]
    best, end, depth = least, -1, 0
    lowest = 0.0
    for level in range(levels):
        # what the GPUs still to come can save, less what the last arrival costs
        hope = best + over_f + max((most - price if soft else 1.0) * (levels - 1 - level), 0.0)
        if paths.lacks[f] == 0:
            hope -= price
        if level == 0:
            lowest = _first_labels(row, roots, paths, ceiling, price, soft, colocated, hope)
        else:
            _minima(paths, level - 1, soft)
            lowest = _next_labels(row, f, level, lowest, paths, ceiling, price, soft, colocated, hope)
        if lowest == np.inf:
            break
        value, slot = _close(row, f, level, aim, paths, price, soft, colocated, best + over_f)
        if slot >= 0:
            best, end, depth = value - over_f, slot, level
    if end < 0:
        return best, 0
    for level in range(depth, -1, -1):
        cycle[level + 1] = end
        end = back[level, end]
    cycle[0] = end
    return best, depth + 2


@kernel
def _first_labels(row, roots, paths, ceiling, price, soft, colocated, hope):  # type: ignore[no-untyped-def]
    """Fill the labels of the slots that the roots push out, if below ``hope``; returns the lowest."""
    held, here, home, load = row.held, row.here, row.home, row.load
    sizes, room, away, strays, lacks = paths.sizes, paths.room, paths.away, paths.strays, paths.lacks
    label, back, origin, push = paths.label[0], paths.back[0], paths.origin[0], paths.push
    low, high = paths.low[0], paths.high[0]
    number = roots.size
    k = held.size // load.size
    empty = row.size.size - 1
    f = roots[0] // k
    enter = np.empty(number)
    low[0] = high[number] = -1
    lowest = np.inf
    known = False
    for h in range(load.size):
        label[h * k : (h + 1) * k] = np.inf
        over_h = over(load[h], ceiling)
        if h == f or (not soft and lacks[h] == 0):
            continue
        if not known or lacks[h] > 0 or not colocated:
            known = lacks[h] == 0
            for i in range(number):
                expert = held[roots[i]]
                enter[i] = push[roots[i]]
                if expert < empty:
                    if here[h, expert] >= home[h, expert]:
                        enter[i] = enter[i] + price if soft else np.inf
                    if not colocated and here[h, expert] > 0:
                        enter[i] = np.inf
            least = np.inf
            for i in range(number):
                low[i + 1] = low[i]
                if enter[i] < least:
                    least, low[i + 1] = enter[i], i
            cheapest = least
            least = np.inf
            for i in range(number - 1, -1, -1):
                high[i] = high[i + 1]
                if enter[i] + sizes[roots[i]] < least:
                    least, high[i] = enter[i] + sizes[roots[i]], i
        if cheapest - over_h - price * strays[h] >= hope:
            continue
        fitting = 0
        for rank in range(h * k, (h + 1) * k):
            q = paths.ranked[rank]
            while fitting < number and sizes[roots[fitting]] <= room[q]:
                fitting += 1
            value, source = np.inf, -1
            i = low[fitting]
            if i >= 0 and held[roots[i]] != held[q]:
                value, source = enter[i], roots[i]
            i = high[fitting]
            if soft and i >= 0 and held[roots[i]] != held[q] and enter[i] + sizes[roots[i]] - room[q] < value:
                value, source = enter[i] + sizes[roots[i]] - room[q], roots[i]
            value -= over_h + price * away[q]
            if value < hope:
                label[q], back[q], origin[q] = value, source, source
                lowest = min(lowest, value)
    return lowest


@kernel
def _next_labels(row, f, level, base, paths, ceiling, price, soft, colocated, hope):  # type: ignore[no-untyped-def]
    """Fill the labels of a level from the level above, whose lowest is ``base``; returns the lowest."""
    held, here, home, load = row.held, row.here, row.home, row.load
    sizes, room, away, fits, gpu_of = paths.sizes, paths.room, paths.away, paths.fits, paths.gpu_of
    label, above, back, origin = paths.label[level], paths.label[level - 1], paths.back, paths.origin
    low, high = paths.low, paths.high
    k = held.size // load.size
    empty = row.size.size - 1
    lowest = np.inf
    for h in range(load.size):
        label[h * k : (h + 1) * k] = np.inf
        over_h = over(load[h], ceiling)
        enter = base + (price if paths.lacks[h] == 0 else 0.0)
        if h == f or enter - over_h - price * paths.strays[h] >= hope or (not soft and enter > -0.5):
            continue
        for q in range(h * k, (h + 1) * k):
            value, source = np.inf, -1
            fit = room[q]
            if fits[q] < 0:
                fits[q] = number_up_to(paths.rising, fit)
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
            if not soft and value > -0.5:
                continue
            value -= over_h + price * away[q]
            if value < hope:
                label[q], back[level, q], origin[level, q] = value, source, origin[level - 1, source]
                lowest = min(lowest, value)
    return lowest


@kernel
def _close(row, f, level, aim, paths, price, soft, colocated, least):  # type: ignore[no-untyped-def]
    """Cost and last slot of the cheapest way back to ``f`` from a level, if below ``least``."""
    held, here, home, sizes, room = row.held, row.here[f], row.home[f], paths.sizes, paths.room
    label, origin = paths.label[level], paths.origin[level]
    empty = row.size.size - 1
    end = -1
    for q in range(held.size):
        if label[q] == np.inf:
            continue
        left = room[origin[q]]
        value = label[q]
        if soft:
            value += max(sizes[q] - left, 0.0) - max(aim - left, 0.0)
        elif sizes[q] > left:
            continue
        if value >= least:
            continue
        b = held[q]
        if b < empty:
            if here[b] >= home[b]:
                value += price
            if not colocated and here[b] > 0:
                continue
        if value < least:
            least, end = value, q
    return least, end


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
    root = np.empty(1, np.int64)
    waiting = slots
    p = 0
    while waiting > 0 and not raised(stop):
        waiting -= 1
        b, f = held[p], p // k
        if b < empty and here[f, b] > home[f, b]:
            changed = row.count[b] > 1 and _give_back(row, p, ceiling, colocated)
            if not changed:
                root[0] = p
                _, length = cheapest_cycle(row, root, 0.0, ceiling, paths, 1.0, False, colocated, -0.5, cycle)
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
