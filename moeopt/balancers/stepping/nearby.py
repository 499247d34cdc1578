"""Compiled enumeration of ``scenario_search``: the best single change of a placement within a limit of moves."""

import numpy as np

from moeopt._kernel import kernel
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

_FREE = 0.25
"""What a change without moves counts as moves when gains per move are compared."""


@kernel
def best_change(row, per_node, colocated, gaps, left, per_move, floor, stop):  # type: ignore[no-untyped-def]
    """Best of all swaps and replacements that cost at most ``left`` moves: slot, other slot or -1, expert, moves.

    ``per_move``: the largest gain per move wins, not the largest; the slot is -1 where none gains ``floor``.
    O(slots**2 * steps + slots * experts * gpus * steps).
    """
    slots, experts = row.held.size, row.count.size - 1
    gpus = row.load.shape[0]
    k = slots // gpus
    node = k * per_node
    most = np.empty(row.load.shape[1])
    best, found = -floor, (-1, -1, -1, 0)
    for p in range(slots):
        if raised(stop):
            return -1, -1, -1, 0
        f, a = p // k, row.held[p]
        for q in range((f + 1) * k, (p // node + 1) * node):
            h, b = q // k, row.held[q]
            if a == b or not (may_enter(row, a, h, colocated) and may_enter(row, b, f, colocated)):
                continue
            cost = arrival(row, a, h) - departure(row, a, f) + arrival(row, b, f) - departure(row, b, h)
            if cost <= left:
                gain = swap_rise(row.load, row.share, row.top, row.who, f, h, a, b)
                if per_move:
                    gain /= max(cost, _FREE)
                if gain < best:
                    best, found = gain, (p, q, b, cost)
        if (a < experts and row.count[a] == 1) or (p % k > 0 and a in row.held[f * k : p]):
            continue  # the last copy stays; a second copy on the same GPU is the same change
        for b in range(experts + int(gaps)):
            if a == b or not may_enter(row, b, f, colocated):
                continue
            cost = arrival(row, b, f) - departure(row, a, f)
            if cost > left or (per_node < gpus and b < experts and not on_node(row, b, f // per_node, per_node)):
                continue
            gain = replacement_rise(row, most, f, a, b)
            if per_move:
                gain /= max(cost, _FREE)
            if gain < best:
                best, found = gain, (p, -1, b, cost)
    return found


@kernel
def on_node(row, expert, node, per_node):  # type: ignore[no-untyped-def]
    """Whether a node holds an expert."""
    return row.here[expert, node * per_node : (node + 1) * per_node].sum() > 0


@kernel
def descend(held, weight, gpus, per_node, colocated, gaps, limit, per_move, stop):  # type: ignore[no-untyped-def]
    """Change ``held [slots]``, the reference, for the best within ``limit`` moves; returns the objective."""
    row = new_row(weight, held, gpus)
    now = settle(row, held)
    while not raised(stop):
        left = limit - count_moves(row)
        p, q, b, _ = best_change(row, per_node, colocated, gaps, left, per_move, TINY * now, stop)
        if p < 0:
            break
        now = replace(row, p, b) if q < 0 else swap(row, p, q)
    held[:] = row.held
    return now
