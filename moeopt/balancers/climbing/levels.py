"""Levelling of ``search`` on one row: GPUs brought exactly to a cap, one after another, by exchanges of subsets.

A GPU meets another one; all exchanges of equally many experts between up to twelve of each are
looked through by meet in the middle, for one that takes the GPU to the cap. The other takes the rest,
so slack gathers on ever fewer GPUs, where it makes room. After E. Horowitz, S. Sahni, "Computing
partitions with applications to the knapsack problem", J. ACM 21 (1974), doi 10.1145/321812.321823.
"""

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import copy_into, copy_rows, kernel
from moeopt._random import below, random_state
from moeopt._sorting import number_up_to, rising_order
from moeopt._stop import Flag, raised
from moeopt.balancers.climbing.deals import construct, repack
from moeopt.balancers.swaps import distinct, least_makespan, sum_loads

_CAPS = 5
"""Caps that one levelling of a layer tries, each with five times the slack of the one before."""

_WORK = 2000
"""Subsets per slot that the first cap may cost, or what takes as long; the others may cost a quarter."""

_WIDEST = 12
_MOST_SUBSETS = 924
"""Subsets of six out of twelve, the most of one size."""

_CHAIN = 6
"""Experts of a GPU that are tried in chains."""

_CHAIN_STEPS = 1000
"""Pairs of partners' experts that are looked at for two of its own."""

_FEW = 64
"""Open GPUs from which on chains of a few slots run dry, and the rest is dealt again."""

_FEW_SLOTS = 8
_DEAL_STEPS = 300
_DEAL_DRAWS = 4
_DEAL_WORK = 300_000

_PATIENCE = 4
"""Times that every open GPU may look in vain, one after another."""

_LOOK_WORK = 1 << 16
"""Subsets made for one GPU before it waits for better partners."""


def level_rows(
    slots: NDArray[np.int64],
    weight: NDArray[np.float64],
    target: NDArray[np.float64],
    seed: int,
    colocated: bool,
    makespan: NDArray[np.float64],
    stop: Flag,
) -> None:
    """Level every row of ``slots [rows, gpus, k]`` above its target; never leaves one worse."""
    for row in np.flatnonzero(makespan > target):
        copies = np.bincount(slots[row].ravel(), minlength=weight.shape[1] + 1)[:-1]
        size = np.append(weight[row] / copies, 0.0)
        makespan[row] = _level_down(slots[row], size, target[row], seed, colocated, stop)


@kernel
def _level_down(slots, size, target, seed, colocated, stop):  # type: ignore[no-untyped-def]
    """Level to the target, or to a cap as little above it as can be reached; the makespan."""
    load = np.empty(slots.shape[0])
    state = random_state(seed, 0)
    most = sum_loads(slots, size, load)
    cap = max(target, least_makespan(slots, size))
    slack = max(cap - load.sum() / load.size, 1e-5 * cap)
    trial = slots.copy()
    work = _WORK * slots.size
    for _ in range(_CAPS):
        if cap >= most or raised(stop):
            break
        reached = level(trial, size, cap, work, colocated, state, stop)
        after = sum_loads(trial, size, load)
        if after < most:
            most = after
            copy_rows(trial, slots)
        if reached:
            break
        work = _WORK * slots.size // 4
        copy_rows(slots, trial)
        cap += 4 * slack
        slack *= 5
    return most


@kernel
def _subsets(row, width, size, state, sums, masks, count):  # type: ignore[no-untyped-def]
    """Shuffle ``width`` experts of ``row`` to its front; their subsets' sums, rising, by number of members."""
    count[:] = 0
    count[0] = 1
    sums[0, 0] = 0.0
    masks[0, 0] = 0
    for i in range(width):
        if width < row.size:
            j = i + below(state, row.size - i)
            row[i], row[j] = row[j], row[i]
        more = size[row[i]]
        bit = 1 << i
        for t in range(i + 1, 0, -1):
            # merge from the back: the subsets without i stand in row t, those with i come from row t - 1
            a, b = count[t] - 1, count[t - 1] - 1
            count[t] += count[t - 1]
            for at in range(count[t] - 1, -1, -1):
                if b < 0:
                    break
                if a >= 0 and sums[t, a] > sums[t - 1, b] + more:
                    sums[t, at], masks[t, at] = sums[t, a], masks[t, a]
                    a -= 1
                else:
                    sums[t, at], masks[t, at] = sums[t - 1, b] + more, masks[t - 1, b] | bit
                    b -= 1


@kernel
def _exchange(width, sums, masks, count, sums2, masks2, count2, low, high):  # type: ignore[no-untyped-def]
    """Subsets whose difference is the least in [low, high]: difference and both masks; inf if there are none."""
    best, give, take = np.inf, 0, 0
    for t in range(1, width + 1):
        b = -1
        last = count2[t] - 1
        for a in range(count[t]):
            while b < last and sums2[t, b + 1] <= sums[t, a] - low:
                b += 1
            if b >= 0 and sums[t, a] - sums2[t, b] <= high:
                high = sums[t, a] - sums2[t, b]
                best, give, take = high, masks[t, a], masks2[t, b]
                if best == low:
                    return best, give, take
    return best, give, take


@kernel
def _apply(mine, other, give, take):  # type: ignore[no-untyped-def]
    """Exchange the marked experts; doing it twice undoes it."""
    j = 0
    for i in range(_WIDEST):
        if give >> i & 1:
            while not take >> j & 1:
                j += 1
            mine[i], other[j] = other[j], mine[i]
            j += 1


@kernel
def _chain(row, size, owner, live, f, is_open, low, high):  # type: ignore[no-untyped-def]
    """Two experts of GPU ``f`` for one each of open GPUs ``low`` to ``high`` smaller, the nearest in size.

    Returns the positions in ``row`` and what replaces them, -1 if nothing does. ``live`` are the copies to look at.
    """
    best, found = np.inf, (-1, -1, 0, 0)
    for i in range(min(row.size, _CHAIN)):
        start = number_up_to(live, row[i])
        for j in range(min(row.size, _CHAIN)):
            if i == j:
                continue
            p, most = start, size[row[i]] + size[row[j]] - low
            least = most - (high - low)
            if p == live.size:
                continue
            q = number_up_to(size, most - size[live[p]])
            q = number_up_to(live, q - 1) - 1
            for _ in range(_CHAIN_STEPS):
                if p == live.size or q < 0 or size[live[p]] - size[row[i]] >= best:
                    break
                both = size[live[p]] + size[live[q]]
                a, b = owner[live[p]], owner[live[q]]
                if both > most or b == f or not is_open[b]:
                    q -= 1
                elif both < least or a == f or not is_open[a] or p == q:
                    p += 1
                else:
                    best, found = size[live[p]] - size[row[i]], (i, j, live[p], live[q])
                    break
    return found


@kernel
def _swap(slots, owner, f, at, other):  # type: ignore[no-untyped-def]
    """Copy ``other`` goes to place ``at`` of GPU ``f``, what is there to the GPU of ``other``."""
    mine, h = slots[f, at], owner[other]
    for t in range(slots.shape[1]):
        if slots[h, t] == other:
            slots[h, t] = mine
            break
    slots[f, at] = other
    owner[mine], owner[other] = h, f


@kernel
def _clash(row, expert, empty):  # type: ignore[no-untyped-def]
    """Whether a GPU holds an expert twice."""
    return not distinct(expert[row].reshape((1, row.size)), empty)


@kernel
def level(all_slots, all_size, cap, work, colocated, state, stop):  # type: ignore[no-untyped-def]
    """Exchange until no GPU is above ``cap``, or ``work`` subsets were made; whether none is.

    A GPU is done within half the mean slack below the cap. The others are open to each other: a chain
    or an exchange of subsets takes one to the cap. One above the cap that finds no partner passes
    its excess on to one that is done. Copies go by their rank in size: exchanges change owners only.
    """
    gpus, k = all_slots.shape
    expert = all_slots.copy().reshape(-1)
    order = rising_order(all_size[expert])
    expert, owner = expert[order], order // k
    size, slots = all_size[expert], np.empty(gpus * k, np.int64)
    slots[order] = np.arange(gpus * k)
    slots = slots.reshape((gpus, k))
    empty = all_size.size - 1
    load = np.empty(gpus)
    sum_loads(slots, size, load)
    loose = max((cap - load.sum() / gpus) / 2, 1e-13 * cap)
    widest = min(k, _WIDEST)
    width = min(widest, 4)
    shape = widest + 1, _MOST_SUBSETS
    sums, sums2 = np.empty(shape), np.empty(shape)
    masks, masks2 = np.empty(shape, np.int64), np.empty(shape, np.int64)
    count, count2 = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.int64)
    # the first ``left`` of ``queue`` are open, ``place`` says where each GPU stands
    queue, place, is_open = np.arange(gpus), np.arange(gpus), np.zeros(gpus, np.bool_)
    touched, change = np.empty(3, np.int64), np.empty(3)
    left = over = 0
    for g in range(gpus):
        over += int(load[g] > cap)
        left = _mark(queue, place, is_open, g, left, load[g] > cap or load[g] < cap - loose)
    live, live_gpus = np.arange(slots.size), gpus
    chains = k <= _FEW_SLOTS  # longer rows have exchanges enough, and chains would push partners far off the cap
    deals = chains and (colocated or empty == slots.size)
    failures = 0
    while over > 0 and work > 0 and failures < _PATIENCE * left + gpus // 4 and not raised(stop):
        if 2 * left < live_gpus:
            live, live_gpus = live[is_open[owner[live]]], left
        f = queue[below(state, left)]
        excess = load[f] - cap
        _subsets(slots[f], width, size, state, sums, masks, count)
        touched[:] = f
        change[:] = 0.0
        found = False
        if chains and left > 2:
            work -= 1000
            i, j, p, q = _chain(slots[f], size, owner, live, f, is_open, excess, excess + loose)
            if i >= 0:
                old_i, old_j = slots[f, i], slots[f, j]
                touched[1], touched[2] = owner[p], owner[q]
                change[1], change[2] = size[old_i] - size[p], size[old_j] - size[q]
                _swap(slots, owner, f, i, p)
                _swap(slots, owner, f, j, q)
                found = True
                if not colocated:
                    for gpu in touched:
                        found = found and not _clash(slots[gpu], expert, empty)
                    if not found:
                        _swap(slots, owner, f, j, old_j)
                        _swap(slots, owner, f, i, old_i)
        if not found and deals and 3 <= left <= _FEW:
            work -= _DEAL_WORK
            rows = slots[queue[:left]]
            best = rows.copy()
            few_loads = np.empty(left)
            construct(rows, size, few_loads, cap, _DEAL_DRAWS, state)
            most = repack(rows, size, few_loads, cap, _DEAL_STEPS, _DEAL_DRAWS, True, state, best, np.inf, stop)
            if most <= cap:
                for i in range(left):
                    copy_into(best[i], slots[queue[i]])
                over = 0
                break
            for _ in range(4):
                left = _mark(queue, place, is_open, below(state, gpus), left, True)
        looks = 0
        if not found:
            looked = max(8, _LOOK_WORK >> width)
            fresh = min(looked, left - 1 if width == k else looked)
            partners = fresh + (min(looked, gpus) if excess > 0 else 0)
            first = below(state, gpus)
        while not found and looks < partners:
            among_open = looks < fresh
            looks += 1
            h = queue[(first + looks) % left] if among_open else (first + looks) % gpus
            other = load[h] - cap
            if h == f or (among_open and excess * other > 0 and left > 8):
                continue
            work -= 150 + (1 << width)
            _subsets(slots[h], width, size, state, sums2, masks2, count2)
            high = excess + loose
            if excess > 0:
                high = max(high, -other)
            shift, give, take = _exchange(width, sums, masks, count, sums2, masks2, count2, excess, high)
            if shift == np.inf:
                continue
            _apply(slots[f], slots[h], give, take)
            if not colocated and (_clash(slots[f], expert, empty) or _clash(slots[h], expert, empty)):
                _apply(slots[f], slots[h], give, take)
                continue
            owner[slots[f, :width]] = f
            owner[slots[h, :width]] = h
            touched[1:] = h
            change[1] = shift
            found = True
        if found:
            change[0] = -(change[1] + change[2])
            for t in range(3):
                g = touched[t]
                over -= int(load[g] > cap)
                load[g] += change[t]
                over += int(load[g] > cap)
                left = _mark(queue, place, is_open, g, left, load[g] > cap or load[g] < cap - loose)
        failures = 0 if found else failures + 1
        # a wider look costs twice as much and finds four times as many exchanges
        if not found or looks > 4:
            width = min(width + 1, widest)
        elif looks == 1:
            width = max(width - 1, 1)
    for g in range(gpus):
        for t in range(k):
            all_slots[g, t] = expert[slots[g, t]]
    return over == 0


@kernel
def _mark(queue, place, is_open, g, left, wanted):  # type: ignore[no-untyped-def]
    """Move ``g`` into the open part of the queue, or out of it; the open GPUs' new number."""
    if is_open[g] == wanted:
        return left
    is_open[g] = wanted
    at = left if wanted else left - 1
    there, other = place[g], queue[at]
    queue[at], queue[there] = g, other
    place[g], place[other] = at, there
    return left + 1 if wanted else left - 1
