"""Re-check bounds on moves from prices on copies: what counts cost against what GPUs collect, in exact integers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, integer, integers

MAX_SLOTS, MAX_GRID, MAX_PRICE = 64, 1 << 16, 1 << 40
"""Slots per GPU, grid, and price beyond which nothing is decided: all sums stay far below 2**60."""

IMPOSSIBLE = -(1 << 61)
"""Worth of contents that there are not."""

Table = NDArray[np.int64]


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
    if max(layer.slots_per_gpu, held) > MAX_SLOTS or grid > MAX_GRID or unit > MAX_PRICE:
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
    worth = _worth_of_arrivals(sizes, bring, unit, layer.slots_per_gpu, grid)
    for gpu in keep:
        best = _best_content(gpu, sizes, worth, layer, grid)
        if best < IMPOSSIBLE // 2:  # nothing keeps the ceiling
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
    if any(abs(price) > MAX_PRICE for row in rows + bring for price in row):
        raise Undecided("prices are too large to check")
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


def _worth_of_arrivals(sizes: list[list[int]], bring: list[list[int]], unit: int, slots: int, grid: int) -> list[Table]:
    """Most that exactly 0, 1, .. ``slots`` arrivals are worth within every capacity up to ``grid``."""
    single: dict[int, int] = {}
    for row, prices in zip(sizes, bring, strict=True):
        for size, price in zip(row, prices, strict=True):
            if size <= grid:
                single[size] = max(single.get(size, IMPOSSIBLE), price - unit)
    worth = [np.zeros(grid + 1, dtype=np.int64)]
    for _ in range(slots):
        more = np.full(grid + 1, IMPOSSIBLE, dtype=np.int64)
        best = IMPOSSIBLE
        for size in sorted(single):
            if single[size] > best:  # else a smaller one is worth as much
                best = single[size]
                np.maximum(more[size:], worth[-1][: grid + 1 - size] + best, out=more[size:])
        worth.append(more)
    return worth


def _best_content(
    copies: list[tuple[int, list[int]]], sizes: list[list[int]], worth: list[Table], layer: ExactLayer, grid: int
) -> int:
    """Most that a GPU's content is worth: copies of its own, in any class each, and arrivals."""
    slots = layer.slots_per_gpu
    value = np.full((slots + 1, grid + 1), IMPOSSIBLE, dtype=np.int64)  # by number of copies that stay, and capacity
    value[0] = 0
    for expert, prices in copies:
        raised = value.copy()
        for size, price in zip(sizes[expert], prices, strict=True):
            if size <= grid:
                np.maximum(raised[1:, size:], value[:-1, : grid + 1 - size] + price, out=raised[1:, size:])
        value = raised
    return max(
        int((value[stay] + worth[arrive][::-1]).max())
        for stay in range(slots + 1)
        for arrive in range(0 if layer.allow_empty_slots else slots - stay, slots - stay + 1)
    )
