"""Compiled enumeration of ``scenario_search``: the best single change of a placement within a limit of moves."""

import numpy as np

from moeopt._kernel import copy_into, kernel
from moeopt._sorting import rising_order
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
from moeopt.balancers.swaps import holds

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
    most = np.empty(row.load.shape[1])
    best, found = -floor, (-1, -1, -1, 0)
    reach, holder = reaches(row), only_holders(row)
    order = rising_order(-reach)
    for i in range(slots):
        if raised(stop):
            return -1, -1, -1, 0
        f = order[i // k]
        p = f * k + i % k
        a = row.held[p]
        for h in order[i // k + 1 :]:
            if reach[f] + reach[h] <= -best * (_FREE if per_move else 1.0):
                break
            if h // per_node != f // per_node or not may_enter(row, a, h, colocated):
                continue
            for q in range(h * k, (h + 1) * k):
                b = row.held[q]
                if a == b or not may_enter(row, b, f, colocated):
                    continue
                cost = arrival(row, a, h) - departure(row, a, f) + arrival(row, b, f) - departure(row, b, h)
                worth = max(cost, _FREE) if per_move else 1.0
                if cost <= left and reach[f] + reach[h] > -best * worth:
                    gain = swap_rise(row.load, row.share, row.top, row.who, f, h, a, b) / worth
                    if gain < best:
                        best, found = gain, (p, q, b, cost)
        if (a < experts and row.count[a] == 1) or (i % k > 0 and holds(row.held[f * k : p], a)):
            continue  # the last copy stays; a second copy on the same GPU is the same change
        for b in range(experts + int(gaps)):
            g = f if b == experts else holder[b]
            if a == b or (g >= 0 and reach[f] + reach[g] <= -best * (_FREE if per_move else 1.0)):
                continue
            cost = arrival(row, b, f) - departure(row, a, f)
            worth = max(cost, _FREE) if per_move else 1.0
            if cost > left or (g >= 0 and reach[f] + reach[g] <= -best * worth):
                continue
            if not may_enter(row, b, f, colocated):
                continue
            if per_node < gpus and b < experts and not on_node(row, b, f // per_node, per_node):
                continue
            gain = replacement_rise(row, most, f, a, b) / worth
            if gain < best:
                best, found = gain, (p, -1, b, cost)
    return found


@kernel
def reaches(row):  # type: ignore[no-untyped-def]
    """``[gpus]`` sum over the steps in which a GPU is the fullest of its distance to the third fullest.

    What a change gains that relieves two GPUs is at most their sum: in every step one of the three is left.
    """
    reach = np.zeros(row.load.shape[0])
    for t in range(row.load.shape[1]):
        reach[row.who[0, t]] += row.top[0, t] - row.top[2, t]
    return reach


@kernel
def only_holders(row):  # type: ignore[no-untyped-def]
    """``[experts + 1]`` the GPU that holds an expert; -1 where several do."""
    gpus = row.load.shape[0]
    holder = np.full(row.count.size, -1)
    for slot in range(row.held.size):
        holder[row.held[slot]] = slot // (row.held.size // gpus)
    for expert in range(holder.size):
        holders = 0
        for gpu in range(gpus):
            holders += int(row.here[expert, gpu] > 0)
        if holders > 1:
            holder[expert] = -1
    return holder


@kernel
def on_node(row, expert, node, per_node):  # type: ignore[no-untyped-def]
    """Whether a node holds an expert."""
    copies = 0
    for gpu in range(node * per_node, (node + 1) * per_node):
        copies += row.here[expert, gpu]
    return copies > 0


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
    copy_into(row.held, held)
    return now
