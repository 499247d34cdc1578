"""Compiled greedy of ``repair``: swaps and replacements by excess removed per move."""

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import raised
from moeopt.balancers.repairing.cycles import cheapest_cycle, cycle_cost, new_paths, survey, turn
from moeopt.balancers.repairing.kernels import (
    FREE,
    TINY,
    count_moves,
    excess,
    exchange,
    may_enter,
    over,
    recount_loads,
    replace,
    taken_over,
    together,
)

_LEAST_COST = -2


@kernel
def rates():  # type: ignore[no-untyped-def]
    """What a unit of excess removed is worth at -2 to 2 moves; -2 comes first."""
    table = np.empty(5)
    for cost in range(_LEAST_COST, 3):
        table[cost - _LEAST_COST] = 1 / cost if cost > 0 else (1 - cost) / FREE
    return table


@kernel
def best_swap(row, f, ceiling, colocated, rate, least):  # type: ignore[no-untyped-def]
    """The most valuable swap of GPU ``f`` with another one, if above ``least``: value, two slots, moves."""
    held, size, here, home, load = row.held, row.size, row.here, row.home, row.load
    gpus = load.size
    k = held.size // gpus
    empty = size.size - 1
    top, i_top, j_top, spent = least, -1, -1, 0
    excess_f = load[f] - ceiling
    sizes = np.empty(k)
    costs = np.empty(k, np.int64)
    most = rate[0]
    for h in range(gpus):
        if h == f:
            continue
        room = ceiling - load[h]
        before = excess_f + max(-room, 0.0)
        for t in range(k):
            b = held[h * k + t]
            sizes[t] = size[b]
            costs[t] = 2
            if b < empty:
                costs[t] += int(here[f, b] >= home[f, b]) - int(here[h, b] > home[h, b])
        for i in range(f * k, (f + 1) * k):
            a = held[i]
            if a == empty:
                continue
            own = size[a]
            cost_a = int(here[h, a] >= home[h, a]) - int(here[f, a] > home[f, a])
            for t in range(k):
                give = own - sizes[t]
                if give <= 0.0:
                    continue
                removed = before - max(excess_f - give, 0.0) - max(give - room, 0.0)
                if removed * most <= top:
                    continue
                value = removed * rate[cost_a + costs[t]]
                if value > top:
                    j = h * k + t
                    if colocated or (may_enter(row, a, h, False) and may_enter(row, held[j], f, False)):
                        top, i_top, j_top, spent = value, i, j, cost_a + costs[t] - 2
    return top, i_top, j_top, spent


@kernel
def best_replacement(row, f, ceiling, colocated, gaps, rises, falls, rate, least):  # type: ignore[no-untyped-def]
    """The most valuable replacement that relieves GPU ``f``, if above ``least``: value, slot, expert, moves.

    Either a slot of ``f`` takes any expert, or an expert of ``f`` takes a slot elsewhere.
    """
    held, size, here, home, load = row.held, row.size, row.here, row.home, row.load
    weight, count = row.weight, row.count
    slots = held.size
    k = slots // load.size
    empty = size.size - 1
    top, where, what, spent = least, -1, -1, 0
    for slot in range(slots):
        a = held[slot]
        if count[a] < 2 and a < empty:
            continue
        gpu = slot // k
        grown, gone, n_a = 0.0, 0, 0
        if a < empty:
            grown = weight[a] / (count[a] - 1)
            n_a = here[gpu, a]
            gone = int(n_a > home[gpu, a])
        own = gpu == f
        for t in range(empty + gaps if own else k):
            b = t if own else held[f * k + t]
            if b == a or (b == empty and not own):
                continue
            shrunk, cost, n_b = 0.0, 2 - gone, 0
            if b < empty:
                shrunk = weight[b] / (count[b] + 1)
                n_b = here[gpu, b]
                cost += int(n_b >= home[gpu, b])
                if n_b > 0 and not colocated:
                    continue
            change = rises[a] + falls[b] + taken_over(load[gpu], ceiling, size[a], grown, n_a, size[b], shrunk, n_b)
            if (rises[a] - change) * rate[cost] <= top:
                continue
            if rises[a] > 0.0:
                change -= together(row, gpu, a, b, ceiling)
            value = -change * rate[cost]
            if value > top:
                top, where, what, spent = value, slot, b, cost - 2
    return top, where, what, spent


@kernel
def spreads(row, ceiling, rises, falls):  # type: ignore[no-untyped-def]
    """``spread`` of every expert for a copy less and a copy more."""
    weight, size, count, first, after = row.weight, row.size, row.count, row.first, row.after
    here, load = row.here, row.load
    k = row.held.size // load.size
    for expert in range(size.size - 1):
        rise = weight[expert] / max(count[expert] - 1, 1) - size[expert]
        fall = weight[expert] / (count[expert] + 1) - size[expert]
        up = down = 0.0
        slot = first[expert]
        while slot >= 0:
            gpu = slot // k
            n = here[gpu, expert]
            now = over(load[gpu], ceiling)
            up += (over(load[gpu] + n * rise, ceiling) - now) / n
            down += (over(load[gpu] + n * fall, ceiling) - now) / n
            slot = after[slot]
        rises[expert], falls[expert] = up, down


@kernel
def descend(row, ceiling, limit, colocated, gaps, breadth, levels, stop):  # type: ignore[no-untyped-def]
    """Take the most valuable move until nothing exceeds the ceiling, ``limit`` moves are made or nothing helps.

    The candidates are those that relieve one of the ``breadth`` fullest GPUs, or the next one if there are
    none; of the fullest also cycles of up to ``levels`` + 1 GPUs, if ``levels`` > 0.
    """
    slots = row.held.size
    k = slots // row.load.size
    rises = np.zeros(row.size.size)
    falls = np.zeros(row.size.size)
    rate = rates()
    paths = new_paths(slots, levels)
    cycle, trial = np.empty(levels + 1, np.int64), np.empty(levels + 1, np.int64)
    moves = count_moves(row)
    total = excess(row, ceiling)
    for _ in range(8 * slots):
        if total <= 0.0 or raised(stop):
            break
        spreads(row, ceiling, rises, falls)
        top = TINY * ceiling
        slot = other = -1
        cost = length = 0
        falling = np.argsort(-row.load)
        for rank, f in enumerate(falling):
            if row.load[f] <= ceiling or raised(stop):
                break
            value, i, j, spent = best_swap(row, f, ceiling, colocated, rate, top)
            if i >= 0:
                top, slot, other, cost, length = value, i, j, spent, 2
            value, i, j, spent = best_replacement(row, f, ceiling, colocated, gaps, rises, falls, rate, top)
            if i >= 0:
                top, slot, other, cost, length = value, i, j, spent, 0
            if slot >= 0 and rank + 1 >= breadth:
                break
        if levels > 0:
            survey(row, ceiling, paths)
            f = falling[0]
            for root in range(f * k, (f + 1) * k):
                if raised(stop):
                    break
                least, n = cheapest_cycle(row, root, ceiling, paths, top, True, colocated, -TINY * ceiling, trial)
                if n > 2:
                    spent = cycle_cost(row, trial, n)
                    removed = top * spent - least
                    if spent > 0 and removed > top * spent:
                        top, slot, cost, length = removed / spent, root, spent, n
                        cycle[:] = trial
        if slot < 0 or moves + cost > limit:
            break
        if length > 2:
            turn(row, cycle, length)
        elif length == 2:
            exchange(row, slot, other)
        else:
            replace(row, slot, other)
        moves += cost
        recount_loads(row)
        total = excess(row, ceiling)
    return moves
