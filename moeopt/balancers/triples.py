"""Three slots per GPU, counts given: fill GPUs to within a hair of a ceiling and keep the slack for the last few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments as arguments
from moeopt._kernel import kernel
from moeopt._random import below, random_state, uniform
from moeopt._sorting import rising_order
from moeopt._stop import Flag, never, raised
from moeopt.replication import divide

Floats = NDArray[np.float64]

LEANS = (0.0, 0.25, 0.35, 0.15, 0.5, 0.3, 0.2, 0.4, 0.1, 0.6)
"""Divisor methods (``divisor_counts``) whose counts are worth a walk, in this order: EPLB's may have no packing."""

ROOM = 6e-4
"""How far above the target the cap of a first look is."""

HOT, COLD = 1.2, 0.8
"""First and last temperature of a walk, in units of a GPU's average slack."""

_CELLS = 8192
"""Cells of the table that finds the largest replica below a size."""

_LOOKS = 2500
"""Triples per step that a walk looks at on average: it ends early where many GPUs stay open or all sizes are alike."""

_CUT = 12.0
"""Temperatures of waste beyond which a triple is not looked at: it would be taken once in e**12 tries."""


def pack_triples(
    size: Floats,
    price: Floats,
    owner: NDArray[np.int64],
    *,
    distinct: bool = False,
    open_gpus: int = 3,
    temperature: tuple[float, float] = (2e-4, 8e-5),
    cooling: int = 150_000,
    steps: int = 500_000,
    seed: int = 0,
    stop: Flag | None = None,
) -> NDArray[np.int64] | None:
    """Partition replicas into triples of total size at most 1, or give up.

    Parameters
    ----------
    size
        ``[replicas]`` loads over the ceiling, a multiple of three of them.
    price
        ``[replicas]`` what a triple should collect as much of as it can: the sizes themselves where
        the mean load is the bottleneck, dual prices of the configuration LP elsewhere, scaled so
        that no triple that fits is worth more than 1.
    owner
        ``[replicas]`` expert of every replica.
    distinct
        Whether a triple must hold three different experts.
    open_gpus
        GPUs left open during the walk.
    temperature
        First and last temperature, in units of price.
    cooling, steps
        Steps over which the temperature falls, and steps in all.
    seed
        Seed of the random numbers, 0 to 2**31 - 1.
    stop
        Flag that ends the walk early.

    Returns
    -------
    ndarray or None
        ``[replicas / 3, 3]`` replica indices, or None if the walk ended before it found a partition.

    Raises
    ------
    InputError
        If ``seed``, ``steps`` or ``cooling`` is no integer in its range.

    Notes
    -----
    A walk over partial partitions: all but ``open_gpus`` GPUs are closed, each with a triple that
    fits. A step takes two loose replicas and a third from a closed GPU, closes the three there and
    sets the other two loose. It is accepted by the wasted price ``1 - sum(price)`` before and after
    (Metropolis), so closed GPUs end up nearly full and the slack gathers on the open ones, until
    the loose replicas themselves can be partitioned, which a depth-first search decides after every
    step. Swaps between complete GPUs have almost no neighbours at this resolution (with 96 GPUs a
    dozen exchanges of two GPUs within 1e-4); loose replicas combine freely, which keeps the walk
    moving. A step is O(open_gpus^2).
    """
    cooling, steps = arguments.integer("cooling", cooling, 0), arguments.integer("steps", steps, 0)
    order = np.argsort(size, kind="stable")
    members = np.full((len(size) // 3, 3), -1, dtype=np.int64)
    found = _walk(
        size[order],
        price[order],
        owner[order],
        distinct,
        open_gpus,
        float(temperature[0]),
        float(temperature[1]),
        cooling,
        steps,
        arguments.seed(seed),
        members,
        never() if stop is None else stop,
    )
    return order[members] if found else None


@kernel
def _table(size):  # type: ignore[no-untyped-def]
    """For every cell of [0, 1], the last of the rising sizes that begins in or below it."""
    table = np.empty(_CELLS + 1, dtype=np.int64)
    last = 0
    for cell in range(_CELLS + 1):
        while last < size.size and size[last] * _CELLS < cell + 1:
            last += 1
        table[cell] = last - 1
    return table


@kernel
def _last_free(lower, free, at):  # type: ignore[no-untyped-def]
    """Last free replica up to ``at``, -1 if none; ``lower`` are shortcuts past used ones, shortened on the way."""
    while at >= 0 and not free[at]:
        skip = lower[at]
        if skip >= 0 and not free[skip]:
            lower[at] = skip = lower[skip]
        at = skip
    return at


@kernel
def _close_greedily(size, price, owner, distinct, open_gpus, table, state, members, gpu, waste, loose, stop):  # type: ignore[no-untyped-def]
    """Give the largest remaining replica the best of some random pairs; return closed GPUs and loose replicas."""
    free = np.ones(size.size, dtype=np.bool_)
    lower = np.arange(-1, size.size - 1)
    closed = count = 0
    for first in range(size.size - 1, -1, -1):
        if not free[first]:
            continue
        if raised(stop):
            break
        free[first] = False
        best, second, third = np.inf, -1, -1
        for _ in range(60 if closed < members.shape[0] - open_gpus else 0):
            b = int(uniform(state) * (first + 1))
            room = 1.0 - size[first] - size[b]
            if not free[b] or room < 0.0:
                continue
            c = table[int(room * _CELLS)]
            while c >= 0 and size[c] > room:
                c -= 1
            c = _last_free(lower, free, c)
            if c == b:
                c = _last_free(lower, free, c - 1)
            if c < 0 or (distinct and (owner[b] == owner[first] or owner[c] == owner[first] or owner[b] == owner[c])):
                continue
            lost = 1.0 - price[first] - price[b] - price[c]
            if lost < best:
                best, second, third = lost, b, c
        if second < 0:
            loose[count] = first
            count += 1
            continue
        free[second] = free[third] = False
        members[closed, 0], members[closed, 1], members[closed, 2] = first, second, third
        gpu[first] = gpu[second] = gpu[third] = closed
        waste[closed] = best
        closed += 1
    return closed, count


@kernel
def _finish(size, price, owner, distinct, loose, count, used, stack, budget, triples):  # type: ignore[no-untyped-def]
    """Partition the loose replicas (falling size) into triples that fit, by depth-first search."""
    last = count // 3 - 1
    budget[0] = last + 1 + 1e-9
    for i in range(count):
        budget[0] -= price[loose[i]]
        used[i] = False
    if budget[0] < 0.0:
        return False
    depth = 0
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, 1, count - 1
    used[0] = True
    while depth >= 0:
        a, b, c = stack[depth]
        found = False
        lost = 0.0
        while b < count - 1 and not found:
            if not used[b] and not (distinct and owner[loose[a]] == owner[loose[b]]):
                room = 1.0 - size[loose[a]] - size[loose[b]]
                missing = 1.0 - price[loose[a]] - price[loose[b]]
                while c > b:
                    item = loose[c]
                    if size[item] > room:
                        break
                    lost = missing - price[item]
                    if (
                        not used[c]
                        and lost <= budget[depth]
                        and not (distinct and (owner[item] == owner[loose[a]] or owner[item] == owner[loose[b]]))
                    ):
                        found = True
                        break
                    c -= 1
            if not found:
                b, c = b + 1, count - 1
        if not found:
            used[a] = False
            depth -= 1
            if depth >= 0:
                used[stack[depth, 1]] = used[stack[depth, 2]] = False
                stack[depth, 2] -= 1
            continue
        triples[depth, 0], triples[depth, 1], triples[depth, 2] = loose[a], loose[b], loose[c]
        if depth == last:
            return True
        used[b] = used[c] = True
        stack[depth, 1], stack[depth, 2] = b, c
        while used[a]:
            a += 1
        used[a] = True
        depth += 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = a, a + 1, count - 1
        budget[depth] = budget[depth - 1] - lost
    return False


@kernel
def _walk(size, price, owner, distinct, open_gpus, first_temp, last_temp, cooling, steps, seed, members, stop):  # type: ignore[no-untyped-def]
    """Fill ``members`` with a partition of the replicas (rising size); whether one was found."""
    replicas, gpus = size.size, members.shape[0]
    state = random_state(seed, 0)
    table = _table(size)
    gpu = np.full(replicas, -1, dtype=np.int64)
    waste = np.zeros(gpus)
    loose = np.empty(replicas, dtype=np.int64)
    closed, count = _close_greedily(
        size, price, owner, distinct, open_gpus, table, state, members, gpu, waste, loose, stop
    )
    used = np.empty(replicas, dtype=np.bool_)
    stack = np.empty((gpus, 3), dtype=np.int64)
    budget = np.empty(gpus)
    triples = np.empty((gpus, 3), dtype=np.int64)
    temperature = first_temp
    factor = (last_temp / first_temp) ** (100.0 / max(cooling, 1))
    tabu0 = tabu1 = -1
    looks = _LOOKS * steps
    for step in range(steps):
        looks -= count * (count - 1) // 2
        if raised(stop) or looks < 0:
            return False
        if step % 100 == 0 and step < cooling:
            temperature *= factor
        # One exponential variate decides for all candidates alike: accepted are those that waste at most so much more.
        accepted = -temperature * np.log(1.0 - uniform(state))
        other = int(uniform(state) * closed)
        excess = closed < gpus - open_gpus
        candidates = 0
        pick_a = pick_b = third = -1
        lost = 0.0
        for a in range(count - 1):
            if raised(stop):
                return False
            ia = loose[a]
            for b in range(a + 1, count):
                ib = loose[b]
                room = 1.0 - size[ia] - size[ib]
                if room < 0.0 or (ia == tabu0 and ib == tabu1) or (ia == tabu1 and ib == tabu0):
                    continue
                if distinct and owner[ia] == owner[ib]:
                    continue
                k = table[int(room * _CELLS)]
                while k >= 0 and size[k] > room:
                    k -= 1
                missing = 1.0 - price[ia] - price[ib]
                while k >= 0:
                    looks -= 1
                    s = missing - price[k]
                    if s > _CUT * temperature:
                        break
                    g = gpu[k]
                    if k != ia and k != ib and not (distinct and (owner[k] == owner[ia] or owner[k] == owner[ib])):
                        before = waste[g] if g >= 0 else (np.inf if excess else waste[other])
                        if s - before <= accepted:
                            candidates += 1
                            if uniform(state) * candidates < 1.0:
                                pick_a, pick_b, third, lost = a, b, k, s
                    k -= 1
        if candidates == 0:
            tabu0 = tabu1 = -1
            continue
        ia, ib, g = loose[pick_a], loose[pick_b], gpu[third]
        if g >= 0:
            tabu0, tabu1 = members[g, 0], members[g, 1]
            if tabu0 == third:
                tabu0 = members[g, 2]
            elif tabu1 == third:
                tabu1 = members[g, 2]
            loose[pick_a], loose[pick_b] = tabu0, tabu1
            gpu[tabu0] = gpu[tabu1] = -1
        else:
            pick_c = 0
            while loose[pick_c] != third:
                pick_c += 1
            tabu0 = tabu1 = -1
            if excess:
                g = closed
                closed += 1
                kept = 0
                for i in range(count):
                    if i != pick_a and i != pick_b and i != pick_c:
                        loose[kept] = loose[i]
                        kept += 1
                count = kept
            else:
                g = other
                loose[pick_a], loose[pick_b], loose[pick_c] = members[g, 0], members[g, 1], members[g, 2]
                gpu[members[g, 0]] = gpu[members[g, 1]] = gpu[members[g, 2]] = -1
        members[g, 0], members[g, 1], members[g, 2] = ia, ib, third
        gpu[ia] = gpu[ib] = gpu[third] = g
        waste[g] = lost
        if closed < gpus - open_gpus:
            continue
        for i in range(1, count):
            item = loose[i]
            j = i - 1
            while j >= 0 and loose[j] < item:
                loose[j + 1] = loose[j]
                j -= 1
            loose[j + 1] = item
        if _finish(size, price, owner, distinct, loose, count, used, stack, budget, triples):
            for d in range(gpus - closed):
                for i in range(3):
                    members[closed + d, i] = triples[d, i]
            return True
    return False


@kernel
def walk_row(slots, all_size, target, before, pace, halfway, colocated, state, stop):  # type: ignore[no-untyped-def]
    """Pack ``slots [gpus, 3]`` of ``search`` from scratch under a cap by the walk of ``pack_triples``, or leave them.

    ``pace``: 0 = a first look, 1 = brisk, 2 = thorough. ``halfway``: cap between target and makespan. After the
    first look counts come from a divisor method drawn at random.
    """
    gpus, experts = slots.shape[0], all_size.size - 1
    expert = slots.copy().reshape(-1)
    size = all_size
    if pace > 0 and expert.size > experts:
        counts = np.zeros(experts + 1, np.int64)
        for e in expert:
            counts[e] += 1
        weight = (all_size * counts)[:-1]
        divide(weight, expert.size, LEANS[below(state, len(LEANS))], counts[:-1])
        counts[-1] = 0
        size = np.zeros(experts + 1)
        at = 0
        for e in range(experts):
            size[e] = weight[e] / counts[e]
            for _ in range(counts[e]):
                expert[at] = e
                at += 1
    share = np.empty(expert.size)
    for r in range(share.size):
        share[r] = size[expert[r]]
    rising = rising_order(share)
    for r in range(share.size):
        rising[r] = expert[rising[r]]
    expert = rising
    cap, hot, cold, cooling, steps, loose = target, HOT, COLD, 100_000, 300_000, 3
    if pace == 0:
        cap, hot, cold, cooling, steps = target * (1 + ROOM), 1.0, 0.5, 1000, 2000
    elif halfway:
        cap, cooling, steps = (target + before) / 2, 20_000, 60_000
    elif pace == 1:
        cooling, steps = 40_000, 60_000
    if cap >= before:
        cap = target
    total = 0.0
    for r in range(share.size):
        share[r] = size[expert[r]] / (cap * (1 - 1e-12))
        total += share[r]
    slack = 1 - total / gpus
    if share[-1] > 1 or slack <= 0:
        return
    owner = expert.copy()
    for r in range(owner.size):  # empty slots are all different, experts are not
        if owner[r] == experts:
            owner[r] += r
    members = np.full((gpus, 3), -1, np.int64)
    seed = below(state, 1 << 31)
    if _walk(share, share, owner, not colocated, loose, hot * slack, cold * slack, cooling, steps, seed, members, stop):
        for g in range(gpus):
            for t in range(3):
                slots[g, t] = expert[members[g, t]]
