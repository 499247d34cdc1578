"""Compiled moves of ``search`` on one row: ``slots [gpus, k]`` of experts whose copies weigh ``size``.

An empty slot holds the expert behind the last one, of size 0. All loads are float64 sums that are
recomputed wherever they decide what is kept.
"""

import numpy as np

from moeopt._kernel import kernel

_MOST_GPUS = 6

# Keep the work of a stage linear where there are thousands of GPUs; far above what a recorded layer needs.
_MOST_SWAP_TRIALS = 10_000_000
_LARGE_POOL = 1024
_LOOKS = 64


@kernel
def below(state, n):  # type: ignore[no-untyped-def]
    """Next pseudo-random integer in [0, n): xorshift64, G. Marsaglia, doi 10.18637/jss.v008.i14."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.int64((x >> np.uint64(11)) % np.uint64(n))


@kernel
def sum_loads(slots, size, load):  # type: ignore[no-untyped-def]
    """Fill ``load [gpus]`` and return its maximum."""
    most = 0.0
    for g in range(slots.shape[0]):
        total = 0.0
        for t in range(slots.shape[1]):
            total += size[slots[g, t]]
        load[g] = total
        most = max(most, total)
    return most


@kernel
def holds(row, expert):  # type: ignore[no-untyped-def]
    """Whether ``expert`` is in ``row``."""
    found = False
    for other in row:
        found = found or other == expert
    return found


@kernel
def _may_swap(slots, f, i, h, j, empty, colocated):  # type: ignore[no-untyped-def]
    """Whether the swap puts no second copy of an expert on a GPU, or that is allowed."""
    a, b = slots[f, i], slots[h, j]
    return colocated or ((a == empty or not holds(slots[h], a)) and (b == empty or not holds(slots[f], b)))


@kernel
def descend(slots, size, load, target, colocated):  # type: ignore[no-untyped-def]
    """Swap the fullest GPU down, each time with the GPU and slot that leave the lighter pair."""
    gpus, k = slots.shape
    empty = size.size - 1
    for _ in range(max(100, _MOST_SWAP_TRIALS // (gpus * k * k))):
        f = np.argmax(load)
        if load[f] <= target:
            return
        best = load[f] * (1 - 1e-12)
        partner = here = there = -1
        for h in range(gpus):
            if (load[f] + load[h]) / 2 >= best:
                continue
            for i in range(k):
                most = size[slots[f, i]]
                for j in range(k):
                    give = most - size[slots[h, j]]
                    after = max(load[f] - give, load[h] + give)
                    if give > 0 and after < best and _may_swap(slots, f, i, h, j, empty, colocated):
                        best, partner, here, there = after, h, i, j
        if partner < 0:
            return
        give = size[slots[f, here]] - size[slots[partner, there]]
        load[f] -= give
        load[partner] += give
        slots[f, here], slots[partner, there] = slots[partner, there], slots[f, here]


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
            pick[:] = trial
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
    """Deal everything anew: slack gathers on the GPUs dealt last."""
    gpus, k = slots.shape
    flat = slots.copy().reshape(-1)
    pool = flat[np.argsort(-size[flat], kind="mergesort")]
    _deal(pool, pool.size, size, cap, draws, state, slots, gpus, load, _scratch(k, pool.size))


@kernel
def repack(slots, size, load, cap, steps, draws, colocated, state, best, most):  # type: ignore[no-untyped-def]
    """Deal a few GPUs anew, one of them above ``cap``, until none is or ``steps`` are over.

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
            best[:] = slots
        if over < 0:
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
        if (new_excess < excess * (1 - 1e-12) or gathers) and (colocated or _distinct(rows[:r], empty)):
            for q in range(r):
                load[chosen[q]] = after[q]
                slots[chosen[q]] = rows[q]
    return most


@kernel
def _distinct(rows, empty):  # type: ignore[no-untyped-def]
    """Whether no GPU holds an expert twice."""
    for row in rows:
        for t in range(1, row.size):
            if row[t] != empty and holds(row[:t], row[t]):
                return False
    return True


@kernel
def recount(slots, weight, size, copies, target, steps, colocated, gaps, state):  # type: ignore[no-untyped-def]
    """Take a copy from one expert, give one to another, swap down; keep what is not heavier.

    ``gaps``: slots may stay empty, so a copy may be dropped or added alone.
    """
    gpus, k = slots.shape
    empty = size.size - 1
    load = np.empty(gpus)
    most = sum_loads(slots, size, load)
    kept = slots.copy()
    for _ in range(steps):
        if most <= target:
            break
        g, t = below(state, gpus), below(state, k)
        if below(state, 2) == 0:
            g = np.argmax(load)
        old = slots[g, t]
        if old != empty and copies[old] == 1:
            continue
        new = slots[np.argmax(load), below(state, k)] if below(state, 2) == 0 else below(state, empty + gaps)
        if new == old or (not colocated and new != empty and holds(slots[g], new)):
            continue
        slots[g, t] = new
        _set_copies(old, -1, weight, size, copies)
        _set_copies(new, 1, weight, size, copies)
        sum_loads(slots, size, load)
        descend(slots, size, load, target, colocated)
        after = sum_loads(slots, size, load)
        if after <= most:
            most = after
            kept[:] = slots
        else:
            slots[:] = kept
            _set_copies(old, 1, weight, size, copies)
            _set_copies(new, -1, weight, size, copies)
            sum_loads(slots, size, load)


@kernel
def _set_copies(expert, change, weight, size, copies):  # type: ignore[no-untyped-def]
    if expert < size.size - 1:
        copies[expert] += change
        size[expert] = weight[expert] / copies[expert]
