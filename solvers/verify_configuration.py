"""Re-check configuration-LP bounds by one exact pricing pass over all contents of a GPU."""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from typing import Any

from solvers.verify_layer import ExactLayer, Rejected, Undecided, integer, integers, number, short

MAX_REPLICAS, MAX_PAIRS = 500_000, 20_000_000
"""Sizes of replicas, and pairs of them, looked at; beyond them the check is left undecided."""

Front = list[tuple[int, int]]
"""(size, price) of contents, both rising strictly: none is lighter and as dear as another."""


def configuration_lp(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless every GPU content worth ``needed`` weighs at least the certificate's threshold.

    A replica of an expert with c copies is worth the price of the expert over c, rounded up; so all
    replicas are worth at least the sum of the prices, and some GPU holds ``needed`` or more as soon
    as ``(needed - 1) * gpus < sum``. All contents of up to four slots are pairs of pairs of
    replicas; of the pairs only those dearer than every lighter one matter.
    """
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    prices, needed = integers(certificate, "prices"), integer(certificate, "needed")
    if len(prices) != layer.num_experts or any(price < 0 for price in prices):
        raise Rejected(f"'prices' must be {layer.num_experts} integers >= 0")
    if (needed - 1) * layer.num_gpus >= sum(prices):
        raise Rejected("'needed' is more than the fullest GPU is sure to hold")
    slots = layer.slots_per_gpu
    if slots > 4:
        raise Rejected(f"the check is for up to four slots a GPU, the problem has {slots}")
    if layer.num_experts * layer.most_copies > MAX_REPLICAS:
        raise Undecided(f"{layer.num_experts} experts with up to {layer.most_copies} copies take too long to check")
    unit = lcm(*range(1, layer.most_copies + 1))
    # a size is below the threshold where size * unit, a whole number, is below this one
    limit = -(-threshold.numerator * unit // threshold.denominator)
    singles = _front(
        (load * unit // c, -(-price // c))
        for load, price in zip(layer.loads, prices, strict=True)
        for c in range(1, layer.most_copies + 1)
        if load * unit < limit * c
    )
    parts = (singles, _nothing()) if slots == 1 else (singles, singles)
    if slots > 2:
        parts = (_pairs(singles, limit, -(-2 * needed // slots)), singles)
    if slots == 4:
        parts = (parts[0], _pairs(singles, limit, needed - parts[0][-1][1]))
    if limit > 0 and _worth(*parts, limit) >= needed:
        raise Rejected("a GPU may hold the price needed and weigh less")


def _nothing() -> Front:
    return [(0, 0)]


def _front(contents: Any) -> Front:
    """Sort contents by size and keep those dearer than every lighter one, beginning with the empty one."""
    kept: Front = _nothing()
    for size, price in sorted(contents, key=lambda content: (content[0], -content[1])):
        if price > kept[-1][1]:
            if size == kept[-1][0]:
                kept.pop()
            kept.append((size, price))
    return kept


def _pairs(singles: Front, limit: int, least: int) -> Front:
    """Front of all pairs lighter than ``limit`` and worth at least ``least``."""
    if len(singles) ** 2 > MAX_PAIRS:
        raise Undecided(f"the price of {len(singles)} different replicas takes too long to check")
    found = []
    for i, (size, price) in enumerate(singles):
        if 2 * price < least:
            continue  # the dearer one of a pair has at least half
        for other_size, other_price in reversed(singles[: i + 1]):
            if price + other_price < least:
                break
            if size + other_size < limit:
                found.append((size + other_size, price + other_price))
    return _front(found)


def _worth(first: Front, second: Front, limit: int) -> int:
    """The highest price of one content of each front that weigh less than ``limit`` together."""
    best, last = -1, len(second) - 1
    for size, price in first:
        while last >= 0 and size + second[last][0] >= limit:
            last -= 1
        if last < 0:
            break
        best = max(best, price + second[last][1])
    return best
