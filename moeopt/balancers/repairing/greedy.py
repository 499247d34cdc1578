"""Compiled greedy of ``repair``: swaps and replacements by excess removed per move."""

from typing import Any, NamedTuple

import numpy as np

from moeopt._kernel import copy_into, kernel
from moeopt._stop import raised
from moeopt.balancers.repairing.cycles import cheapest_cycle, cycle_cost, turn
from moeopt.balancers.repairing.kernels import (
    FREE,
    TINY,
    count_moves,
    excess,
    exchange,
    over,
    recount_loads,
    replace,
    taken_over,
    together,
)
from moeopt.balancers.repairing.paths import new_paths, survey

_LEAST_COST = -2

_AIMS = 3
"""Sizes of the last copy for which cycles are looked for."""


@kernel
def rates():  # type: ignore[no-untyped-def]
    """What a unit of excess removed is worth at -2 to 2 moves; -2 comes first."""
    table = np.empty(5)
    for cost in range(_LEAST_COST, 3):
        table[cost - _LEAST_COST] = 1 / cost if cost > 0 else (1 - cost) / FREE
    return table


@kernel
def best_swap(row, paths, f, ceiling, colocated, rate, least):  # type: ignore[no-untyped-def]
    """The most valuable swap of GPU ``f`` with another one, if above ``least``: value, two slots, moves.

    What is removed grows with the size given, until the excess is gone or the room is full, and falls when both are.
    So the search goes from there outwards, as long as the other slot's best price leaves hope.
    """
    held, here, home, load = row.held, row.here, row.home, row.load
    sizes, ranked, away, strays, lacks = paths.sizes, paths.ranked, paths.away, paths.strays, paths.lacks
    gpus = load.size
    k = held.size // gpus
    empty = row.size.size - 1
    top, i_top, j_top, spent = least, -1, -1, 0
    excess_f = load[f] - ceiling
    for h in range(gpus):
        room = ceiling - load[h]
        most = min(excess_f, room)
        cheap = 1 - lacks[f] - strays[h]
        if h == f or most * rate[3 + cheap - lacks[h] - strays[f]] <= top:
            continue
        t = k - 1
        for rank in range(k - 1, -1, -1):
            i = ranked[f * k + rank]
            a = held[i]
            own = sizes[i]
            if a == empty or own <= 0.0:
                break
            while t >= 0 and own - sizes[ranked[h * k + t]] < most:
                t -= 1
            cost_a = int(here[h, a] >= home[h, a]) - int(away[i])
            hope = rate[2 + cost_a + cheap]
            if most * hope <= top or not (colocated or here[h, a] == 0):
                continue
            for step in (-1, 1):
                u = t if step < 0 else t + 1
                while 0 <= u < k:
                    j = ranked[h * k + u]
                    u += step
                    give = own - sizes[j]
                    removed = min(give, excess_f) - max(give - room, 0.0)
                    if removed * hope <= top:
                        break
                    b = held[j]
                    cost = cost_a
                    if b < empty:
                        cost += int(here[f, b] >= home[f, b]) - int(away[j])
                    value = removed * rate[2 + cost]
                    if value > top and (colocated or b == empty or here[f, b] == 0):
                        top, i_top, j_top, spent = value, i, j, cost
    return top, i_top, j_top, spent


class Spreads(NamedTuple):
    """Per expert the size of a copy if there is one less or one more, and how its holders' excess changes."""

    grown: Any
    rises: Any
    shrunk: Any
    falls: Any


@kernel
def best_replacement(row, paths, spreads, f, ceiling, colocated, gaps, rate, least):  # type: ignore[no-untyped-def]
    """The most valuable replacement that relieves GPU ``f``, if above ``least``: value, slot, expert, moves.

    Either a slot of ``f`` takes any expert, or an expert of ``f`` takes a slot elsewhere.
    """
    held, size, here, home, load, count = row.held, row.size, row.here, row.home, row.load, row.count
    grown, rises, shrunk, falls = spreads.grown, spreads.rises, spreads.shrunk, spreads.falls
    away, lacks = paths.away, paths.lacks
    slots = held.size
    k = slots // load.size
    empty = size.size - 1
    top, where, what, spent = least, -1, -1, 0
    most_falls, lightest, heaviest = 0.0, np.inf, 0.0
    for t in range(f * k, (f + 1) * k):
        b = held[t]
        most_falls = min(most_falls, falls[b])
        lightest, heaviest = min(lightest, shrunk[b]), max(heaviest, shrunk[b])
    for slot in range(slots):
        a = held[slot]
        if count[a] < 2 and a < empty:
            continue
        gpu = slot // k
        now = over(load[gpu], ceiling)
        n_a, others = 0, 0.0
        if a < empty:
            n_a = here[gpu, a]
            others = rises[a] - over(load[gpu] + n_a * (grown[a] - size[a]), ceiling) + now
        left = load[gpu] - size[a] + (n_a - 1) * (grown[a] - size[a]) - ceiling
        gone = int(away[slot])
        own = gpu == f
        cheapest = rate[2 - gone + int(lacks[gpu] == 0 and not (own and gaps))]
        if not own:
            change = others + most_falls + max(left + lightest, 0.0) - now
            if (min(others, heaviest) - change) * cheapest <= top:
                continue
        for t in range(empty + gaps if own else k):
            b = t if own else held[f * k + t]
            change = others + falls[b] + max(left + shrunk[b], 0.0) - now
            n_b = here[gpu, b] if b < empty else 0
            # where a GPU holds both, not all of what the copies of a gain counts
            if n_b == 0 and (min(others, shrunk[b]) - change) * cheapest <= top:
                continue
            if b == a or (b == empty and not own) or (n_b > 0 and not colocated):
                continue
            cost = 2 - gone
            if b < empty:
                cost += int(n_b >= home[gpu, b])
            if n_b > 0:
                change = rises[a] + falls[b]
                change += taken_over(load[gpu], ceiling, size[a], grown[a], n_a, size[b], shrunk[b], n_b)
            if (min(others, shrunk[b]) - change) * rate[cost] <= top:
                continue
            if others > 0.0:
                change -= together(row, gpu, a, b, ceiling)
            value = -change * rate[cost]
            if value > top:
                top, where, what, spent = value, slot, b, cost - 2
    return top, where, what, spent


@kernel
def new_spreads(row):  # type: ignore[no-untyped-def]
    """Room for them; an empty slot has none."""
    experts = row.size.size
    return Spreads(np.zeros(experts), np.zeros(experts), np.zeros(experts), np.zeros(experts))


@kernel
def fill_spreads(row, ceiling, spreads):  # type: ignore[no-untyped-def]
    """Look at every expert again."""
    weight, size, count, first, after = row.weight, row.size, row.count, row.first, row.after
    here, load = row.here, row.load
    k = row.held.size // load.size
    for expert in range(size.size - 1):
        grown, shrunk = weight[expert] / max(count[expert] - 1, 1), weight[expert] / (count[expert] + 1)
        rise, fall = grown - size[expert], shrunk - size[expert]
        up = down = 0.0
        slot = first[expert]
        while slot >= 0:
            gpu = slot // k
            n = here[gpu, expert]
            now = over(load[gpu], ceiling)
            up += (over(load[gpu] + n * rise, ceiling) - now) / n
            down += (over(load[gpu] + n * fall, ceiling) - now) / n
            slot = after[slot]
        spreads.grown[expert], spreads.rises[expert] = grown, up
        spreads.shrunk[expert], spreads.falls[expert] = shrunk, down


@kernel
def _fullest(load, seen):  # type: ignore[no-untyped-def]
    """The fullest GPU that has not been seen; any if all have."""
    fullest = 0
    for gpu in range(load.size):
        if seen[gpu] <= seen[fullest] and (load[gpu] > load[fullest] or seen[gpu] < seen[fullest]):
            fullest = gpu
    return fullest


@kernel
def descend(row, ceiling, limit, colocated, gaps, breadth, levels, hope, stop):  # type: ignore[no-untyped-def]
    """Take the most valuable move until nothing exceeds the ceiling, ``limit`` moves are made or nothing helps.

    The candidates are those that relieve one of the ``breadth`` fullest GPUs, or the next one if there are
    none; of the fullest also cycles of up to ``levels`` + 1 GPUs, if ``levels`` > 0.
    It gives up when the moves left would not do even if they removed ``hope`` times as much as the one found,
    since later ones hardly ever remove more.
    """
    slots = row.held.size
    k = slots // row.load.size
    spreads = new_spreads(row)
    rate = rates()
    paths = new_paths(row, levels)
    seen = np.zeros(row.load.size, np.int64)
    cycle, trial = np.empty(levels + 1, np.int64), np.empty(levels + 1, np.int64)
    moves = count_moves(row)
    total = excess(row, ceiling)
    for _ in range(8 * slots):
        if total <= 0.0 or raised(stop):
            break
        fill_spreads(row, ceiling, spreads)
        top = TINY * ceiling
        slot = other = -1
        cost = length = 0
        survey(row, ceiling, paths)
        seen[:] = 0
        for rank in range(row.load.size):
            f = _fullest(row.load, seen)
            if row.load[f] <= ceiling or raised(stop):
                break
            seen[f] = 1
            value, i, j, spent = best_swap(row, paths, f, ceiling, colocated, rate, top)
            if i >= 0:
                top, slot, other, cost, length = value, i, j, spent, 2
            value, i, j, spent = best_replacement(row, paths, spreads, f, ceiling, colocated, gaps, rate, top)
            if i >= 0:
                top, slot, other, cost, length = value, i, j, spent, 0
            if slot >= 0 and rank + 1 >= breadth:
                break
        if levels > 0:
            f = np.argmax(row.load)
            roots = paths.ranked[f * k : (f + 1) * k]
            for aim in range(_AIMS):
                if raised(stop):
                    break
                last = paths.rising[(2 * aim + 1) * slots // (2 * _AIMS)]
                least, n = cheapest_cycle(
                    row, roots, last, ceiling, paths, top, True, colocated, -TINY * ceiling, trial
                )
                if n > 2:
                    spent = cycle_cost(row, trial, n)
                    removed = top * spent - least
                    if spent > 0 and removed > top * spent:
                        top, slot, cost, length = removed / spent, trial[0], spent, n
                        copy_into(trial, cycle)
        if slot < 0 or moves + cost > limit or (cost > 0 and hope * top * (min(limit, slots) - moves) < total):
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
