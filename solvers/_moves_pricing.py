"""Kernels of ``moves_bound``: what copies cost at given prices, and what the contents of GPUs can collect.

Arrays: ``first, last [experts, classes]`` replica counts of every class, ``last`` 0 where there are fewer classes;
``size [experts, classes]`` of a copy in steps of the capacity; ``keep [copies, classes]`` price of every copy of the
reference if it stays, ``bring [experts, classes]`` of one that arrives; ``kept`` and ``brought`` count their use.
"""

from __future__ import annotations

import numpy as np

from moeopt._kernel import copy_rows, kernel
from moeopt._sorting import rising_order


@kernel
def cheapest_counts(first, last, keep, bring, copies_of, num_copies, kept, brought):  # type: ignore[no-untyped-def]
    """Price of the cheapest replica counts and copies of all experts; adds each use to ``kept`` and ``brought``.

    Of ``c`` copies those that stay, for less than an arrival, are taken first.
    """
    experts, classes = first.shape
    price = np.empty(copies_of.shape[1])
    total = 0.0
    for e in range(experts):
        held = num_copies[e]
        best, best_class, best_count = np.inf, -1, 0
        for t in range(classes):
            if last[e, t] == 0:
                break
            for i in range(held):
                price[i] = keep[copies_of[e, i], t]
            order = rising_order(price[:held])
            cost = 0.0
            for c in range(last[e, t]):
                cost += min(price[order[c]], bring[e, t]) if c < held else bring[e, t]
                if c + 1 >= first[e, t] and cost < best:
                    best, best_class, best_count = cost, t, c + 1
        total += best
        for i in range(held):
            price[i] = keep[copies_of[e, i], best_class]
        order = rising_order(price[:held])
        for c in range(best_count):
            if c < held and price[order[c]] < bring[e, best_class]:
                kept[copies_of[e, order[c]], best_class] += 1
            else:
                brought[e, best_class] += 1
    return total


@kernel
def arrival_values(last, size, bring, cost, worth, offer):  # type: ignore[no-untyped-def]
    """Most that exactly ``j`` arrivals within a capacity are worth, ``worth [j, capacity]``, after ``cost`` each.

    ``offer`` receives the best arrival (expert * classes + class) of every size that is worth more than all
    smaller ones, else -1.
    """
    experts, classes = last.shape
    capacity = offer.size - 1
    single = np.full(capacity + 1, -np.inf)
    offer[:] = -1
    for e in range(experts):
        for t in range(classes):
            if last[e, t] > 0 and size[e, t] <= capacity and bring[e, t] - cost > single[size[e, t]]:
                single[size[e, t]] = bring[e, t] - cost
                offer[size[e, t]] = e * classes + t
    best = -np.inf
    for z in range(capacity + 1):
        if single[z] <= best:
            offer[z] = -1
        best = max(best, single[z])
    worth[:] = -np.inf
    worth[0] = 0.0
    for j in range(1, worth.shape[0]):
        for z in range(capacity + 1):
            if offer[z] < 0:
                continue
            _raise_to(worth[j, z:], worth[j - 1, : capacity + 1 - z], single[z])


@kernel
def best_contents(held, gpu, gpus, full, last, size, keep, bring, cost, worth, offer, kept, brought):  # type: ignore[no-untyped-def]
    """Most that the contents of all GPUs are worth together; takes each use off ``kept`` and ``brought``.

    ``held`` and ``gpu`` are expert and GPU of the reference's copies, GPU by GPU. On each GPU any of its copies stay,
    each in any class, and arrivals fill its slots, or some of them where it need not be ``full``.
    """
    classes = last.shape[1]
    slots, capacity = worth.shape[0] - 1, worth.shape[1] - 1
    most = run = 0
    for i in range(gpu.size):
        run = run + 1 if i > 0 and gpu[i] == gpu[i - 1] else 1
        most = max(most, run)
    value = np.empty((most + 1, slots + 1, capacity + 1))  # of the first copies, a number of which stay
    total, begin = 0.0, 0
    for g in range(gpus):
        end = begin
        value[0] = -np.inf
        value[0, 0] = 0.0
        while end < gpu.size and gpu[end] == g:
            i, e = end - begin, held[end]
            copy_rows(value[i], value[i + 1])
            highest = -np.inf
            for t in range(classes - 1, -1, -1):  # by rising size: a larger copy must be worth more
                z = size[e, t]
                if last[e, t] == 0 or z > capacity or keep[end, t] <= highest:
                    continue
                highest = keep[end, t]
                for n in range(min(i + 1, slots)):
                    _raise_to(value[i + 1, n + 1, z:], value[i, n, : capacity + 1 - z], highest)
            end += 1
        count = end - begin
        best, stay, arrive, room = -np.inf, 0, 0, 0
        for n in range(min(count, slots) + 1):
            for j in range(slots - n if full else 0, slots - n + 1):
                for s in range(capacity + 1):
                    now = value[count, n, s] + worth[j, capacity - s]
                    if now > best:
                        best, stay, arrive, room = now, n, j, s
        total += best
        left = capacity - room
        for i in range(count - 1, -1, -1):
            if value[i, stay, room] == value[i + 1, stay, room]:
                continue
            e = held[begin + i]
            for t in range(classes):
                z = size[e, t]
                if last[e, t] == 0 or z > room:
                    continue
                if value[i, stay - 1, room - z] + keep[begin + i, t] == value[i + 1, stay, room]:
                    kept[begin + i, t] -= 1
                    stay -= 1
                    room -= z
                    break
        for j in range(arrive, 0, -1):
            for z in range(left + 1):
                if offer[z] < 0:
                    continue
                e, t = offer[z] // classes, offer[z] % classes
                if worth[j - 1, left - z] + (bring[e, t] - cost) == worth[j, left]:
                    brought[e, t] -= 1
                    left -= z
                    break
        begin = end
    return total


@kernel
def _raise_to(value, base, price):  # type: ignore[no-untyped-def]
    """Raise every ``value`` to ``base + price`` where that is more."""
    for s in range(base.size):
        value[s] = max(value[s], base[s] + price)
