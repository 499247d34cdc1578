"""Compiled annealing of ``scenario_search``, within a limit of moves or without."""

import numpy as np

from moeopt._kernel import copy_into, kernel
from moeopt._random import below, random_state, uniform
from moeopt._stop import raised
from moeopt.balancers.stepping.row import (
    TINY,
    arrival,
    count_moves,
    departure,
    may_enter,
    new_row,
    replace,
    replacement_rise,
    settle,
    swap,
    swap_rise,
)

_SAMPLES = 256
"""Random swaps whose mean rise sets the temperature."""

_COOLING = 1e-2
"""Last temperature in units of the first."""

_OVER = 4
"""Moves beyond the limit that an annealing may walk through; each costs half a mean rise."""

_LOOKS = 16
"""Draws after which it no longer looks for a slot that can be emptied, or that is away from home."""


@kernel
def mean_rise(row, per_node, state):  # type: ignore[no-untyped-def]
    """Mean rise of the objective over random swaps that raise it; 0 where none does."""
    total, number = 0.0, 0
    slots = row.held.size
    k = slots // row.load.shape[0]
    for _ in range(_SAMPLES):
        p = below(state, slots)
        q = p // (k * per_node) * (k * per_node) + below(state, k * per_node)
        a, b = row.held[p], row.held[q]
        if a != b and p // k != q // k:
            rise = swap_rise(row.load, row.share, row.top, row.who, p // k, q // k, a, b)
            if rise > 0.0:
                total += rise
                number += 1
    return total / max(number, 1)


@kernel
def missing(row, reference, f, start):  # type: ignore[no-untyped-def]
    """An expert of GPU ``f`` in the reference that it has too few copies of now; -1 = none."""
    k = reference.size // row.load.shape[0]
    for i in range(k):
        e = reference[f * k + (start + i) % k]
        if e < row.count.size - 1 and row.here[e, f] < row.home[e, f]:
            return e
    return -1


@kernel
def home_of(row, expert, start):  # type: ignore[no-untyped-def]
    """A GPU that the reference has more copies of ``expert`` on than there are now; -1 = none."""
    gpus = row.load.shape[0]
    for i in range(gpus):
        g = (start + i) % gpus
        if row.here[expert, g] < row.home[expert, g]:
            return g
    return -1


@kernel
def anneal(held, weight, reference, gpus, per_node, colocated, gaps, limit, heat, trials, seed, stream, stop):  # type: ignore[no-untyped-def]
    """Anneal one layer from ``held [slots]``, which is left at the best found; returns its objective.

    ``weight [experts, steps]``. The first temperature is ``heat`` times the mean rise of sampled swaps. At most
    ``limit`` moves from ``reference [slots]``, which may be any placement where the limit is infinite.
    """
    row = new_row(weight, reference, gpus)
    now = least = settle(row, held)
    state = random_state(seed, stream)
    slots, k, empty = held.size, held.size // gpus, weight.shape[0]
    node = k * per_node
    most = np.empty(weight.shape[1])
    unit = mean_rise(row, per_node, state)
    if unit <= 0.0:
        unit = 1e-3 * now
    temperature = heat * unit
    cooling = _COOLING ** (1.0 / trials)
    price = 0.5 * unit
    spare = slots > empty or gaps
    moves = count_moves(row)
    for _ in range(trials):
        if raised(stop):
            break
        temperature *= cooling
        accepted = -temperature * np.log(1.0 - uniform(state))
        p = below(state, slots)
        draw = below(state, 16)
        hot = below(state, weight.shape[1])
        away = moves >= limit and draw >= 10
        if away:
            for _look in range(_LOOKS):
                if departure(row, row.held[p], p // k):
                    break
                p = below(state, slots)
        elif draw % 2 == 0:
            p = row.who[0, hot] * k + below(state, k)
        if spare and (draw < 3 or draw == 15):
            # another expert takes the slot
            if not away:
                p = below(state, slots)
                for _look in range(_LOOKS):
                    if row.count[row.held[p]] > 1 or row.held[p] == empty:
                        break
                    p = below(state, slots)
            f, a = p // k, row.held[p]
            if a < empty and row.count[a] == 1:
                continue
            if away:
                b = missing(row, reference, f, below(state, k))
            elif gaps and below(state, 8) == 0:
                b = empty
            else:
                q = p // node * node + below(state, node)
                if below(state, 2) == 0 and row.who[0, hot] // per_node == f // per_node:
                    q = row.who[0, hot] * k + below(state, k)
                b = row.held[q]
            if b < 0 or b == a or (b == empty and not gaps) or not may_enter(row, b, f, colocated):
                continue
            cost = arrival(row, b, f) - departure(row, a, f)
            if moves + cost > limit + _OVER:
                continue
            rise = replacement_rise(row, most, f, a, b)
            q = -1
        else:
            f, a = p // k, row.held[p]
            q = p // node * node + below(state, node)
            if away and a < empty:
                h = home_of(row, a, below(state, gpus))
                if h >= 0 and h // per_node == f // per_node:
                    q = h * k + below(state, k)
            h, b = q // k, row.held[q]
            if h == f or a == b or not (may_enter(row, a, h, colocated) and may_enter(row, b, f, colocated)):
                continue
            cost = arrival(row, a, h) - departure(row, a, f) + arrival(row, b, f) - departure(row, b, h)
            if moves + cost > limit + _OVER:
                continue
            rise = swap_rise(row.load, row.share, row.top, row.who, f, h, a, b)
        rise += price * (max(moves + cost - limit, 0) - max(moves - limit, 0))
        if rise < accepted:
            now = replace(row, p, b) if q < 0 else swap(row, p, q)
            moves += cost
            if now < least * (1 - TINY) and moves <= limit:
                least = now
                copy_into(row.held, held)
    return least
