"""Prices on experts that no walk over the counts can collect: what linear programs overlook, since copies are whole.

Let a size v fall from T to T/2. A *walk* takes columns on the way: small copies, as soon as they fit beside a
copy of size v, become spare partners; large copies of size v each use one up, so there must be as many. Spare
partners to begin with are empty slots. A choice of counts that reaches T is a walk that takes one column of every
expert, and all its copies and empty slots are ``num_slots`` at most. Walks that take none of one expert, or several,
are easy to compare: with a price for every expert and one for a slot, dynamic programming over (column, spare
partners) finds the most valuable walk of all, or through every column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import copy_into, kernel
from moeopt._stop import Flag, never, raised
from solvers.pairing.model import Columns, Floats, Integers

SLOT = 2**16
"""Price of a slot; those of experts are integers."""

_GOAL = 0.05
"""Slots by which steps of the ascent aim above what refutes the threshold."""

_MOMENTUM = 0.7
"""Part of the last direction in the next one."""

_PATIENCE = 20
"""Steps without gain after which they become shorter and go on from the best prices."""

_SHORTER = 0.7
"""What is left of their length then."""

_SHORTEST = 0.02
"""Length, in parts of what the goal asks for, at which the ascent ends."""

_FADING = 0.05
"""Weight of the latest walk in the mean of an expert's count."""

_NEVER = -(2**62)
"""Value of what no walk reaches."""


@dataclass(frozen=True, eq=False)
class Walks:
    """Columns in the order of walks, and how many partners may be spare before each of them and at the end.

    ``at`` are positions in ``columns``. ``most[k]`` spare partners suffice before column ``k``: where ``enough[k]``,
    the larger copies to come are as many, so that more are no better; elsewhere more would waste more than
    ``slack``, which is what the threshold leaves free on all GPUs together.
    """

    columns: Columns
    at: Integers
    slack: float
    most: Integers
    enough: NDArray[np.bool_]

    @classmethod
    def over(cls, columns: Columns, total_load: float) -> Walks:
        """Walks over all columns."""
        slack = max(columns.num_slots / 2 * columns.threshold - total_load, 0.0)
        return cls._of(columns, np.lexsort((columns.large, columns.row)), slack)

    @classmethod
    def _of(cls, columns: Columns, at: Integers, slack: float) -> Walks:
        most, enough = _room(columns.count[at], columns.large[at], columns.size[at], columns.threshold / 2, slack)
        return cls(columns, at, slack, most, enough)

    def only(self, kept: NDArray[np.bool_]) -> Walks:
        """Walks over some of the columns."""
        return self._of(self.columns, self.at[kept], self.slack)

    @property
    def expert(self) -> Integers:
        """Expert of every column."""
        return self.columns.expert[self.at]

    @property
    def count(self) -> Integers:
        """Copies that every column stands for."""
        return self.columns.count[self.at]

    @property
    def options(self) -> Integers:
        """``[experts]`` columns of every expert."""
        return np.bincount(self.expert, minlength=self.columns.num_experts)

    def weigh(self, prices: Integers) -> tuple[NDArray[np.bool_], float]:
        """Columns that some choice may hold for all these prices tell, and the slots that any choice lacks.

        A choice collects all prices and pays for its slots. Where no walk is worth as much, there is no choice:
        slots are lacking, and no columns are left. Where the best walk through a column is worth less, no choice
        holds the column.
        """
        values, needed = self._values(), int(prices.sum()) - self.columns.num_slots * SLOT
        best = _walk(*self._steps(), prices, values)
        if best < needed:
            possible = np.zeros(len(self.at), dtype=bool)
        else:
            possible = _through(*self._steps(), prices, values) >= needed
        return possible, (needed - best) / SLOT

    def ascend(self, prices: Floats, mean: Floats, steps: int, stop: Flag | None = None) -> Integers:
        """Better prices for refuting the threshold; ``mean`` becomes what the last walks took of every expert.

        Subgradient steps with Polyak's length ("Minimization of unsmooth functionals", 1969, doi
        10.1016/0041-5553(69)90061-5) towards the goal. O(steps * columns * most spare partners).
        """
        stop = never() if stop is None else stop
        return np.asarray(_ascend(*self._steps(), prices, mean, self.columns.num_slots, steps, self._values(), stop))

    def _steps(self) -> tuple[NDArray[Any], ...]:
        return self.expert, self.count, self.columns.large[self.at], self.most, self.enough

    def _values(self) -> Integers:
        return np.empty((len(self.at) + 1, int(self.most.max()) + 1), dtype=np.int64)


@kernel
def _room(count, large, size, half, slack):  # type: ignore[no-untyped-def]
    """Most spare partners before every column and at the end, and whether those are enough for all copies to come.

    Spare partners of copies of size v are the partners of the next copies: each of these wastes at
    least the difference to v, those up to half the threshold the difference to that.
    """
    columns = len(count)
    most, enough = np.zeros(columns + 1, np.int64), np.ones(columns + 1, np.bool_)
    following = np.full(columns + 1, columns, np.int64)  # the next large column
    room, needed = np.int64(2**40), np.int64(0)
    for k in range(columns - 1, -1, -1):
        following[k] = k if large[k] else following[k + 1]
        if large[k]:
            needed += count[k]
            room, wasted, other = np.int64(0), 0.0, k
            while True:
                lost = size[k] - (size[other] if other < columns else half)
                copies = count[other] if other < columns else np.int64(2**40)
                if wasted + lost * copies > slack:
                    room += np.int64((slack - wasted) / lost)
                    break
                room += copies
                if other == columns or room >= needed:
                    break
                wasted += lost * copies
                other = following[other + 1]
        most[k], enough[k] = min(room, needed), needed <= room
    return most, enough


@kernel
def _walk(expert, count, large, most, enough, prices, values):  # type: ignore[no-untyped-def]
    """Value of the best walk; ``values[k, d]`` becomes the best of those with d spare partners before column k."""
    columns, flat = len(expert), values.reshape(-1)
    width = np.uint64(values.shape[1])
    for spare in range(most[0] + 1):
        flat[spare] = -spare * SLOT
    for k in range(columns):
        copies, before, after = count[k], most[k], most[k + 1]
        gain, both = prices[expert[k]] - copies * SLOT, min(before, after) + 1
        old, moved = np.uint64(k) * width, np.uint64(copies)  # unsigned: else every index is tested for its sign
        new = old + width
        if large[k]:
            taken = max(min(before - copies + 1, both), 0)
            for i in range(np.uint64(taken)):
                stay, take = flat[old + i], flat[old + moved + i] + gain
                flat[new + i] = stay if stay > take else take
            for i in range(np.uint64(taken), np.uint64(both)):
                flat[new + i] = flat[old + i]
        else:
            kept = min(copies, both)
            for i in range(np.uint64(kept)):
                flat[new + i] = flat[old + i]
            for i in range(np.uint64(both - kept)):
                stay, take = flat[old + moved + i], flat[old + i] + gain
                flat[new + moved + i] = stay if stay > take else take
        for spare in range(before + 1, after + 1):
            reached = not large[k] and copies <= spare <= before + copies
            values[k + 1, spare] = values[k, spare - copies] + gain if reached else _NEVER
        if enough[k + 1]:
            best = values[k + 1, after]
            for spare in range(after + 1, before + 1):
                best = max(best, values[k, spare])
            for spare in range(max(after + 1 + (copies if large[k] else -copies), 0), before + 1):
                best = max(best, values[k, spare] + gain)
            values[k + 1, after] = best
    return values[columns, 0]


@kernel
def _follow(expert, count, large, most, enough, prices, values, taken, copies_taken):  # type: ignore[no-untyped-def]
    """Columns and copies that the best walk takes of every expert."""
    for e in range(len(taken)):
        taken[e] = copies_taken[e] = 0
    spare = 0
    for k in range(len(expert) - 1, -1, -1):
        value, before, copies = values[k + 1, spare], most[k], count[k]
        merged = enough[k + 1] and spare == most[k + 1]
        earlier, last = spare, before if merged else min(spare, before)
        while earlier <= last and values[k, earlier] != value:
            earlier += 1
        if earlier > last:
            earlier = max(spare + (copies if large[k] else -copies), 0)
            while values[k, earlier] + prices[expert[k]] - copies * SLOT != value:
                earlier += 1
            taken[expert[k]] += 1
            copies_taken[expert[k]] += copies
        spare = earlier


@kernel
def _through(expert, count, large, most, enough, prices, values):  # type: ignore[no-untyped-def]
    """``[columns]`` value of the best walk that takes the column; ``values`` are those of ``_walk``."""
    columns = len(expert)
    through = np.full(columns, _NEVER, np.int64)
    rest, new = np.zeros(values.shape[1], np.int64), np.empty(values.shape[1], np.int64)
    for k in range(columns - 1, -1, -1):
        gain, after = prices[expert[k]] - count[k] * SLOT, most[k + 1]
        for spare in range(most[k] + 1):
            stay, take = np.int64(_NEVER), np.int64(_NEVER)
            if spare <= after or enough[k + 1]:
                stay = rest[min(spare, after)]
            then = spare - count[k] if large[k] else spare + count[k]
            if then >= 0 and (then <= after or enough[k + 1]):
                take = rest[min(then, after)] + gain
                through[k] = max(through[k], values[k, spare] + take)
            new[spare] = max(stay, take)
        rest, new = new, rest
    return through


@kernel
def _ascend(expert, count, large, most, enough, start, mean, num_slots, steps, values, stop):  # type: ignore[no-untyped-def]
    """The best prices met, as integers; ``start`` in parts of a slot."""
    experts = len(start)
    current, best = start.copy(), start.copy()
    prices, least = np.empty(experts, np.int64), np.int64(_NEVER)
    taken, copies = np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    direction, length, failed = np.zeros(experts), 1.0, 0
    for _ in range(steps):
        total = np.int64(0)
        for e in range(experts):
            prices[e] = np.int64(np.rint(current[e] * SLOT))
            total += prices[e]
        slots = total - _walk(expert, count, large, most, enough, prices, values)
        if slots > least:
            least, failed = slots, 0
            copy_into(current, best)
        else:
            failed += 1
            if failed == _PATIENCE:
                failed, length = 0, length * _SHORTER
                copy_into(best, current)
        if least > num_slots * SLOT or length < _SHORTEST or raised(stop):
            break
        _follow(expert, count, large, most, enough, prices, values, taken, copies)
        norm, choice = 0.0, True
        for e in range(experts):
            direction[e] = 1.0 - taken[e] + _MOMENTUM * direction[e]
            norm += direction[e] ** 2
            choice = choice and taken[e] == 1
            if taken[e] > 0:
                mean[e] += _FADING * (copies[e] / taken[e] - mean[e])
        if choice:
            copy_into(copies, mean)
        if choice or norm == 0.0:
            break
        missing = num_slots + _GOAL - slots / SLOT
        for e in range(experts):
            current[e] += length * missing / norm * direction[e]
    for e in range(experts):
        prices[e] = np.int64(np.rint(best[e] * SLOT))
    return prices
