"""Deals of ``search`` on one row: all GPUs, or a few of them, filled as close to a cap as random draws find."""

import numpy as np

from moeopt._kernel import copy_into, copy_rows, kernel
from moeopt._random import below
from moeopt._sorting import rising_order
from moeopt._stop import raised
from moeopt.balancers.swaps import distinct, holds

_MOST_GPUS = 6

# Keep the work of a deal linear where there are thousands of GPUs; far above what a recorded layer needs.
_LARGE_POOL = 1024
_LOOKS = 64


@kernel
def _first_at_most(pool, n, size, limit):  # type: ignore[no-untyped-def]
    """Smallest position >= 1 in the falling pool whose size is at most ``limit``; n-1 if none is."""
    low, high = 1, n - 1
    while low < high:
        middle = (low + high) // 2
        if size[pool[middle]] <= limit:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def _fit(pool, n, size, cap, k, draws, state, pick, trial, used, tail):  # type: ignore[no-untyped-def]
    """Best content of a GPU under ``cap`` that holds the largest of the pool: positions in ``pick``, load or -1.

    All but the last two places are drawn at random, those two come from two pointers.
    """
    tail[0] = 0.0
    for r in range(1, k):
        tail[r] = tail[r - 1] + size[pool[n - r]]
    if size[pool[0]] + tail[k - 1] > cap:
        return -1.0
    best = -1.0
    trial[0] = 0
    for _ in range(draws if k > 3 else 1):
        room = cap - size[pool[0]]
        for t in range(1, k - 2):
            first = _first_at_most(pool, n, size, room - tail[k - 1 - t])
            drawn = first + below(state, n - first)
            at = drawn
            while at < n and used[at]:
                at += 1
            if at == n:
                at = drawn
                while used[at] or at == 0:
                    at = at - 1 if at > 1 else n - 1
            used[at] = True
            trial[t] = at
            room -= size[pool[at]]
        large, small = _first_at_most(pool, n, size, room - tail[1]), n - 1
        pair = -1.0
        looks = n
        if n > _LARGE_POOL:  # sizes lie so densely that the pairs around any one of them do
            large += below(state, max(1, (small - large) // 2))
            small = min(small, max(large + 1, _first_at_most(pool, n, size, room - size[pool[large]])))
            looks = _LOOKS
        for _ in range(looks):
            while large < small and used[large]:
                large += 1
            while large < small and used[small]:
                small -= 1
            if large >= small:
                break
            both = size[pool[large]] + size[pool[small]]
            if both <= room:
                if both > pair:
                    pair = both
                    trial[k - 2], trial[k - 1] = large, small
                small -= 1
            else:
                large += 1
        for t in range(1, k - 2):
            used[trial[t]] = False
        if pair >= 0 and cap - room + pair > best:
            best = cap - room + pair
            copy_into(trial, pick)
    return best


@kernel
def _deal(pool, n, size, cap, draws, state, rows, chosen, load, scratch):  # type: ignore[no-untyped-def]
    """Deal the falling pool to the GPUs ``chosen``, each filled as close to ``cap`` as draws allow."""
    k = rows.shape[1]
    pick, trial, used, tail = scratch
    for q in range(chosen):
        if q < chosen - 1:
            fits = _fit(pool, n, size, cap, k, draws, state, pick, trial, used, tail) >= 0
            if not fits:
                pick[0] = 0
                for t in range(1, k):
                    pick[t] = n - t
        else:
            for t in range(k):
                pick[t] = t
        total = 0.0
        for t in range(k):
            rows[q, t] = pool[pick[t]]
            total += size[rows[q, t]]
            used[pick[t]] = True
        load[q] = total
        left = 0
        for p in range(n):
            if used[p]:
                used[p] = False
            else:
                pool[left] = pool[p]
                left += 1
        n = left


@kernel
def _scratch(k, n):  # type: ignore[no-untyped-def]
    return np.empty(k, np.int64), np.empty(k, np.int64), np.zeros(n, np.bool_), np.empty(k)


@kernel
def construct(slots, size, load, cap, draws, state):  # type: ignore[no-untyped-def]
    """Deal everything from scratch: slack gathers on the GPUs dealt last."""
    gpus, k = slots.shape
    lightness = np.empty(gpus * k)
    for i in range(lightness.size):
        lightness[i] = -size[slots[i // k, i % k]]
    pool = rising_order(lightness)
    for i in range(pool.size):
        pool[i] = slots[pool[i] // k, pool[i] % k]
    _deal(pool, pool.size, size, cap, draws, state, slots, gpus, load, _scratch(k, pool.size))


@kernel
def repack(slots, size, load, cap, steps, draws, colocated, state, best, most, stop):  # type: ignore[no-untyped-def]
    """Deal a few GPUs again, one of them above ``cap``, until none is or ``steps`` are over.

    A deal is kept if the load above the cap falls, or stays while the slack below it does not spread
    (the sum of squared slacks may fall by up to 30 %): gathered slack is what large excesses
    need. ``best`` keeps the slots of the lowest makespan below ``most`` seen, which is returned.
    """
    gpus, k = slots.shape
    empty = size.size - 1
    widest = min(_MOST_GPUS, gpus)
    pool = np.empty(widest * k, np.int64)
    scratch = _scratch(k, widest * k)
    chosen = np.empty(widest, np.int64)
    rows = np.empty((widest, k), np.int64)
    after = np.empty(widest)
    for _ in range(steps):
        fullest = lightest = 0
        over = -1
        seen = 0
        for g in range(gpus):
            if load[g] > cap:
                seen += 1
                if below(state, seen) == 0:
                    over = g
            if load[g] < load[lightest]:
                lightest = g
            if load[g] > load[fullest]:
                fullest = g
        if load[fullest] < most:
            most = load[fullest]
            copy_rows(slots, best)
        if over < 0 or raised(stop):
            break
        r = min(3 + below(state, _MOST_GPUS - 2), widest)
        chosen[0] = over
        count = 1
        if lightest != over and below(state, 4) > 0:
            chosen[1] = lightest
            count = 2
        while count < r:
            g = below(state, gpus)
            if not holds(chosen[:count], g):
                chosen[count] = g
                count += 1
        n = 0
        excess = slack = 0.0
        for q in range(r):
            g = chosen[q]
            if load[g] > cap:
                excess += load[g] - cap
            else:
                slack += (cap - load[g]) ** 2
            for t in range(k):
                expert = slots[g, t]
                p = n
                while p > 0 and size[pool[p - 1]] < size[expert]:
                    pool[p] = pool[p - 1]
                    p -= 1
                pool[p] = expert
                n += 1
        _deal(pool, n, size, cap, draws, state, rows, r, after, scratch)
        new_excess = new_slack = 0.0
        for q in range(r):
            if after[q] > cap:
                new_excess += after[q] - cap
            else:
                new_slack += (cap - after[q]) ** 2
        if new_excess > excess:
            continue
        gathers = new_slack >= slack * (1 - 0.3 * below(state, 1024) / 1024)
        if (new_excess < excess * (1 - 1e-12) or gathers) and (colocated or distinct(rows[:r], empty)):
            for q in range(r):
                load[chosen[q]] = after[q]
                copy_into(rows[q], slots[chosen[q]])
    return most
