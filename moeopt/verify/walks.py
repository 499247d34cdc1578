"""Re-check bounds for two slots per GPU from prices that no walk over the counts collects, in exact integers."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided
from moeopt.verify.pairing import threshold_of

UNITS = 2**44
"""Parts of the threshold in which sizes are counted, rounded down."""

MAX_WORK = 100_000_000
"""Values computed, beyond which nothing is decided."""

_NEVER = -inf
"""Value of what no walk reaches."""


@dataclass(frozen=True)
class _Column:
    """A count of an expert; ``size`` of its copies in units."""

    expert: int
    count: int
    size: int

    @property
    def large(self) -> bool:
        """Whether no two of these copies share a GPU."""
        return 2 * self.size > UNITS


def pairing_walks(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless prices refute every makespan of at most the certificate's threshold T.

    Sizes are rounded down to whole units of T, with which all placements still fit. Let a size v fall from T
    to T/2. A *walk* takes columns (an expert and a count) on the way: small copies, as soon as they fit beside
    v, are spare partners; large copies of size v use up one each, and there must be as many. Empty slots
    are spare from the beginning. A placement within T takes one column of every expert: it collects all
    prices and pays for its slots, which are ``num_slots`` at most. Where the most valuable walk is worth
    less, or no walk through any column of some expert is worth as much, there is no such placement.

    Nodes come in preorder: ``[rounds]`` is a leaf, which that many rounds of prices must refute; ``[rounds,
    expert, split]`` has two parts, where the expert has fewer copies than ``split``, and at least as many. A round
    leaves the columns through which a walk is worth enough, for the next rounds and the parts.
    """
    threshold = threshold_of(layer, value, certificate)
    if threshold <= 0:
        raise Rejected("prices need a threshold above 0")
    slot = certificate.get("slot")
    if isinstance(slot, bool) or not isinstance(slot, int) or slot < 0:
        raise Rejected("the certificate's 'slot' is not an integer >= 0")
    check = _Prices(layer, threshold, slot)
    rounds = iter(_rounds(certificate, layer.num_experts))
    waiting = [_columns(layer, threshold)]
    for node in _nodes(certificate):
        if not waiting:
            raise Rejected("the tree has more nodes than branches")
        columns = waiting.pop()
        for _ in range(node[0]):
            prices = next(rounds, None)
            if prices is None:
                raise Rejected("the tree names more rounds of prices than there are")
            columns = check.left(columns, prices)
        if len(node) == 3:
            expert, split = node[1:]
            waiting.append([column for column in columns if column.expert != expert or column.count >= split])
            waiting.append([column for column in columns if column.expert != expert or column.count < split])
        elif len({column.expert for column in columns}) == layer.num_experts:
            raise Rejected("a leaf of the tree leaves replica counts that may reach the threshold")
    if waiting:
        raise Rejected("the tree leaves a branch open")


def _columns(layer: ExactLayer, threshold: Fraction) -> list[_Column]:
    """Columns within the threshold, in the order of walks, without small ones that fit beside no more than fewer."""
    unit, whole = threshold.denominator * UNITS, threshold.numerator
    every = [
        [
            _Column(expert, count, load * unit // (count * whole))
            for count in range(1, layer.most_copies + 1)
            if load * threshold.denominator <= count * whole
        ]
        for expert, load in enumerate(layer.loads)
    ]
    points = sorted({column.size for of_expert in every for column in of_expert if column.large})
    kept = []
    for of_expert in every:
        beside = -1
        for column in of_expert:
            fits = bisect_right(points, UNITS - column.size)
            if column.large or fits > beside:
                kept.append(column)
            if not column.large:
                beside = max(beside, fits)
    return sorted(kept, key=lambda column: (-column.size, 1) if column.large else (column.size - UNITS, 0))


class _Prices:
    """The most valuable walks over some columns with given prices."""

    def __init__(self, layer: ExactLayer, threshold: Fraction, slot: int) -> None:
        self.slots, self.slot = layer.num_slots, slot
        total = sum(layer.loads) * threshold.denominator * UNITS // threshold.numerator
        self.slack = layer.num_gpus * UNITS - total + self.slots  # a copy loses less than a unit
        self.work = 0

    def left(self, columns: list[_Column], prices: list[int]) -> list[_Column]:
        """Columns through which some walk is worth as much as a placement collects."""
        if self.slack < 0:
            return []
        needed = sum(prices) - self.slots * self.slot
        most, enough = self._room(columns)
        self.work += 2 * sum(most)
        if self.work > MAX_WORK:
            raise Undecided("the tree takes too long to check")
        values: list[list[float]] = [[-spare * self.slot for spare in range(most[0] + 1)]]
        for column, after, unlimited in zip(columns, most[1:], enough[1:], strict=True):
            gain = prices[column.expert] - column.count * self.slot
            old = values[-1]
            taken = old[column.count :] if column.large else [_NEVER] * column.count + old
            new = [max(pair) for pair in zip(old, [worth + gain for worth in taken], strict=False)]
            new += old[len(taken) :] + [worth + gain for worth in taken[len(old) :]]
            values.append(_cut(new, after, unlimited))
        rest: list[float] = [0] * (most[-1] + 1)
        through = []
        for column, before, unlimited, value in zip(
            columns[::-1], most[-2::-1], enough[:0:-1], values[-2::-1], strict=True
        ):
            gain = prices[column.expert] - column.count * self.slot
            longer = rest + [rest[-1] if unlimited else _NEVER] * (before + column.count + 1)
            then = [_NEVER] * column.count + longer if column.large else longer[column.count :]
            taken = [worth + gain for worth in then[: before + 1]]
            through.append(max(map(sum, zip(value, taken, strict=True))))
            rest = list(map(max, longer[: before + 1], taken))
        return [column for column, worth in zip(columns, through[::-1], strict=True) if worth >= needed]

    def _room(self, columns: list[_Column]) -> tuple[list[int], list[bool]]:
        """Most spare partners before every column and at the end, and whether they are enough for all to come.

        With a copy of size v next, spare partners have room for v, and will be partners of the next copies: each
        wastes at least the difference to v, those of half the threshold and below the difference to that.
        """
        large = [column for column in columns if column.large]
        rooms = [self._partners(large[k:]) for k in range(len(large))]
        most, enough = [0], [True]
        needed = 0
        for column in columns[::-1]:
            if column.large:
                room = rooms.pop()
                needed += column.count
            most.append(min(room, needed) if needed else 0)
            enough.append(not needed or needed <= room)
        return most[::-1], enough[::-1]

    def _partners(self, large: list[_Column]) -> int:
        """Copies, from the largest on, whose differences to it the slack allows."""
        copies, wasted = 0, 0
        for column in large:
            lost = large[0].size - column.size
            if wasted + lost * column.count > self.slack:
                return copies + (self.slack - wasted) // lost
            copies, wasted = copies + column.count, wasted + lost * column.count
        return copies + 2 * (self.slack - wasted) // (2 * large[0].size - UNITS)


def _cut(values: list[float], most: int, unlimited: bool) -> list[float]:
    """Values of up to ``most`` spare partners; where these are enough, more are as good."""
    if len(values) <= most:
        return values + [_NEVER] * (most + 1 - len(values))
    return [*values[:most], max(values[most:])] if unlimited else values[: most + 1]


def _rounds(certificate: dict[str, Any], num_experts: int) -> list[list[int]]:
    rounds = certificate.get("prices")
    if not isinstance(rounds, list):
        raise Rejected("the certificate's 'prices' is not a list")
    for prices in rounds:
        if not isinstance(prices, list) or len(prices) != num_experts:
            raise Rejected("a round of prices needs one for every expert")
        if any(isinstance(price, bool) or not isinstance(price, int) for price in prices):
            raise Rejected("prices are integers")
    return rounds


def _nodes(certificate: dict[str, Any]) -> list[list[int]]:
    nodes = certificate.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, list) and len(node) in (1, 3) for node in nodes):
        raise Rejected("the certificate's 'nodes' is not a list of nodes [rounds] and [rounds, expert, split]")
    if any(isinstance(entry, bool) or not isinstance(entry, int) for node in nodes for entry in node):
        raise Rejected("the nodes of a tree hold integers")
    return nodes
