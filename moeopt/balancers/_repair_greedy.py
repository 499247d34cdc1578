"""Compiled greedy of ``repair``: swaps and replacements by excess removed per move."""

import numpy as np

from moeopt._kernel import kernel
from moeopt.balancers._repair_kernels import (
    FREE,
    TINY,
    arrival,
    count_moves,
    departure,
    excess,
    exchange,
    may_enter,
    over,
    recount_loads,
    replace,
    replacement,
    spread,
)


@kernel
def worth(removed, cost):  # type: ignore[no-untyped-def]
    """Excess removed per move."""
    return removed / cost if cost > 0 else removed / FREE * (1 - cost)


@kernel
def best_swap(row, f, ceiling, colocated, least):  # type: ignore[no-untyped-def]
    """The most valuable swap of GPU ``f`` with another one, if above ``least``: value, two slots, moves."""
    gpus = row.load.size
    k = row.held.size // gpus
    top, here, there, spent = least, -1, -1, 0
    before = over(row.load[f], ceiling)
    for h in range(gpus):
        if h == f:
            continue
        now = before + over(row.load[h], ceiling)
        room = ceiling - row.load[h]
        for i in range(f * k, (f + 1) * k):
            a = row.held[i]
            gone = departure(row, a, f)
            fresh = arrival(row, a, h)
            for j in range(h * k, (h + 1) * k):
                b = row.held[j]
                give = row.size[a] - row.size[b]
                if give <= 0.0:
                    continue
                removed = now - over(row.load[f] - give, ceiling) - max(give - room, 0.0)
                if removed * (2 / FREE) <= top:
                    continue
                cost = fresh - gone + arrival(row, b, f) - departure(row, b, h)
                value = worth(removed, cost)
                if value > top and may_enter(row, a, h, colocated) and may_enter(row, b, f, colocated):
                    top, here, there, spent = value, i, j, cost
    return top, here, there, spent


@kernel
def best_replacement(row, f, ceiling, colocated, gaps, rises, falls, least):  # type: ignore[no-untyped-def]
    """The most valuable replacement that relieves GPU ``f``, if above ``least``: value, slot, expert, moves."""
    slots = row.held.size
    k = slots // row.load.size
    empty = row.size.size - 1
    top, where, what, spent = least, -1, -1, 0
    for slot in range(slots):
        a = row.held[slot]
        if a < empty and row.count[a] < 2:
            continue
        gpu = slot // k
        gone = departure(row, a, gpu)
        if gpu == f:
            for b in range(empty + gaps):
                if b != a and may_enter(row, b, gpu, colocated):
                    cost = arrival(row, b, gpu) - gone
                    value = worth(-replacement(row, slot, b, rises[a], falls[b], ceiling), cost)
                    if value > top:
                        top, where, what, spent = value, slot, b, cost
        else:
            for own in range(f * k, (f + 1) * k):
                b = row.held[own]
                if b != a and b < empty and may_enter(row, b, gpu, colocated):
                    cost = arrival(row, b, gpu) - gone
                    value = worth(-replacement(row, slot, b, rises[a], falls[b], ceiling), cost)
                    if value > top:
                        top, where, what, spent = value, slot, b, cost
    return top, where, what, spent


@kernel
def spreads(row, ceiling, rises, falls):  # type: ignore[no-untyped-def]
    """``spread`` of every expert for a copy less and a copy more."""
    for expert in range(row.size.size - 1):
        falls[expert] = spread(row, expert, 1, ceiling)
        rises[expert] = spread(row, expert, -1, ceiling) if row.count[expert] > 1 else np.inf


@kernel
def descend(row, ceiling, limit, colocated, gaps, broad):  # type: ignore[no-untyped-def]
    """Take the most valuable move until nothing exceeds the ceiling, ``limit`` moves are made or nothing helps.

    ``broad``: among all GPUs above the ceiling, not just the fullest one that any move relieves.
    """
    gpus = row.load.size
    rises = np.zeros(row.size.size)
    falls = np.zeros(row.size.size)
    moves = count_moves(row)
    total = excess(row, ceiling)
    for _ in range(8 * row.held.size):
        if total <= 0.0:
            break
        spreads(row, ceiling, rises, falls)
        top = TINY * ceiling
        slot = other = -1
        cost = 0
        swaps = False
        for f in np.argsort(-row.load):
            if row.load[f] <= ceiling:
                break
            value, i, j, spent = best_swap(row, f, ceiling, colocated, top)
            if i >= 0:
                top, slot, other, cost, swaps = value, i, j, spent, True
            value, i, j, spent = best_replacement(row, f, ceiling, colocated, gaps, rises, falls, top)
            if i >= 0:
                top, slot, other, cost, swaps = value, i, j, spent, False
            if slot >= 0 and not broad:
                break
        if slot < 0 or moves + cost > limit:
            break
        if swaps:
            exchange(row, slot, other)
        else:
            replace(row, slot, other)
        moves += cost
        recount_loads(row)
        total = excess(row, ceiling)
    return moves
