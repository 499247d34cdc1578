"""Covers: sets of items that may share a GPU, by sets that hold every item once; and how low a threshold they reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import copy_into, kernel
from moeopt._stop import Flag, raised

_SHARE = 0.5
"""Share of the work left that one threshold may take."""

_BITS = 50
"""Binary digits of the total of rounded loads."""


def whole_loads(load: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Loads as whole numbers, and the binary digits by which they are scaled: counts as they are, others rounded down.

    No load is so small that floats round bounds in tokens.
    """
    if load.dtype.kind == "i":
        return load.astype(np.int64), 0
    digits = _BITS - math.frexp(float(load.sum()))[1]
    return np.floor(np.ldexp(load, digits)).astype(np.int64), digits


@dataclass(frozen=True)
class Effort:
    """Sets listed at most for one threshold, dead ends remembered, sets looked at in all."""

    most_sets: int
    remembered: int
    work: int


class CoverSearch:
    """Place items, whole ``load [items]`` falling, in equal numbers on GPUs under the lowest threshold found.

    Parameters
    ----------
    bound, makespan
        No placement is below the one, there is one at the other: only thresholds between them are decided.
    gap
        Relative distance of the two at which the search ends.

    Notes
    -----
    Afterwards ``bound`` and ``makespan`` are as near as they came, ``refuted`` is the highest threshold without
    a cover (0 = none), and ``cover [gpus, slots]`` holds the items of the best one, None without any.
    """

    def __init__(
        self, load: NDArray[np.int64], num_gpus: int, bound: int, makespan: int, gap: float, effort: Effort
    ) -> None:
        self.load, self.gpus, self.slots, self.gap = load, num_gpus, len(load) // num_gpus, gap
        self.total = int(load.sum())
        self.bound, self.makespan = max(bound, -(-self.total // num_gpus)), makespan
        self.refuted = 0
        self.cover: NDArray[np.int64] | None = None
        self.effort, self.work = effort, np.array([effort.work])

    def run(self, stop: Flag) -> None:
        """Raise the threshold from the bound on: lower ones are decided sooner, and each one refuted is a bound."""
        step, highest = max(int(self.gap * self.bound), 1), self.total
        while self.makespan > self.bound * (1 + self.gap) and not stop[0]:
            threshold = self._threshold(step, highest)
            if threshold >= highest:
                break
            found = self._decide(threshold, stop)
            if found is None:
                highest = threshold
            elif found:
                step = max(step // 2, 1)
            else:
                self.refuted, self.bound = threshold, threshold + 1
                step *= 2

    def _threshold(self, step: int, highest: int) -> int:
        """A little above the bound, at most halfway to what is reached or was too hard, and where it may close."""
        halfway = (self.bound + min(self.makespan, highest)) // 2
        closing = max(int(self.bound * (1 + self.gap)), self.bound)
        return min(max(min(self.bound + step, halfway), closing), self.makespan - 1)

    def _decide(self, threshold: int, stop: Flag) -> bool | None:
        """Whether a placement reaches ``threshold``, which is then accepted; None where that takes too long."""
        spent = int(self.work[0] * _SHARE)
        rest = self.work[0] - spent
        self.work[0] = spent
        verdict = self._covered(threshold, stop)
        self.work[0] = max(self.work[0], 0) + rest
        return verdict

    def _covered(self, threshold: int, stop: Flag) -> bool | None:
        slack_left = self.gpus * threshold - self.total
        members = np.empty((self.effort.most_sets, self.slots), dtype=np.uint16)
        slack = np.empty(self.effort.most_sets, dtype=np.int64)
        count = list_sets(self.load, self.slots, threshold - slack_left, threshold, members, slack, stop)
        if count < 0:
            return None
        least_first = np.argsort(slack[:count], kind="stable")
        members, slack = members[least_first], slack[least_first]
        chosen = np.zeros(self.gpus, dtype=np.int64)
        table = np.zeros((self.effort.remembered, -(-len(self.load) // 64)), dtype=np.uint64)
        found = find_cover(members, slack, slack_left, table, self.work, chosen, stop)
        if found == 1:
            self.cover = members[chosen].astype(np.int64)
            self.makespan = threshold - int(slack[chosen].min())
        return None if found < 0 else bool(found)


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
        room = most - total[depth] - (before[experts] - before[experts - rest])
        if load[expert] > room:
            chosen[depth] = _before_fitting(load, expert, room)
            continue
        total[depth + 1] = total[depth] + load[expert]
        if rest > 0:
            depth += 1
            chosen[depth] = expert
            continue
        if count == slack.size:
            return -1
        copy_into(chosen, members[count])
        slack[count] = most - total[slots]
        count += 1
    return count


@kernel
def _before_fitting(load, expert, room):  # type: ignore[no-untyped-def]
    """Last of the falling loads from ``expert`` on that exceeds ``room``."""
    high = load.size
    while high - expert > 1:
        middle = (expert + high) // 2
        if load[middle] > room:
            expert = middle
        else:
            high = middle
    return expert


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
            copy_into(done[depth], table[_spot(done[depth], table.shape[0])])
            depth -= 1
            continue
        one_set = alive[a]
        cover[depth] = one_set
        rest, need = left[depth] - slack[one_set], gpus - depth - 1
        if need == 0:
            return 1
        for w in range(words):
            done[depth + 1, w] = done[depth, w] | mask[one_set, w]
        if _same(table[_spot(done[depth + 1], table.shape[0])], done[depth + 1]):
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
def _same(a, b):  # type: ignore[no-untyped-def]
    """Whether two sets are equal."""
    differing = np.uint64(0)
    for i in range(a.size):
        differing |= a[i] ^ b[i]
    return differing == 0


@kernel
def _spot(done, size):  # type: ignore[no-untyped-def]
    """Where the table remembers a set of experts."""
    mixed = np.uint64(0)
    for part in done:
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(32)) % size
