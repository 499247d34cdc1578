"""Kernels: the sets of experts that may share a GPU, and covers of all experts by such sets."""

from __future__ import annotations

import numpy as np

from moeopt._kernel import kernel
from moeopt._stop import raised


@kernel
def list_sets(load, slots, least, most, members, slack, stop):  # type: ignore[no-untyped-def]
    """List the sets of ``slots`` experts with least <= load <= most, by ``load`` falling; -1 if they are too many.

    ``members[set]`` receives the experts, rising, and ``slack[set]`` what is left up to ``most``.
    """
    experts = load.size
    before = np.zeros(experts + 1, dtype=np.int64)
    for expert in range(experts):
        before[expert + 1] = before[expert] + load[expert]
    chosen = np.zeros(slots, dtype=np.int64)
    total = np.zeros(slots + 1, dtype=np.int64)
    count, steps, depth = 0, 0, 0
    chosen[0] = -1
    while depth >= 0:
        steps += 1
        if steps > 20 * slack.size or raised(stop):
            return -1
        chosen[depth] += 1
        expert, rest = chosen[depth], slots - depth - 1
        # the experts after this one are no hotter: with the hottest of them it must reach ``least``
        if expert + rest >= experts or total[depth] + before[expert + rest + 1] - before[expert] < least:
            depth -= 1
            continue
        if total[depth] + load[expert] + before[experts] - before[experts - rest] > most:
            continue
        total[depth + 1] = total[depth] + load[expert]
        if rest > 0:
            depth += 1
            chosen[depth] = expert
            continue
        if count == slack.size:
            return -1
        members[count] = chosen
        slack[count] = most - total[slots]
        count += 1
    return count


@kernel
def find_cover(members, slack, budget, table, work, cover, stop):  # type: ignore[no-untyped-def]
    """Look for sets, ``slack`` rising, that hold every expert once; return 1 = found, 0 = there are none, -1 = neither.

    The slacks of a cover add up to ``budget``. ``table`` (zeros) remembers experts that, once covered, leave no
    cover; they fix the slack left, so that this holds whatever sets cover them. ``work[0]`` sets may be looked at.
    """
    gpus, slots, experts = cover.size, members.shape[1], cover.size * members.shape[1]
    words = table.shape[1]
    one, word = np.uint64(1), np.uint64(63)
    mask = np.zeros((slack.size, words), dtype=np.uint64)
    for i in range(slack.size):
        for expert in members[i]:
            mask[i, expert >> 6] |= one << (np.uint64(expert) & word)
    alive = np.empty((gpus + 1) * slack.size, dtype=np.int32)
    first, last = np.zeros(gpus + 1, dtype=np.int64), np.zeros(gpus + 1, dtype=np.int64)
    left = np.zeros(gpus + 1, dtype=np.int64)
    done = np.zeros((gpus + 1, words), dtype=np.uint64)
    rarest, position = np.zeros(gpus, dtype=np.int64), np.zeros(gpus, dtype=np.int64)
    often = np.zeros(experts, dtype=np.int64)
    fewest, most = np.zeros(experts, dtype=np.int64), np.zeros(experts, dtype=np.int64)
    for i in range(slack.size):
        alive[i] = i
    last[0], left[0], depth = slack.size, budget, 0
    fresh = True
    while depth >= 0:
        if raised(stop) or work[0] < 0:
            return -1
        if fresh:
            work[0] -= last[depth] - first[depth]
            often[:] = 0
            for a in range(first[depth], last[depth]):
                for expert in members[alive[a]]:
                    if often[expert] == 0:
                        fewest[expert] = slack[alive[a]]
                    most[expert] = slack[alive[a]]
                    often[expert] += 1
            best, lowest, highest = -1, 0, 0
            for expert in range(experts):
                if (done[depth, expert >> 6] >> (np.uint64(expert) & word)) & one == 0:
                    lowest += fewest[expert]
                    highest += most[expert]
                    if best < 0 or often[expert] < often[best]:
                        best = expert
            rarest[depth], position[depth] = best, first[depth] - 1
            if often[best] == 0 or lowest > slots * left[depth] or highest < slots * left[depth]:
                position[depth] = last[depth] - 1
            else:
                end = first[depth]
                for a in range(first[depth], last[depth]):
                    one_set = alive[a]
                    under = slots * (left[depth] - slack[one_set]) - lowest
                    over = slots * (left[depth] - slack[one_set]) - highest
                    for expert in members[one_set]:
                        under += fewest[expert]
                        over += most[expert]
                    if under >= 0 and over <= 0:
                        alive[end] = one_set
                        end += 1
                last[depth] = end
            fresh = False
        expert = rarest[depth]
        a = position[depth] + 1
        while a < last[depth] and (mask[alive[a], expert >> 6] >> (np.uint64(expert) & word)) & one == 0:
            a += 1
        position[depth] = a
        if a == last[depth]:
            table[_spot(done[depth], table.shape[0])] = done[depth]
            depth -= 1
            continue
        one_set = alive[a]
        cover[depth] = one_set
        rest, need = left[depth] - slack[one_set], gpus - depth - 1
        if need == 0:
            return 1
        done[depth + 1] = done[depth] | mask[one_set]
        if (table[_spot(done[depth + 1], table.shape[0])] == done[depth + 1]).all():
            continue
        work[0] -= last[depth] - first[depth]
        end = last[depth]
        for b in range(first[depth], last[depth]):
            other = alive[b]
            if slack[other] > rest:
                break
            if _disjoint(mask[other], mask[one_set]):
                alive[end] = other
                end += 1
        if end - last[depth] < need:
            continue
        depth += 1
        first[depth], last[depth], left[depth] = last[depth - 1], end, rest
        fresh = True
    return 0


@kernel
def _disjoint(a, b):  # type: ignore[no-untyped-def]
    """Whether two sets have no expert in common."""
    common = np.uint64(0)
    for i in range(a.size):
        common |= a[i] & b[i]
    return common == 0


@kernel
def _spot(done, size):  # type: ignore[no-untyped-def]
    """Where the table remembers a set of experts."""
    mixed = np.uint64(0)
    for part in done:
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(32)) % size
