"""Re-check configuration-LP bounds by one exact pricing pass over all contents of a GPU."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from fractions import Fraction
from math import lcm
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, integer, integers, number, short

MAX_SLOTS, MAX_COPIES, MAX_REPLICAS, MAX_STEPS = 8, 2000, 500_000, 20_000_000
"""Slots per GPU, copies of an expert, replicas in all, steps of the search; beyond them nothing is decided."""


MAX_NODES = 400
"""Nodes of a tree, half of which are leaves and each of these a search of its own."""


def configuration_lp(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless every GPU content worth ``needed`` weighs at least the certificate's threshold.

    A replica of an expert with c copies is worth the price of the expert over c, rounded up; so all
    replicas are worth at least the sum of the prices, and some GPU holds ``needed`` or more as soon
    as ``(needed - 1) * gpus < sum``. Of all replicas, with any number of copies, only those more valuable
    than every lighter one matter; the contents of such replicas are searched.
    """
    _check_leaf(layer, _threshold(layer, value, certificate), certificate, {})


def configuration_tree(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the leaves of the certificate's tree prove its threshold as ``configuration_lp`` does.

    An inner node has an expert with at most ``split`` copies in ``fewer`` and with more in ``more``; one of the
    two is true of every placement. In a leaf all replicas are of counts that the nodes above it leave, and are
    worth the sum of the leaf's prices all the same.
    """
    threshold = _threshold(layer, value, certificate)
    waiting: list[tuple[Any, dict[int, tuple[int, int]]]] = [(certificate.get("tree"), {})]
    nodes = 0
    while waiting:
        node, ranges = waiting.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise Undecided(f"a tree of more than {MAX_NODES} nodes takes too long to check")
        if not isinstance(node, dict):
            raise Rejected("a node of the certificate's tree is not a dict")
        if "expert" not in node:
            _check_leaf(layer, threshold, node, ranges)
            continue
        expert, split = integer(node, "expert"), integer(node, "split")
        if not 0 <= expert < layer.num_experts:
            raise Rejected("a node of the tree names no expert of the problem")
        fewest, most = ranges.get(expert, (1, layer.most_copies))
        waiting.append((node.get("fewer"), ranges | {expert: (fewest, min(split, most))}))
        waiting.append((node.get("more"), ranges | {expert: (max(split + 1, fewest), most)}))


def _threshold(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> Fraction:
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    return threshold


def _check_leaf(
    layer: ExactLayer, threshold: Fraction, leaf: dict[str, Any], ranges: dict[int, tuple[int, int]]
) -> None:
    """Reject unless the leaf's prices prove ``threshold``, where some experts' copies are in ``ranges``."""
    prices, needed = integers(leaf, "prices"), integer(leaf, "needed")
    if len(prices) != layer.num_experts or any(price < 0 for price in prices):
        raise Rejected(f"'prices' must be {layer.num_experts} integers >= 0")
    if (needed - 1) * layer.num_gpus >= sum(prices):
        raise Rejected("'needed' is more than the fullest GPU is sure to hold")
    copies = layer.most_copies
    if layer.slots_per_gpu > MAX_SLOTS or copies > MAX_COPIES or layer.num_experts * copies > MAX_REPLICAS:
        raise Undecided(f"contents of {layer.slots_per_gpu} slots with up to {copies} copies take too long to check")
    unit = lcm(*range(1, copies + 1))
    # sizes times unit are whole numbers, below the threshold exactly where they are below this one
    limit = -(-threshold.numerator * unit // threshold.denominator)
    allowed = [ranges.get(expert, (1, copies)) for expert in range(layer.num_experts)]
    sizes, prices = _front(
        (load * unit // c, -(-price // c))
        for load, price, (fewest, most) in zip(layer.loads, prices, allowed, strict=True)
        for c in range(fewest, most + 1)
        if load * unit < limit * c
    )
    if limit > 0 and _Contents(sizes, prices).exists(layer.slots_per_gpu, needed, limit, len(sizes) - 1):
        raise Rejected("a GPU may hold the price needed and weigh less")


def _front(replicas: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Sizes and prices of an empty slot and of the replicas more valuable than every lighter one; both rise."""
    sizes, prices = [0], [0]
    for size, price in sorted(replicas, key=lambda replica: (replica[0], -replica[1])):
        if price > prices[-1]:
            if size == sizes[-1]:
                del sizes[-1], prices[-1]
            sizes.append(size)
            prices.append(price)
    return sizes, prices


class _Contents:
    """The search for a light and valuable content of a GPU, most valuable replica first."""

    def __init__(self, sizes: list[int], prices: list[int]) -> None:
        self.sizes, self.prices, self.steps = sizes, prices, 0

    def exists(self, slots: int, needed: int, limit: int, last: int) -> bool:
        """Whether ``slots`` replicas of the front up to ``last`` are worth ``needed`` and lighter than ``limit``.

        The most valuable has at least its share of the price. The last one is the lightest valuable enough.
        """
        sizes, prices = self.sizes, self.prices
        if slots == 1:
            lightest = bisect_left(prices, needed)
            return lightest <= last and sizes[lightest] < limit
        for i in range(min(last, bisect_left(sizes, limit) - 1), -1, -1):
            price = prices[i]
            if slots * price < needed:
                return False
            if slots > 2:
                if self.exists(slots - 1, needed - price, limit - sizes[i], i):
                    return True
            else:
                self.steps += 1
                if sizes[i] + sizes[bisect_left(prices, needed - price)] < limit:
                    return True
        if self.steps > MAX_STEPS:
            raise Undecided(f"the contents of a GPU, of {len(sizes)} different replicas, take too long to check")
        return False
