"""One layer of ``scenario_search`` and what a change of it would cost, summed over all steps.

A change is a swap of two slots, or a replacement: another expert takes a slot, and the shares of all copies of
both follow. An empty slot holds the expert behind the last one, without load; it arrives and leaves without a move.
"""

from typing import Any, NamedTuple

import numpy as np

from moeopt._kernel import copy_into, copy_rows, kernel

TINY = 1e-12
"""Gains below this share of the objective are rounding."""


class Row(NamedTuple):
    """One layer: ``held [slots]`` experts, and what follows from them.

    ``weight`` and ``share`` are ``[experts + 1, steps]`` loads of experts and of their copies, ``here`` and
    ``home`` ``[experts + 1, gpus]`` copies now and in the reference, ``load [gpus, steps]``; ``top`` and ``who``
    ``[3, steps]`` the loads and numbers of the three fullest GPUs of every step.
    """

    held: Any
    weight: Any
    share: Any
    count: Any
    here: Any
    home: Any
    load: Any
    top: Any
    who: Any


@kernel
def new_row(weight, reference, gpus):  # type: ignore[no-untyped-def]
    """Room for a layer of ``weight [experts, steps]``; nothing is held yet."""
    experts, steps = weight.shape
    row = Row(
        np.empty(reference.size, np.int64),
        np.zeros((experts + 1, steps)),
        np.zeros((experts + 1, steps)),
        np.zeros(experts + 1, np.int64),
        np.zeros((experts + 1, gpus), np.int64),
        np.zeros((experts + 1, gpus), np.int64),
        np.zeros((gpus, steps)),
        np.zeros((3, steps)),
        np.zeros((3, steps), np.int64),
    )
    copy_rows(weight, row.weight)
    k = reference.size // gpus
    for slot in range(reference.size):
        row.home[reference[slot], slot // k] += 1
    return row


@kernel
def settle(row, held):  # type: ignore[no-untyped-def]
    """Let ``row`` hold ``held``; returns the sum over steps of the fullest GPU."""
    gpus = row.load.shape[0]
    k = held.size // gpus
    copy_into(held, row.held)
    row.count[:] = 0
    row.here[:] = 0
    for slot in range(held.size):
        row.count[held[slot]] += 1
        row.here[held[slot], slot // k] += 1
    for expert in range(row.count.size - 1):
        divide(row, expert)
    for gpu in range(gpus):
        add_up(row, gpu)
    return rank(row)


@kernel
def divide(row, expert):  # type: ignore[no-untyped-def]
    """Share an expert's load among its copies."""
    for t in range(row.share.shape[1]):
        row.share[expert, t] = row.weight[expert, t] / row.count[expert]


@kernel
def add_up(row, gpu):  # type: ignore[no-untyped-def]
    """Sum a GPU's loads afresh, so that no rounding piles up."""
    k = row.held.size // row.load.shape[0]
    load, share = row.load, row.share
    load[gpu] = 0.0
    for slot in range(gpu * k, (gpu + 1) * k):
        expert = row.held[slot]
        for t in range(load.shape[1]):
            load[gpu, t] += share[expert, t]


@kernel
def rank(row):  # type: ignore[no-untyped-def]
    """Find the three fullest GPUs of every step; returns the sum over steps of the fullest."""
    load, top, who = row.load, row.top, row.who
    gpus, steps = load.shape
    top[:] = -1.0
    who[:] = -1
    for g in range(gpus):
        for t in range(steps):
            x = load[g, t]
            if x > top[2, t]:
                if x > top[1, t]:
                    top[2, t] = top[1, t]
                    who[2, t] = who[1, t]
                    if x > top[0, t]:
                        top[1, t] = top[0, t]
                        who[1, t] = who[0, t]
                        top[0, t] = x
                        who[0, t] = g
                    else:
                        top[1, t] = x
                        who[1, t] = g
                else:
                    top[2, t] = x
                    who[2, t] = g
    return top[0].sum()


@kernel
def count_moves(row):  # type: ignore[no-untyped-def]
    """Copies on GPUs that the reference does not have there."""
    moves = 0
    for expert in range(row.count.size - 1):
        for gpu in range(row.load.shape[0]):
            moves += max(row.here[expert, gpu] - row.home[expert, gpu], 0)
    return moves


@kernel
def arrival(row, expert, gpu):  # type: ignore[no-untyped-def]
    """Moves that one more copy costs."""
    return int(expert < row.count.size - 1 and row.here[expert, gpu] >= row.home[expert, gpu])


@kernel
def departure(row, expert, gpu):  # type: ignore[no-untyped-def]
    """Moves that one copy less saves."""
    return int(expert < row.count.size - 1 and row.here[expert, gpu] > row.home[expert, gpu])


@kernel
def may_enter(row, expert, gpu, colocated):  # type: ignore[no-untyped-def]
    """Whether a GPU may receive a copy."""
    return colocated or expert == row.count.size - 1 or row.here[expert, gpu] == 0


@kernel
def swap_rise(load, share, top, who, f, h, a, b):  # type: ignore[no-untyped-def]
    """Rise of the objective when GPU ``f`` gives ``a`` to ``h`` for ``b``. O(steps)."""
    rise = 0.0
    for t in range(load.shape[1]):
        give = share[a, t] - share[b, t]
        others = top[2, t]
        if who[0, t] != f and who[0, t] != h:
            others = top[0, t]
        elif who[1, t] != f and who[1, t] != h:
            others = top[1, t]
        rise += max(max(load[f, t] - give, load[h, t] + give), others) - top[0, t]
    return rise


@kernel
def replacement_rise(row, most, f, a, b):  # type: ignore[no-untyped-def]
    """Rise of the objective when ``b`` takes a slot of ``a`` on GPU ``f``; ``most [steps]`` is room. O(steps*gpus)."""
    load, weight, share, here = row.load, row.weight, row.share, row.here
    left, right = max(row.count[a] - 1, 1), row.count[b] + 1
    most[:] = 0.0
    for g in range(load.shape[0]):
        n_a, n_b = here[a, g], here[b, g]
        if n_a + n_b == 0 and g != f:
            for t in range(most.size):
                most[t] = max(most[t], load[g, t])
            continue
        at = int(g == f)
        up_a, up_b = (n_a - at) / left, (n_b + at) / right
        for t in range(most.size):
            change = weight[a, t] * up_a - share[a, t] * n_a + weight[b, t] * up_b - share[b, t] * n_b
            most[t] = max(most[t], load[g, t] + change)
    rise = 0.0
    for t in range(most.size):
        rise += most[t] - row.top[0, t]
    return rise


@kernel
def swap(row, p, q):  # type: ignore[no-untyped-def]
    """Exchange two slots of different GPUs; returns the new objective."""
    k = row.held.size // row.load.shape[0]
    a, b = row.held[p], row.held[q]
    row.held[p], row.held[q] = b, a
    row.here[a, p // k] -= 1
    row.here[b, p // k] += 1
    row.here[b, q // k] -= 1
    row.here[a, q // k] += 1
    add_up(row, p // k)
    add_up(row, q // k)
    return rank(row)


@kernel
def replace(row, p, b):  # type: ignore[no-untyped-def]
    """Let ``b`` take slot ``p``; returns the new objective."""
    gpus, empty = row.load.shape[0], row.count.size - 1
    f = p // (row.held.size // gpus)
    a = row.held[p]
    row.held[p] = b
    for expert, change in ((a, -1), (b, 1)):
        row.count[expert] += change
        row.here[expert, f] += change
        if expert < empty:
            divide(row, expert)
    for g in range(gpus):
        if g == f or (a < empty and row.here[a, g] > 0) or (b < empty and row.here[b, g] > 0):
            add_up(row, g)
    return rank(row)
