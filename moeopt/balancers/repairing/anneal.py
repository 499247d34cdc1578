"""Compiled annealing of ``repair``: at a fixed ceiling, with ever fewer moves."""

import numpy as np

from moeopt._kernel import copy_into, kernel
from moeopt._random import below
from moeopt.balancers.repairing.kernels import (
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
def draw(state):  # type: ignore[no-untyped-def]
    """Next pseudo-random number in [0, 1)."""
    return below(state, 1 << 53) / (1 << 53)


@kernel
def anneal(row, reference, ceiling, colocated, gaps, price, hot, cold, steps, state, best, fewest):  # type: ignore[no-untyped-def]
    """Swap and replace at random, at temperatures from ``hot`` to ``cold``; ``best`` keeps the fewest moves.

    The energy is the excess over the ceiling and ``price`` for every move from ``fewest`` on. Returns the
    fewest moves without excess, ``fewest`` if there are none below.
    """
    held, size, here, home, load, count = row.held, row.size, row.here, row.home, row.load, row.count
    slots, gpus = held.size, load.size
    k = slots // gpus
    empty = size.size - 1
    # where the reference holds every expert
    begin = np.zeros(empty + 2, np.int64)
    for slot in range(reference.size):
        begin[reference[slot] + 1] += 1
    for expert in range(empty + 1):
        begin[expert + 1] += begin[expert]
    where = np.empty(reference.size, np.int64)
    filled = begin[: empty + 1].copy()
    home_k = reference.size // gpus
    for slot in range(reference.size):
        where[filled[reference[slot]]] = slot // home_k
        filled[reference[slot]] += 1
    moves = count_moves(row)
    total = excess(row, ceiling)
    heat = hot
    cooling = (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        heat *= cooling
        # a copy that is away, if one is found soon
        p = below(state, slots)
        for _look in range(40):
            if here[p // k, held[p]] > home[p // k, held[p]] and held[p] < empty:
                break
            p = below(state, slots)
        a = held[p]
        f = p // k
        kind = below(state, 8)
        if kind >= 2:
            q = below(state, slots)
            if kind < 5 and a < empty and begin[a + 1] > begin[a]:
                g = where[begin[a] + below(state, begin[a + 1] - begin[a])]
                q = g * k + below(state, k)
            elif kind == 5:
                for _look in range(20):
                    if here[q // k, held[q]] > home[q // k, held[q]] and held[q] < empty:
                        break
                    q = below(state, slots)
            h = q // k
            b = held[q]
            if h == f or a == b:
                continue
            if not colocated and not (may_enter(row, a, h, False) and may_enter(row, b, f, False)):
                continue
            give = size[a] - size[b]
            change = (
                over(load[f] - give, ceiling)
                + over(load[h] + give, ceiling)
                - over(load[f], ceiling)
                - over(load[h], ceiling)
            )
            cost = 0
            if a < empty:
                cost += int(here[h, a] >= home[h, a]) - int(here[f, a] > home[f, a])
            if b < empty:
                cost += int(here[f, b] >= home[f, b]) - int(here[h, b] > home[h, b])
            rise = change + price * (max(moves + cost - fewest + 1, 0) - max(moves - fewest + 1, 0))
            if rise <= 0.0 or draw(state) < np.exp(-rise / heat):
                exchange(row, p, q)
                moves += cost
                total += change
            else:
                continue
        else:
            if kind == 0:
                p = below(state, slots)
                a = held[p]
                f = p // k
            for _look in range(20):
                if count[a] > 1:
                    break
                p = below(state, slots)
                a = held[p]
                f = p // k
            if count[a] < 2 and not (a == empty and gaps):
                continue
            b = below(state, empty)
            pick = below(state, 8)
            if gaps and pick == 0:
                b = empty
            elif pick > 3:
                b = reference[f * home_k + below(state, home_k)]
            if b == a or (b == empty and not gaps) or not may_enter(row, b, f, colocated):
                continue
            cost = arrival(row, b, f) - departure(row, a, f)
            extra = price * (max(moves + cost - fewest + 1, 0) - max(moves - fewest + 1, 0))
            rise = extra + replacement(row, p, b, spread(row, a, -1, ceiling), spread(row, b, 1, ceiling), ceiling)
            if rise <= 0.0 or draw(state) < np.exp(-rise / heat):
                replace(row, p, b)
                moves += cost
                total = excess(row, ceiling)
            else:
                continue
        if moves < fewest and total <= ceiling * 1e-9:
            recount_loads(row)
            total = excess(row, ceiling)
            if total <= 0.0:
                copy_into(held, best)
                fewest = moves
    return fewest
