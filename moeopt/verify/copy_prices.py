"""Re-check bounds on moves from prices on copies: what counts cost against what GPUs collect, in exact integers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, integer, integers

MAX_SLOTS, MAX_GRID, MAX_STEPS = 64, 1 << 16, 50_000_000
"""Slots per GPU, grid, and contents looked at, in parts; beyond nothing is decided."""

Front = list[tuple[int, int]]
"""Size and worth of contents that are worth more than every lighter one, both rising; empty where there are none."""


def copy_prices(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the prices prove that ``value`` moves are needed.

    The moves of a placement are at least what its counts cost less what the contents of its GPUs collect, a
    move costing ``unit``: the cheapest counts and the best contents of load at most the ceiling bound both.
    """
    if layer.ceiling is None or layer.reference is None:
        raise Rejected("the problem has no reference or no ceiling")
    ceiling = layer.ceiling * layer.scale
    unit, grid = integer(certificate, "unit"), integer(certificate, "grid")
    if unit < 1 or grid < 1 or ceiling <= 0:
        raise Rejected("'unit', 'grid' and the ceiling must be above 0")
    held = max(sum(gpu.values()) for gpu in layer.reference)
    if max(layer.slots_per_gpu, held) > MAX_SLOTS or grid > MAX_GRID:
        raise Undecided("the contents of GPUs take too long to check")
    counts = _counts(layer, certificate, ceiling)
    keep, bring = _prices(layer, certificate, counts)
    # a copy's size in steps of the grid, rounded down: contents that fit still do
    sizes = [
        [load * grid * ceiling.denominator // (last * ceiling.numerator) for last in row[1:]]
        for load, row in zip(layer.loads, counts, strict=True)
    ]
    total = sum(
        _cheapest(row, [prices for gpu in keep for expert, prices in gpu if expert == e], bring[e])
        for e, row in enumerate(counts)
    )
    contents = _Contents(sizes, grid)
    arrivals = contents.of_arrivals(bring, unit, layer.slots_per_gpu)
    for gpu in keep:
        best = contents.best(gpu, arrivals, layer.allow_empty_slots)
        if best is None:  # nothing keeps the ceiling
            return
        total -= best
    if -(-total // unit) < value:
        raise Rejected(f"the prices prove {max(-(-total // unit), 0)} moves only")


def _counts(layer: ExactLayer, certificate: dict[str, Any], ceiling: Fraction) -> list[list[int]]:
    """Last counts of each expert's classes behind the highest count that is too low; all others are covered."""
    counts = _rows(certificate, "counts", layer.num_experts)
    for load, row in zip(layer.loads, counts, strict=True):
        if len(row) < 2 or row[0] < 0 or any(a >= b for a, b in pairwise(row)):
            raise Rejected("'counts' must rise from 0 or more, expert by expert")
        if row[0] > 0 and load <= row[0] * ceiling:
            raise Rejected(f"an expert may have {row[0]} copies, which 'counts' leave out")
        if row[-1] < layer.most_copies:
            raise Rejected(f"an expert may have {layer.most_copies} copies, 'counts' end at {row[-1]}")
    return counts


def _prices(
    layer: ExactLayer, certificate: dict[str, Any], counts: list[list[int]]
) -> tuple[list[list[tuple[int, list[int]]]], list[list[int]]]:
    """Expert and prices of every copy of the reference, GPU by GPU, and prices of arrivals, expert by expert."""
    assert layer.reference is not None
    bring = _rows(certificate, "bring", layer.num_experts)
    copies = [(g, e) for g, gpu in enumerate(layer.reference) for e, count in gpu.items() for _ in range(count)]
    rows = _rows(certificate, "keep", len(copies))
    if any(len(row) < 2 for row in rows) or sorted((row[0], row[1]) for row in rows) != sorted(copies):
        raise Rejected("'keep' does not name the copies of the reference")
    keep: list[list[tuple[int, list[int]]]] = [[] for _ in layer.reference]
    for g, e, *prices in rows:
        keep[g].append((e, prices))
    lengths = [(len(counts[e]), len(prices)) for gpu in keep for e, prices in gpu]
    lengths += [(len(row), len(prices)) for row, prices in zip(counts, bring, strict=True)]
    if any(classes - 1 != prices for classes, prices in lengths):
        raise Rejected("every class of counts needs a price")
    return keep, bring


def _rows(certificate: dict[str, Any], key: str, length: int) -> list[list[int]]:
    rows = certificate.get(key)
    if not isinstance(rows, list) or len(rows) != length:
        raise Rejected(f"the certificate's {key!r} must have {length} rows")
    return [integers({key: row}, key) for row in rows]


def _cheapest(counts: list[int], keep: list[list[int]], bring: list[int]) -> int:
    """Least price of any number of copies of an expert: its copies that stay, once each, and arrivals."""
    best = None
    for t, arrival in enumerate(bring):
        cheaper = sorted(min(prices[t], arrival) for prices in keep)
        for count in range(counts[t] + 1, counts[t + 1] + 1):
            cost = sum(cheaper[:count]) + max(count - len(cheaper), 0) * arrival
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


class _Contents:
    """The contents of a GPU that weigh at most ``grid``, built copy by copy."""

    def __init__(self, sizes: list[list[int]], grid: int) -> None:
        self.sizes, self.grid, self.steps = sizes, grid, 0

    def of_arrivals(self, bring: list[list[int]], unit: int, slots: int) -> list[Front]:
        """Contents of exactly 0, 1, .. ``slots`` arrivals, each worth its price less a move."""
        single = self._front(
            (size, price - unit)
            for row, prices in zip(self.sizes, bring, strict=True)
            for size, price in zip(row, prices, strict=True)
        )
        fronts: list[Front] = [[(0, 0)]]
        for _ in range(slots):
            fronts.append(self._front((a + size, b + worth) for size, worth in single for a, b in fronts[-1]))
        return fronts

    def best(self, copies: list[tuple[int, list[int]]], arrivals: list[Front], may_be_empty: bool) -> int | None:
        """Most that a GPU's content is worth: copies of its own, in any class each, and arrivals; None without any."""
        slots = len(arrivals) - 1
        fronts: list[Front] = [[(0, 0)], *([] for _ in range(slots))]  # by number of copies that stay
        for expert, prices in copies:
            classes = list(zip(self.sizes[expert], prices, strict=True))
            added = [
                self._front((a + size, b + price) for size, price in classes for a, b in front) for front in fronts[:-1]
            ]
            fronts[1:] = [self._front([*front, *more]) for front, more in zip(fronts[1:], added, strict=True)]
        found = [
            worth + others[last][1]
            for stay, front in enumerate(fronts)
            for others in (arrivals[: slots - stay + 1] if may_be_empty else arrivals[slots - stay : slots - stay + 1])
            for size, worth in front
            if (last := bisect_right(others, self.grid - size, key=lambda content: content[0]) - 1) >= 0
        ]
        return max(found, default=None)

    def _front(self, contents: Iterable[tuple[int, int]]) -> Front:
        best: dict[int, int] = {}
        for size, worth in contents:
            self.steps += 1
            if size <= self.grid and (size not in best or worth > best[size]):
                best[size] = worth
        if self.steps > MAX_STEPS:
            raise Undecided("the contents of GPUs take too long to check")
        front: Front = []
        for size in sorted(best):
            if not front or best[size] > front[-1][1]:
                front.append((size, best[size]))
        return front
