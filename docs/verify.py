"""Check ``certificates.json`` of a report, or the record of an instance: ``python verify.py FILE ...``.

Needs Python 3.11 and its standard library, nothing else: no numpy, no moeopt. All arithmetic is in integers and
fractions. It prints every layer's bound, whether that is proven, and every placement's exact makespan. It ends with
0; 1 if a claim is false; 2 if a file cannot be used. What each check proves is explained in ``docs/certificates.md``.

Written by scripts/standalone_verify.py from the modules of moeopt/verify: change those.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, combinations, pairwise
from math import inf, lcm
from pathlib import Path
from typing import Any


# --------------------------------------------------------------------------------
# moeopt/verify/layer.py
#
# One layer in exact integers, and what is claimed about it: what the checks of ``moeopt.verify`` work on.


class Rejected(Exception):
    """A claim does not hold; the message says why. Never leaves ``verify``."""


class Undecided(Exception):
    """A check grew beyond its limit, so that nothing is said either way. Never leaves ``verify``."""


@dataclass(frozen=True)
class ExactLayer:
    """The loads and rules of one layer.

    Parameters
    ----------
    loads
        ``[experts]`` loads in units of ``1 / scale`` tokens, so that all are whole numbers.
    scale
        Least common denominator of the loads; 1 for counts.
    num_gpus, slots_per_gpu
        GPUs and slots on each.
    num_nodes, num_groups
        Both 1 where the problem is not hierarchical.
    allow_colocated, allow_empty_slots
        The problem's switches.
    reference
        ``[gpus]`` copies of every expert in the placement that moves count from, as dicts; or None.
    max_moves, ceiling
        The problem's limits; None = none. With a ceiling the objective is moves.
    splits
        Whether an expert's tokens may go to any of its copies; else every copy has an equal share.
    steps
        ``[steps, experts]`` loads of the steps that ``loads`` adds up, where the objective is the sum over steps of the
        fullest GPU; else None.
    """

    loads: list[int]
    scale: int
    num_gpus: int
    slots_per_gpu: int
    num_nodes: int
    num_groups: int
    allow_colocated: bool
    allow_empty_slots: bool
    reference: list[dict[int, int]] | None
    max_moves: int | None
    ceiling: Fraction | None
    splits: bool
    steps: list[list[int]] | None = None

    @property
    def objective(self) -> str:
        """What the problem minimises: makespan, moves, or what steps cost."""
        if self.steps is not None:
            return "steps"
        return "makespan" if self.ceiling is None else "moves"

    @property
    def num_experts(self) -> int:
        """Experts of the layer."""
        return len(self.loads)

    @property
    def num_slots(self) -> int:
        """Slots on all GPUs."""
        return self.num_gpus * self.slots_per_gpu

    @property
    def num_redundant(self) -> int:
        """Slots beyond one per expert."""
        return self.num_slots - self.num_experts

    @property
    def most_copies(self) -> int:
        """The most copies of one expert: all others need a slot, on its node as many as elsewhere."""
        most = self.num_redundant // self.num_nodes + 1
        return most if self.allow_colocated else min(most, self.num_gpus // self.num_nodes)


@dataclass(frozen=True)
class Claim:
    """What is said about a layer and can be checked; None or "" where nothing is said.

    Parameters
    ----------
    slots
        Expert of every slot, -1 where it is empty.
    makespan, moves, objective
        Of that placement, in tokens and moves; may be rounded as floats are.
    bound, source, certificate
        The lower bound on the objective, at its exact value, what found it, and what proves it.
    status
        Name of a ``SolveStatus``.
    """

    slots: list[int] | None = None
    makespan: float | Fraction | None = None
    moves: float | Fraction | None = None
    objective: float | Fraction | None = None
    bound: float | Fraction | None = None
    source: str = ""
    certificate: Any = None
    status: str = ""


def whole_loads(loads: Iterable[float]) -> tuple[list[int], int]:
    """Return loads at their exact values in units that make all of them whole, and how many units a token has."""
    exact_loads = [Fraction(load) for load in loads]
    scale = math.lcm(*{load.denominator for load in exact_loads})
    return [load.numerator * (scale // load.denominator) for load in exact_loads], scale


def copies_by_gpu(slots: list[int], num_gpus: int) -> list[dict[int, int]]:
    """Copies of every expert on every GPU; empty slots (-1) are left out."""
    size = len(slots) // num_gpus
    gpus: list[dict[int, int]] = [{} for _ in range(num_gpus)]
    for slot, expert in enumerate(slots):
        if expert >= 0:
            held = gpus[slot // size]
            held[expert] = held.get(expert, 0) + 1
    return gpus


def integer(certificate: dict[str, Any], key: str) -> int:
    """Return an integer of a certificate, or reject the certificate."""
    value = certificate.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Rejected(f"the certificate's {key!r} is not an integer")
    return value


def number(certificate: dict[str, Any], key: str) -> Fraction:
    """Return a finite number of a certificate, at its exact value, or reject the certificate."""
    return exact(certificate.get(key), f"the certificate's {key!r}")


def exact(value: object, name: str) -> Fraction:
    """Return a finite number at its exact value, or reject it by ``name``."""
    known = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        raise Rejected(f"{name} is not a finite number")
    assert isinstance(value, int | float | Fraction)
    return Fraction(value)


def integers(certificate: dict[str, Any], key: str) -> list[int]:
    """Return a list of integers of a certificate, or reject the certificate."""
    values = certificate.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise Rejected(f"the certificate's {key!r} is not a list of integers")
    return values


def short(value: Fraction | float) -> str:
    """Return a number for a message."""
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a number beyond floats"


# --------------------------------------------------------------------------------
# moeopt/verify/split.py
#
# The best split of tokens among copies, in Python integers: the exact makespan of a placement under it.


def split_makespan(loads: Sequence[int], gpus: Iterable[Iterable[int]]) -> Fraction:
    """Least load of the fullest GPU when tokens may go to any copy.

    ``loads`` by expert, whole numbers; ``gpus`` the experts on every GPU, whose loads count. Tries thresholds,
    from the mean up: tokens that no GPU can take below a threshold prove a higher one, see ``docs/problem.md``.
    """
    hosts: dict[int, list[int]] = {}
    num_gpus = 0
    for gpu, held in enumerate(gpus):
        num_gpus += 1
        for expert in set(held):
            hosts.setdefault(expert, []).append(gpu)
    threshold = Fraction(sum(loads[expert] for expert in hosts), num_gpus)
    while crowded := _crowded(loads, hosts, num_gpus, threshold):
        where = {gpu for expert in crowded for gpu in hosts[expert]}
        threshold = Fraction(sum(loads[expert] for expert in crowded), len(where))
    return threshold


def _crowded(loads: Sequence[int], hosts: dict[int, list[int]], num_gpus: int, threshold: Fraction) -> set[int]:
    """Experts whose GPUs cannot take all their tokens within ``threshold``; empty if all tokens fit.

    Tokens are counted in units of ``1 / threshold.denominator``.
    """
    room = [threshold.numerator] * num_gpus
    served: list[dict[int, int]] = [{} for _ in range(num_gpus)]
    for expert in hosts:
        left = loads[expert] * threshold.denominator
        while left:
            pushed, asked = _push(expert, left, hosts, room, served)
            if not pushed:
                return asked
            left -= pushed
    return set()


def _push(
    expert: int, left: int, hosts: dict[int, list[int]], room: list[int], served: list[dict[int, int]]
) -> tuple[int, set[int]]:
    """Bring tokens of an expert to the nearest GPU with room, moving others on the way: how many, and who was asked."""
    via: dict[int, tuple[int, int]] = {}  # of a GPU: whose tokens it could take, from which GPU (-1: from nowhere)
    asked = {expert}
    waiting = [(expert, -1)]
    for e, source in waiting:
        for gpu in hosts[e]:
            if gpu in via:
                continue
            via[gpu] = e, source
            if room[gpu]:
                path = [(gpu, e, source)]
                while path[-1][2] >= 0:
                    path.append((path[-1][2], *via[path[-1][2]]))
                amount = min([left, room[gpu], *(served[start][e] for _, e, start in path if start >= 0)])
                room[gpu] -= amount
                for end, e, start in path:
                    served[end][e] = served[end].get(e, 0) + amount
                    if start >= 0:
                        served[start][e] -= amount
                return amount, asked
            for other, tokens in served[gpu].items():
                if tokens and other not in asked:
                    asked.add(other)
                    waiting.append((other, gpu))
    return 0, asked


# --------------------------------------------------------------------------------
# moeopt/verify/bounds.py
#
# Re-check combinatorial bounds from their certificates, in exact integers.
#
# Every function takes a layer, the claimed bound ``value`` (in the layer's units, an exact fraction)
# and the certificate, and raises ``Rejected`` unless it has proven that no placement stays below
# ``value``. All assume a placement that does and look for a contradiction.


MAX_DEALS = 300_000
"""Nodes of the search for a deal of the hottest experts' GPUs; beyond them the check is left undecided."""


def mean_load(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """All GPUs together carry the total load."""
    total = sum(layer.loads)
    if layer.num_redundant == 0:
        proven = total > layer.num_gpus * _below(value)
    else:
        proven = total * value.denominator >= layer.num_gpus * value.numerator
    if not proven:
        raise Rejected("the mean load is smaller")


def hottest_replica(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Bringing every replica below ``value`` takes more copies than there are slots.

    All experts share all slots. The experts of one group share those of their node, less one for
    every expert of the other groups there.
    """
    if value <= 0:
        return
    size = layer.num_experts // layer.num_groups
    allowed = size + layer.num_redundant // layer.num_nodes
    if "group" in certificate:
        group = integer(certificate, "group")
        if not 0 <= group < layer.num_groups:
            raise Rejected("the problem has no such group")
        groups = [group]
    else:
        if _copies_needed(layer.loads, value) > layer.num_slots:
            return
        groups = list(range(layer.num_groups))
    if not any(_copies_needed(layer.loads[g * size : (g + 1) * size], value) > allowed for g in groups):
        raise Rejected("there are slots enough to bring every replica below it")


def hottest_with_companions(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Beside the hottest replica sit at least ``k-1-R`` different whole experts (or heavier companions)."""
    companions = max(layer.slots_per_gpu - 1 - layer.num_redundant, 0)
    hottest_replica(layer, value - sum(sorted(layer.loads)[:companions]), certificate)


def hot_on_few_gpus(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """However many GPUs the j hottest experts occupy, one of these GPUs is too full."""
    hot, others = _split(layer, certificate)
    occupied = _possible_sets(hot, others, layer.num_gpus, layer.slots_per_gpu, _below(value))
    if occupied:
        raise Rejected(f"the {len(hot)} hottest experts may sit on {occupied[0]} GPUs")


def hottest_gpus(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """As ``hot_on_few_gpus``, but the j hottest on j GPUs are refuted by searching all deals."""
    hot, others = _split(layer, certificate)
    limit = _below(value)
    occupied = _possible_sets(hot, others, layer.num_gpus, layer.slots_per_gpu, limit)
    if occupied and occupied != [len(hot)]:
        raise Rejected(f"the {len(hot)} hottest experts may sit on {occupied[0]} GPUs")
    if occupied and _deal_exists(hot, others[: len(hot) * (layer.slots_per_gpu - 1)], layer.slots_per_gpu, limit):
        raise Rejected(f"the {len(hot)} hottest experts may sit on {len(hot)} GPUs with the lightest others")


def node_load(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Nodes hold whole groups, in equal numbers: one is too full however the groups are dealt."""
    if layer.num_nodes == 1:
        raise Rejected("the problem has no nodes")
    gpus = layer.num_gpus // layer.num_nodes
    limit = gpus * _below(value) if layer.num_redundant == 0 else _below(value * gpus)
    size = layer.num_experts // layer.num_groups
    ascending = sorted(sum(layer.loads[g * size : (g + 1) * size]) for g in range(layer.num_groups))
    per_node = layer.num_groups // layer.num_nodes
    for heaviest in range(1, layer.num_groups + 1):
        rest = layer.num_groups - heaviest
        if not _possible_sets(ascending[rest:], ascending[:rest], layer.num_nodes, per_node, limit):
            return
    if _deal_exists([0] * layer.num_nodes, ascending, per_node + 1, limit):
        raise Rejected("the groups fit on the nodes")


Check = Callable[[ExactLayer, Fraction, dict[str, Any]], None]

ON_MAKESPAN: dict[str, Check] = {
    check.__name__: check
    for check in (mean_load, hottest_replica, hottest_with_companions, hot_on_few_gpus, hottest_gpus, node_load)
}
"""Checks of combinatorial bounds on the makespan by the certificate's ``method``."""


def _below(value: Fraction) -> int:
    """The largest whole load below ``value``; sums of loads are whole numbers of the layer's units."""
    return (value.numerator - 1) // value.denominator


def _copies_needed(loads: list[int], value: Fraction) -> int:
    """Copies that bring every replica strictly below ``value``: w/c < a/b means c > w b / a."""
    a, b = value.numerator, value.denominator
    return sum(load * b // a + 1 for load in loads) if a > 0 else 0


def _split(layer: ExactLayer, certificate: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Loads of the certificate's hottest experts and of all others, both rising."""
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    ids = integers(certificate, "hottest")
    chosen = set(ids)
    if not ids or len(chosen) != len(ids) or not all(0 <= expert < layer.num_experts for expert in ids):
        raise Rejected("'hottest' must name different experts of the problem")
    hot = sorted(layer.loads[expert] for expert in chosen)
    others = sorted(load for expert, load in enumerate(layer.loads) if expert not in chosen)
    if others and others[-1] > hot[0]:
        raise Rejected(f"'hottest' does not name the {len(ids)} hottest experts")
    return hot, others


def _possible_sets(hot: list[int], others: list[int], num_sets: int, size: int, limit: int) -> list[int]:
    """The numbers q of sets that the ``hot`` items may occupy with no set above ``limit``.

    All sets hold exactly ``size`` items. The q sets hold, beside the hot items, at least the lightest
    others; and one of them holds i >= j/q hot items, at best the lightest i, with the lightest others.
    """
    j = len(hot)
    light, rest = [0, *accumulate(hot)], [0, *accumulate(others)]
    crowded = [False] * (size + 2)  # crowded[i]: a set may hold i hot items or more
    for i in range(min(size, j), 0, -1):
        fits = size - i < len(rest) and light[i] + rest[size - i] <= limit
        crowded[i] = crowded[i + 1] or fits
    return [
        q
        for q in range(-(-j // size), min(j, num_sets) + 1)
        if crowded[-(-j // q)] and light[j] + rest[q * size - j] <= q * limit
    ]


def _deal_exists(hot: list[int], lightest: list[int], size: int, limit: int) -> bool:
    """Whether the ``lightest`` items can be dealt to sets of one hot item each, none above ``limit``.

    Heaviest first. A set must be able to end at or below ``limit`` with the lightest items left,
    and must not end so light that the others cannot carry the rest.
    """
    items = lightest[::-1]
    count = len(items)
    prefix = [0, *accumulate(items)]
    least = sum(hot) + prefix[-1] - (len(hot) - 1) * limit
    waiting = [tuple((load, size - 1) for load in hot)]
    seen: set[tuple[tuple[int, int], ...]] = set()
    while waiting:
        sets = waiting.pop()
        if sets in seen:
            continue
        seen.add(sets)
        if len(seen) > MAX_DEALS:
            raise Undecided(f"the search of the {len(hot)} hottest experts' GPUs takes too long")
        dealt = count - sum(free for _, free in sets)
        if any(
            load + prefix[count] - prefix[count - free] > limit or load + prefix[dealt + free] - prefix[dealt] < least
            for load, free in sets
        ):
            continue
        if dealt == count:
            return True
        for position, (load, free) in enumerate(sets):
            if free and (load, free) not in sets[:position]:
                changed = (load + items[dealt], free - 1)
                waiting.append(tuple(sorted((*sets[:position], changed, *sets[position + 1 :]))))
    return False


# --------------------------------------------------------------------------------
# moeopt/verify/configuration.py
#
# Re-check configuration-LP bounds by one exact pricing pass over all contents of a GPU.


configuration_MAX_SLOTS, MAX_COPIES, MAX_REPLICAS, configuration_MAX_STEPS = 8, 2000, 500_000, 20_000_000
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
    if layer.slots_per_gpu > configuration_MAX_SLOTS or copies > MAX_COPIES or layer.num_experts * copies > MAX_REPLICAS:
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
    if limit > 0 and configuration_Contents(sizes, prices).exists(layer.slots_per_gpu, needed, limit, len(sizes) - 1):
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


class configuration_Contents:
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
        if self.steps > configuration_MAX_STEPS:
            raise Undecided(f"the contents of a GPU, of {len(sizes)} different replicas, take too long to check")
        return False


# --------------------------------------------------------------------------------
# moeopt/verify/copy_prices.py
#
# Re-check bounds on moves from prices on copies: what counts cost against what GPUs collect, in exact integers.


copy_prices_MAX_SLOTS, MAX_GRID, copy_prices_MAX_STEPS = 64, 1 << 16, 50_000_000
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
    if max(layer.slots_per_gpu, held) > copy_prices_MAX_SLOTS or grid > MAX_GRID:
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
    contents = copy_prices_Contents(sizes, grid)
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


class copy_prices_Contents:
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
        if self.steps > copy_prices_MAX_STEPS:
            raise Undecided("the contents of GPUs take too long to check")
        front: Front = []
        for size in sorted(best):
            if not front or best[size] > front[-1][1]:
                front.append((size, best[size]))
        return front


# --------------------------------------------------------------------------------
# moeopt/verify/moves.py
#
# Re-check bounds that speak of moves, in exact integers.
#
# Every function takes a layer, the claimed bound ``value`` (moves, or a makespan in the layer's units) and the
# certificate, and raises ``Rejected`` unless it has proven that no placement does with less. The ceiling is the
# problem's own. Arrivals are copies that their GPU does not hold in the reference.


def moves_needed(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Experts the reference lacks must come in; slots that it cannot fill must be filled."""
    if layer.reference is None:
        raise Rejected("the problem has no reference")
    held = {expert for gpu in layer.reference for expert in gpu}
    filled = sum(sum(gpu.values()) for gpu in layer.reference)
    unfilled = 0 if layer.allow_empty_slots else layer.num_slots - filled
    if max(layer.num_experts - len(held), unfilled, 0) < value:
        raise Rejected("fewer moves may do")


def arrivals_needed(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """A partition's GPUs neither get light enough nor carry all load with fewer arrivals."""
    needed = _arrivals(layer, math.floor(_ceiling(layer)))
    if needed is not None and needed < value:
        raise Rejected(f"{needed} moves may do")


def copies_needed(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Experts need so many more copies than the reference has that none is above the ceiling."""
    needed = _extra_copies(layer, _ceiling(layer))
    if needed < value:
        raise Rejected(f"{needed} more copies may do")


def regrouping_needed(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """A node's groups weigh more than its GPUs may carry, and to exchange a group moves two."""
    needed = 0
    if _fullest_node(layer) > _ceiling(layer) * (layer.num_gpus // layer.num_nodes):
        needed = _regrouped(layer)
    if needed < value:
        raise Rejected(f"{needed} moves may do")


def makespan_within_moves(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Below ``value``, more moves are needed than are allowed."""
    if layer.max_moves is None:
        raise Rejected("the problem does not limit moves")
    if value <= 0:
        return
    if _is_partition(layer):
        needed = _arrivals(layer, (value.numerator - 1) // value.denominator)
        if needed is None or needed > layer.max_moves:
            return
    elif _extra_copies(layer, value, below=True) > layer.max_moves:
        return
    groups_stay = layer.num_nodes > 1 and layer.max_moves < _regrouped(layer)
    if groups_stay and _fullest_node(layer) >= value * (layer.num_gpus // layer.num_nodes):
        return
    raise Rejected(f"{layer.max_moves} moves may do")


ON_MOVES: dict[str, Callable[[ExactLayer, Fraction, dict[str, Any]], None]] = {
    check.__name__: check for check in (moves_needed, arrivals_needed, copies_needed, regrouping_needed)
}
"""Checks of bounds on moves by the certificate's ``method``."""


def _ceiling(layer: ExactLayer) -> Fraction:
    """The highest makespan that keeps the ceiling, in the layer's units."""
    if layer.ceiling is None:
        raise Rejected("the problem has no ceiling")
    return layer.ceiling * layer.scale


def _copies(layer: ExactLayer) -> list[int]:
    """Copies of every expert in the reference."""
    if layer.reference is None:
        raise Rejected("the problem has no reference")
    copies = [0] * layer.num_experts
    for gpu in layer.reference:
        for expert, count in gpu.items():
            copies[expert] += count
    return copies


def _is_partition(layer: ExactLayer) -> bool:
    """Whether problem and reference hold every expert once, with every slot full."""
    full = layer.reference is not None and all(sum(gpu.values()) == layer.slots_per_gpu for gpu in layer.reference)
    return full and layer.num_redundant == 0 and set(_copies(layer)) == {1}


def _arrivals(layer: ExactLayer, ceiling: int) -> int | None:
    """Arrivals that a partition needs for a whole ``ceiling``, as its loads are; None where no numbers will do."""
    if not _is_partition(layer):
        raise Rejected("the bound is for partitions")
    assert layer.reference is not None
    gpus = [list(gpu) for gpu in layer.reference]
    needed = _arrivals_among(layer.loads, gpus, ceiling)
    if needed is None or layer.num_nodes == 1 or moves_nodes(layer) is None:
        return needed
    per_node = layer.num_gpus // layer.num_nodes
    kept = 0
    for first in range(0, layer.num_gpus, per_node):
        on_node = _arrivals_among(layer.loads, gpus[first : first + per_node], ceiling)
        if on_node is None:  # the node's groups cannot all stay
            return max(needed, _regrouped(layer))
        kept += on_node
    return max(needed, min(kept, _regrouped(layer)))


def _arrivals_among(loads: list[int], gpus: list[list[int]], ceiling: int) -> int | None:
    """Least arrivals when the experts of ``gpus`` stay among them, by the interval each GPU's load is in.

    With j arrivals and j departures a GPU gains at least the j lightest of the others less its j heaviest, at
    most the j heaviest of the others less its j lightest.
    """
    experts = [expert for gpu in gpus for expert in gpu]
    total = sum(loads[expert] for expert in experts)
    needed = carried = 0
    gains: list[int] = []
    for gpu in gpus:
        held = set(gpu)
        own = sorted(loads[expert] for expert in gpu)
        others = sorted(loads[expert] for expert in experts if expert not in held)
        load = sum(own)
        reach: list[int] = []
        for j in range(min(len(own), len(others)) + 1):
            lightest = load - sum(own[len(own) - j :]) + sum(others[:j])
            heaviest = load - sum(own[:j]) + sum(others[len(others) - j :])
            if lightest <= ceiling:
                if not reach:
                    needed += j
                reach.append(min(ceiling, heaviest))
        if not reach:
            return None
        carried += reach[0]
        gains += [after - before for before, after in pairwise(reach)]
    for gain in sorted(gains, reverse=True):
        if carried >= total:
            break
        carried += gain
        needed += 1
    return needed if carried >= total else None


def _extra_copies(layer: ExactLayer, ceiling: Fraction, *, below: bool = False) -> int:
    """Copies beyond the reference's that bring every copy to ``ceiling``, or ``below`` it."""
    extra = 0
    for load, count in zip(layer.loads, _copies(layer), strict=True):
        if load == 0:
            fewest = 1
        elif ceiling == 0:
            fewest = layer.num_slots + 1
        elif below:
            fewest = load * ceiling.denominator // ceiling.numerator + 1
        else:
            fewest = -(-load * ceiling.denominator // ceiling.numerator)
        extra += max(fewest - count, 0)
    return extra


def moves_nodes(layer: ExactLayer) -> list[set[int]] | None:
    """The groups on every node of the reference; None where it spreads a group or hosts unequal numbers."""
    if layer.reference is None:
        return None
    size, per_node = layer.num_experts // layer.num_groups, layer.num_gpus // layer.num_nodes
    nodes: list[set[int]] = [set() for _ in range(layer.num_nodes)]
    for gpu, held in enumerate(layer.reference):
        nodes[gpu // per_node].update(expert // size for expert in held)
    share = layer.num_groups // layer.num_nodes
    whole = len(set().union(*nodes)) == layer.num_groups and all(len(groups) == share for groups in nodes)
    return nodes if whole else None


def _fullest_node(layer: ExactLayer) -> int:
    """Load of the groups of the fullest node."""
    nodes = moves_nodes(layer) if layer.num_nodes > 1 else None
    if nodes is None:
        raise Rejected("the reference does not keep groups on nodes")
    size = layer.num_experts // layer.num_groups
    return max(sum(sum(layer.loads[g * size : (g + 1) * size]) for g in groups) for groups in nodes)


def _regrouped(layer: ExactLayer) -> int:
    """Arrivals when a group leaves its node and another takes its place: every expert of both."""
    return 2 * (layer.num_experts // layer.num_groups)


# --------------------------------------------------------------------------------
# moeopt/verify/window_cover.py
#
# Re-check bounds for partitions by searching all covers with sets within a window of loads, in exact integers.


window_cover_MAX_EXPERTS, MAX_SETS, window_cover_MAX_STEPS, window_cover_MAX_WORK = 128, 300_000, 3_000_000, 20_000_000
"""Experts, sets of them within the window, steps to list these, sets seen in the search; beyond nothing is decided."""

Sets = list[tuple[int, int, list[int]]]
"""Slack of a set up to the limit, its experts as a bit mask, and as a list."""


def window_cover(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless no placement stays below the certificate's threshold.

    Suppose one does: no GPU is above ``limit``, the largest whole load below the threshold. The slacks
    limit - load of all GPUs add up to ``gpus * limit - total``, so none exceeds that. All sets of as many
    experts as a GPU has slots within that window are listed; the search finds no choice of them that
    holds every expert once.
    """
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    if layer.num_experts > window_cover_MAX_EXPERTS:
        raise Undecided(f"covers of {layer.num_experts} experts take too long to check")
    limit = (threshold.numerator - 1) // threshold.denominator
    budget = layer.num_gpus * limit - sum(layer.loads)
    if budget >= 0:
        sets = _sets(sorted(layer.loads), layer.slots_per_gpu, limit, limit - budget)
        if Covers(layer.num_experts, layer.slots_per_gpu).exists(sets, budget, layer.num_gpus):
            raise Rejected("a placement stays below the certificate's threshold")


def _sets(loads: list[int], size: int, most: int, least: int) -> Sets:
    """Sets of ``size`` experts with least <= load <= most, the fullest first; ``loads`` rise."""
    before, count = [0, *accumulate(loads)], len(loads)
    found: Sets = []
    waiting: list[tuple[int, list[int]]] = [(0, [])]
    steps = 0
    while waiting:
        load, experts = waiting.pop()
        missing = size - len(experts)
        if not missing:
            found.append((most - load, sum(1 << expert for expert in experts), experts))
            continue
        for expert in range(experts[-1] + 1 if experts else 0, count - missing + 1):
            steps += 1
            if load + before[expert + missing] - before[expert] > most:
                break
            if load + loads[expert] + before[count] - before[count - missing + 1] >= least:
                waiting.append((load + loads[expert], [*experts, expert]))
        if steps > window_cover_MAX_STEPS or len(found) > MAX_SETS:
            raise Undecided(f"the sets of {size} experts below the threshold take too long to list")
    return sorted(found)


class Covers:
    """The search for sets that hold every expert once."""

    def __init__(self, num_experts: int, size: int) -> None:
        self.num_experts, self.size = num_experts, size
        self.failed: set[int] = set()
        self.work = 0

    def exists(self, sets: Sets, slack: int, missing: int, covered: int = 0) -> bool:
        """Whether ``missing`` of the sets, disjoint and of so much slack together, hold all experts not ``covered``.

        What is covered fixes the slack left, so that it fails for good. Some set holds the rarest expert.
        """
        if not missing:
            return True
        often, sets = self._possible(sets, slack, covered)
        rarest = min(often, key=lambda expert: often[expert], default=None)
        for known in sets if rarest is not None else []:
            taken, mask, experts = known
            if rarest in experts and covered | mask not in self.failed:
                self.work += len(sets)
                rest = [other for other in sets if not other[1] & mask and other[0] <= slack - taken]
                if self.exists(rest, slack - taken, missing - 1, covered | mask):
                    return True
        self.failed.add(covered)
        return False

    def _possible(self, sets: Sets, slack: int, covered: int) -> tuple[dict[int, int], Sets]:
        """In how many sets every expert is that is not ``covered``, and the sets that a cover may have; or nothing.

        Give every expert an even share of its set's slack: the shares add up to ``slack``. So the least shares of
        all experts, and those of one set with the least of all others, add up to no more, the greatest to no less.
        """
        self.work += len(sets)
        if self.work > window_cover_MAX_WORK:
            raise Undecided("the search for covers takes too long")
        often: dict[int, int] = {}
        least: dict[int, int] = {}
        most: dict[int, int] = {}
        for taken, _, experts in sets:
            for expert in experts:
                often[expert] = often.get(expert, 0) + 1
                least.setdefault(expert, taken)
                most[expert] = taken
        lowest, highest, whole = sum(least.values()), sum(most.values()), self.size * slack
        if len(often) + covered.bit_count() < self.num_experts or not lowest <= whole <= highest:
            return {}, []
        return often, [
            (taken, mask, experts)
            for taken, mask, experts in sets
            if lowest + self.size * taken - sum(least[expert] for expert in experts) <= whole
            and highest + self.size * taken - sum(most[expert] for expert in experts) >= whole
        ]


# --------------------------------------------------------------------------------
# moeopt/verify/pairing.py
#
# Re-check bounds for two slots per GPU from weighted points, in exact integers.


def pairing_lp(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the certificate's rounds refute every makespan of at most its threshold T.

    Suppose a placement with makespan <= T. Let a copy of size s cost, for a point p of weight x >= 0,
    x if s >= p and x again if s > T - p. Of two copies on a GPU, if one has s >= p, the other has at
    most T - p: together they cost at most 2x, a lone copy too. So all copies together cost at most
    slots * sum(x). Every expert picks a count among those still possible; the cheapest counts of
    all leave a slack. Slack below zero refutes T; a count that costs more than its expert's cheapest by more
    than the slack is possible no longer, in this and the following rounds.
    """
    if _left(layer, threshold_of(layer, value, certificate), certificate) is not None:
        raise Rejected("the certificate's rounds leave replica counts that may reach it")


def threshold_of(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> Fraction:
    """Return the threshold of a certificate for two slots per GPU, in the layer's units, or reject it."""
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    if layer.slots_per_gpu != 2:
        raise Rejected(f"the certificate is for two slots per GPU, the problem has {layer.slots_per_gpu}")
    return threshold


def _left(layer: ExactLayer, threshold: Fraction, certificate: dict[str, Any]) -> list[list[int]] | None:
    """Counts of every expert that the rounds leave possible, or None where they refute the threshold."""
    rounds = pairing_rounds(certificate)
    if threshold <= 0:
        if any(layer.loads) or threshold < 0:
            return None
        raise Rejected("a layer without load has makespan 0")
    fewest = [max(-(-load * threshold.denominator // threshold.numerator), 1) for load in layer.loads]  # w/c <= T
    if max(fewest) > layer.most_copies:
        return None
    possible = [list(range(least, layer.most_copies + 1)) for least in fewest]
    for step in rounds:
        costs, limit = _step(layer, possible, threshold, step)
        cheapest = [min(of_expert) for of_expert in costs]
        slack = limit - sum(cheapest)
        if slack < 0:
            return None
        possible = [
            [c for c, cost in zip(counts, of_expert, strict=True) if cost <= least + slack]
            for counts, of_expert, least in zip(possible, costs, cheapest, strict=True)
        ]
    return possible


def _step(
    layer: ExactLayer, possible: list[list[int]], threshold: Fraction, step: dict[str, Any]
) -> tuple[list[list[int]], int]:
    """What the possible counts cost with the points and weights of a step, and what all may cost together."""
    points, weights = _points(layer, step), integers(step, "weights")
    if len(points) != len(weights) or any(weight < 0 for weight in weights):
        raise Rejected("a round needs a weight >= 0 for every point")
    return _costs(layer.loads, possible, threshold, points, weights), layer.num_slots * sum(weights)


def pairing_rounds(certificate: dict[str, Any]) -> list[dict[str, Any]]:
    rounds = certificate.get("rounds")
    if not isinstance(rounds, list) or not all(isinstance(step, dict) for step in rounds):
        raise Rejected("the certificate's 'rounds' is not a list of points and weights")
    return rounds


def _points(layer: ExactLayer, step: dict[str, Any]) -> list[Fraction]:
    points = step.get("points")
    if not isinstance(points, list):
        raise Rejected("the points of a round are not a list")
    return [exact(point, "a point of a round") * layer.scale for point in points]


def _costs(
    loads: list[int], possible: list[list[int]], threshold: Fraction, points: list[Fraction], weights: list[int]
) -> list[list[int]]:
    """Cost of c copies of every expert, for its possible counts; sizes are compared as w >= c p in integers."""
    unit = lcm(threshold.denominator, *(point.denominator for point in points))
    ordered = sorted((int(point * unit), weight) for point, weight in zip(points, weights, strict=True))
    reached = [point for point, _ in ordered]
    passed = [int(threshold * unit) - point for point in reached[::-1]]  # rising, as T - p falls with p
    below = [0, *accumulate(weight for _, weight in ordered)]
    above = [0, *accumulate(weight for _, weight in reversed(ordered))]
    costs = []
    for load, counts in zip(loads, possible, strict=True):
        size = load * unit
        costs.append(
            [
                # w/c >= p means floor(w/c) >= p for whole p; w/c > T - p means ceil(w/c) > T - p
                c * (below[bisect_right(reached, size // c)] + above[bisect_left(passed, -(-size // c))])
                for c in counts
            ]
        )
    return costs


# --------------------------------------------------------------------------------
# moeopt/verify/steps.py
#
# Re-check bounds on the sum over steps of the fullest GPU, in exact integers.


ON_BLOCKS = {**ON_MAKESPAN, "makespan_within_moves": makespan_within_moves}
"""Checks of bounds on the makespan of a block's load, by the certificate's ``method``."""

MAX_PRODUCTS = 5_000_000
"""Experts times experts times steps; beyond nothing is decided."""


def step_blocks(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the bounds of blocks of consecutive steps, each proven for its summed load, add up to ``value``.

    The fullest GPUs of a block's steps carry at least what the fullest GPU of its sum does.
    """
    _add_up(sum(_blocks(layer, certificate), Fraction(0)), value, layer)


def step_pairs(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless prices on experts in steps prove ``value``, whichever experts share GPUs.

    In step t the fullest GPU carries at least what the one with expert e does: w_te and the loads of its k - 1
    companions. Weigh that by the price of e in t, and what is left of ``unit`` by the step's own bound. Give every pair
    that shares a GPU a discount, the ``degrees`` of both: all pairs together have k - 1 times their sum.
    """
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    assert layer.steps is not None
    unit, degrees = integer(certificate, "unit"), integers(certificate, "degrees")
    rows = certificate.get("prices")
    if not isinstance(rows, list) or len(rows) != len(layer.steps) or len(degrees) != layer.num_experts:
        raise Rejected("the certificate needs prices for every step and a degree for every expert")
    prices = [integers({"prices": row}, "prices") for row in rows]
    if any(len(row) != layer.num_experts or min(row) < 0 or sum(row) > unit for row in prices):
        raise Rejected("the prices of a step must be one >= 0 for every expert, and add up to 'unit' at most")
    if layer.num_experts**2 * len(rows) > MAX_PRODUCTS:
        raise Undecided(f"{len(rows)} steps of {layer.num_experts} experts take too long to check")
    own = _blocks(layer, certificate)
    if len(own) != len(rows) or unit < 1:
        raise Rejected("the certificate needs a unit and a bound for every step")
    total = (layer.slots_per_gpu - 1) * sum(degrees) + sum(
        (unit - sum(row)) * least + sum(price * load for price, load in zip(row, loads, strict=True))
        for row, loads, least in zip(prices, layer.steps, own, strict=True)
    )
    steps = list(zip(prices, layer.steps, strict=True))
    for e, f in combinations(range(layer.num_experts), 2):
        together = sum(row[e] * loads[f] + row[f] * loads[e] for row, loads in steps)
        total += min(0, together - degrees[e] - degrees[f])
    _add_up(Fraction(-(-total // unit)), value, layer)  # sums of whole loads are whole


def _blocks(layer: ExactLayer, certificate: dict[str, Any]) -> list[Fraction]:
    """Bounds of the certificate's blocks of steps, in the layer's units, each once it is proven."""
    blocks = certificate.get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise Rejected("the certificate's 'blocks' is not a list of blocks")
    assert layer.steps is not None
    begin = 0
    proven: list[Fraction] = []
    for block in blocks:
        length, proof = integer(block, "steps"), block.get("certificate")
        if not isinstance(proof, dict) or proof.get("method") not in tuple(ON_BLOCKS):
            raise Rejected("a block's certificate is not of a bound on the makespan")
        steps = layer.steps[begin : begin + length]
        if length < 1 or len(steps) < length:
            raise Rejected(f"the blocks are not those of {len(layer.steps)} steps")
        bound = exact(block.get("bound"), "a block's bound") * layer.scale
        loads = [sum(tokens) for tokens in zip(*steps, strict=True)]
        ON_BLOCKS[proof["method"]](replace(layer, loads=loads, steps=None), bound, proof)
        proven.append(bound)
        begin += length
    if begin < len(layer.steps):
        raise Rejected(f"the blocks are not those of {len(layer.steps)} steps")
    return proven


def _add_up(proven: Fraction, value: Fraction, layer: ExactLayer) -> None:
    if proven < value:
        raise Rejected(f"the steps prove {short(proven / layer.scale)} only")


# --------------------------------------------------------------------------------
# moeopt/verify/moves_cover.py
#
# Re-check the fewest moves of partitions by all contents of GPUs that lack little, and their covers, in integers.


moves_cover_MAX_EXPERTS, moves_cover_MAX_SLOTS, moves_cover_MAX_STEPS, MAX_CONTENTS = 1024, 64, 10_000_000, 300_000
"""Experts, slots per GPU, steps to list contents, contents listed; beyond nothing is decided."""

MAX_PRICE = 1 << 40
"""Price beyond which nothing is decided: all sums stay far below 2**60."""

STEPS = 512
"""Steps of the ceiling in the table that prunes the listing."""

NOTHING = -(1 << 61)
"""Worth of contents that there are not."""


def moves_cover(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless every placement within the ceiling has the certificate's ``moves`` or more.

    A GPU's content is worth the prices of its experts less ``unit`` for each arrival. No content within the ceiling
    is worth more than the certificate's ``worth`` of its GPU; so a placement with fewer moves lacks what these and
    the prices of all experts leave, exactly. All contents that lack no more are listed, and the search finds no
    choice of them, one for each GPU, that holds every expert once.
    """
    moves, unit = integer(certificate, "moves"), integer(certificate, "unit")
    prices, worth = integers(certificate, "prices"), integers(certificate, "worth")
    if layer.ceiling is None or layer.reference is None:
        raise Rejected("the problem has no reference or no ceiling")
    if moves < value:
        raise Rejected(f"the certificate speaks of {moves} moves only")
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    if unit < 1 or len(prices) != layer.num_experts or len(worth) != layer.num_gpus:
        raise Rejected("'unit' must be above 0, with a price for every expert and a worth for every GPU")
    if layer.num_experts > moves_cover_MAX_EXPERTS or layer.slots_per_gpu > moves_cover_MAX_SLOTS:
        raise Undecided("the contents of GPUs take too long to list")
    if max(map(abs, [unit, moves, *prices, *worth])) > MAX_PRICE:
        raise Undecided("prices are too large to check")
    lacking = (moves - 1) * unit - (sum(prices) - sum(worth))
    contents: Sets = []
    listing = _Listing(layer)
    for gpu, held in enumerate(layer.reference):
        values = [price if expert in held else price - unit for expert, price in enumerate(prices)]
        # where nothing may lack anything, it is still to be shown that no content is worth more
        for found, experts in listing.contents(values, worth[gpu] - max(lacking, -1)):
            if found > worth[gpu]:
                raise Rejected(f"a content of GPU {gpu} is worth {found}, more than the certificate says")
            items = [*experts, layer.num_experts + gpu]
            contents.append((worth[gpu] - found, sum(1 << item for item in items), items))
    contents.sort()
    covers = Covers(layer.num_experts + layer.num_gpus, layer.slots_per_gpu + 1)
    while lacking >= 0:
        if covers.exists([content for content in contents if content[0] <= lacking], lacking, layer.num_gpus):
            raise Rejected("a placement has fewer moves than the certificate says")
        lacking -= unit


class _Listing:
    """The contents of a GPU within the ceiling, by their worth."""

    def __init__(self, layer: ExactLayer) -> None:
        assert layer.ceiling is not None
        self.loads, self.slots = layer.loads, layer.slots_per_gpu
        self.most = layer.ceiling.numerator * layer.scale // layer.ceiling.denominator
        # sizes in steps of the ceiling are rounded down: contents that fit still do
        self.sizes = [min(load * STEPS // self.most, STEPS + 1) if self.most > 0 else 0 for load in layer.loads]
        self.steps = self.listed = 0

    def contents(self, values: list[int], least: int) -> list[tuple[int, list[int]]]:
        """Worth and experts of every content worth ``least`` or more."""
        rest, found = self._rest(values), []
        waiting: list[tuple[int, int, int, list[int]]] = [(0, 0, STEPS, [])]
        while waiting:
            worth, load, room, experts = waiting.pop()
            missing = self.slots - len(experts)
            if not missing:
                found.append((worth, experts))
                continue
            for expert in range(experts[-1] + 1 if experts else 0, len(values) - missing + 1):
                self.steps += 1
                if worth + rest[expert][missing][room] < least:
                    break
                left = room - self.sizes[expert]
                if left < 0 or load + self.loads[expert] > self.most:
                    continue
                if worth + values[expert] + rest[expert + 1][missing - 1][left] >= least:
                    waiting.append((worth + values[expert], load + self.loads[expert], left, [*experts, expert]))
            if self.steps > moves_cover_MAX_STEPS or self.listed + len(found) > MAX_CONTENTS:
                raise Undecided("the contents of GPUs take too long to list")
        self.listed += len(found)
        return found

    def _rest(self, values: list[int]) -> list[list[array[int]]]:
        """Most that 0, 1, .. slots of the experts from one on are worth within every number of steps."""
        none = array("q", [NOTHING]) * (STEPS + 1)
        rest = [[array("q", [0]) * (STEPS + 1)] + [none] * self.slots]
        for value, size in zip(reversed(values), reversed(self.sizes), strict=True):
            after = rest[-1]
            row = [after[0]]
            for n in range(1, self.slots + 1):
                fuller = [
                    a if a > b + value else b + value for a, b in zip(after[n][size:], after[n - 1], strict=False)
                ]
                row.append(after[n][:size] + array("q", fuller))
            rest.append(row)
        rest.reverse()
        return rest


# --------------------------------------------------------------------------------
# moeopt/verify/walks.py
#
# Re-check bounds for two slots per GPU from prices that no walk over the counts collects, in exact integers.


UNITS = 2**44
"""Parts of the threshold in which sizes are counted, rounded down."""

walks_MAX_WORK = 100_000_000
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
    rounds = iter(walks_rounds(certificate, layer.num_experts))
    waiting = [_columns(layer, threshold)]
    for node in walks_nodes(certificate):
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
        if self.work > walks_MAX_WORK:
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


def walks_rounds(certificate: dict[str, Any], num_experts: int) -> list[list[int]]:
    rounds = certificate.get("prices")
    if not isinstance(rounds, list):
        raise Rejected("the certificate's 'prices' is not a list")
    for prices in rounds:
        if not isinstance(prices, list) or len(prices) != num_experts:
            raise Rejected("a round of prices needs one for every expert")
        if any(isinstance(price, bool) or not isinstance(price, int) for price in prices):
            raise Rejected("prices are integers")
    return rounds


def walks_nodes(certificate: dict[str, Any]) -> list[list[int]]:
    nodes = certificate.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, list) and len(node) in (1, 3) for node in nodes):
        raise Rejected("the certificate's 'nodes' is not a list of nodes [rounds] and [rounds, expert, split]")
    if any(isinstance(entry, bool) or not isinstance(entry, int) for node in nodes for entry in node):
        raise Rejected("the nodes of a tree hold integers")
    return nodes


# --------------------------------------------------------------------------------
# moeopt/verify/check.py
#
# check: hold every claim about one layer against exact arithmetic, sharing no code with the methods.


CHECKS: dict[str, dict[str, Check]] = {
    "makespan": {
        **ON_MAKESPAN,
        "makespan_within_moves": makespan_within_moves,
        "pairing_lp": pairing_lp,
        "pairing_walks": pairing_walks,
        "pairing_tree": pairing_walks,
        "configuration_lp": configuration_lp,
        "configuration_tree": configuration_tree,
        "window_cover": window_cover,
    },
    "moves": {**ON_MOVES, "copy_prices": copy_prices, "moves_cover": moves_cover},
    "steps": {"step_blocks": step_blocks, "step_pairs": step_pairs},
}
"""Checks of bounds by the problem's objective and the certificate's ``method``."""

EVEN_SPLIT = ("pairing_lp", "pairing_walks", "pairing_tree", "configuration_lp", "configuration_tree", "pairing_cpsat")
"""Methods whose proofs have every copy carry an equal share."""

FLOAT_FIELDS = Fraction(1, 10**9)
"""Relative distance that a rounded number (makespan, ceiling, gap) may have from the exact one."""

ROUNDED_SUMS = Fraction(1, 2**40)
"""What a float sum that keeps the ceiling may hide at most, relative."""

FINEST_GAP = Fraction(1, 10**6)
"""The finest tolerance that the status OPTIMAL honours."""

PROVEN, CLAIMED, UNKNOWN, REJECTED = "proven", "solver's claim", "unknown", "rejected"
"""What is known of a bound: re-proven exactly; rests on a solver's search; nothing; proven wrong or unproven."""


@dataclass(frozen=True)
class LayerVerdict:
    """What the check of one layer found.

    ``layer`` is the trace's own id. ``placement_ok`` says whether the placement keeps every rule and
    its numbers are right, None where there is no placement; ``makespan`` is its exact value in tokens, and
    ``objective`` that of what the problem minimises, tokens or moves.
    ``bound`` is one of ``"proven"``, ``"solver's claim"``, ``"unknown"`` and ``"rejected"``.
    ``reason`` explains whatever is not proven and begins with ``REJECTED`` where a claim is false.
    """

    layer: int
    placement_ok: bool | None
    makespan: Fraction | None
    objective: Fraction | None
    bound: str
    status_ok: bool
    reason: str

    @property
    def ok(self) -> bool:
        """Whether nothing about this layer is rejected."""
        return self.placement_ok is not False and self.bound != REJECTED and self.status_ok


def check_layer(layer: ExactLayer, claim: Claim, number: int, tolerance: float) -> LayerVerdict:
    """Check all that is claimed about a layer; ``number`` is its id, ``tolerance`` what the status OPTIMAL means."""
    reasons: list[str] = []
    makespan: Fraction | None = None
    objective: Fraction | None = None
    placement_ok: bool | None = None
    status_ok, bound = True, UNKNOWN
    try:
        if claim.slots is not None:
            placement_ok = False
            gpus, makespan = _placed(layer, claim.slots)
            objective = _numbers(layer, gpus, makespan, claim)
            placement_ok = True
    except Rejected as reason:
        reasons.append(f"REJECTED: {reason}")
    try:
        bound, reason_for_bound = _bound(layer, claim, objective)
        reasons.append(reason_for_bound)
    except Undecided as reason:
        reasons.append(f"bound not checked: {reason}")
    except Rejected as reason:
        bound = REJECTED
        reasons.append(f"REJECTED: bound {short(claim.bound or 0)}: {reason}")
    try:
        _status(claim, objective, tolerance)
    except Rejected as reason:
        status_ok = False
        reasons.append(f"REJECTED: {reason}")
    reasons.sort(key=lambda text: not text.startswith("REJECTED"))
    tokens = None if makespan is None else makespan / layer.scale
    text = "; ".join(reason for reason in reasons if reason)
    return LayerVerdict(number, placement_ok, tokens, objective, bound, status_ok, text)


def _placed(layer: ExactLayer, slots: list[int]) -> tuple[list[dict[int, int]], Fraction]:
    """Copies by GPU and the exact makespan in the layer's units; every rule about places is checked."""
    if any(not -1 <= expert < layer.num_experts for expert in slots):
        raise Rejected("a slot names no expert of the problem")
    if -1 in slots and not layer.allow_empty_slots:
        raise Rejected(f"slot {slots.index(-1)} is empty")
    gpus = copies_by_gpu(slots, layer.num_gpus)
    copies = [0] * layer.num_experts
    for gpu, held in enumerate(gpus):
        for expert, count in held.items():
            copies[expert] += count
            if count > 1 and not layer.allow_colocated:
                raise Rejected(f"GPU {gpu} holds expert {expert} twice")
    if 0 in copies:
        raise Rejected(f"expert {copies.index(0)} has no slot")
    if layer.num_nodes > 1:
        _groups(layer, gpus)
    if layer.splits:
        return gpus, split_makespan(layer.loads, gpus)
    return gpus, _fullest(layer.loads, gpus)


def _fullest(loads: list[int], gpus: list[dict[int, int]]) -> Fraction:
    """Load of the fullest GPU, with equal shares for all copies of an expert."""
    copies = Counter(expert for held in gpus for expert in held for _ in range(held[expert]))
    unit = math.lcm(*copies.values())
    fullest = max(sum(count * loads[e] * (unit // copies[e]) for e, count in held.items()) for held in gpus)
    return Fraction(fullest, unit)


def _groups(layer: ExactLayer, gpus: list[dict[int, int]]) -> None:
    """Every group on one node, as many groups on every node."""
    size, per_node = layer.num_experts // layer.num_groups, layer.num_gpus // layer.num_nodes
    nodes: list[set[int]] = [set() for _ in range(layer.num_nodes)]
    for gpu, held in enumerate(gpus):
        nodes[gpu // per_node].update(expert // size for expert in held)
    for node, groups in enumerate(nodes):
        if len(groups) != layer.num_groups // layer.num_nodes:
            raise Rejected(f"node {node} hosts {len(groups)} groups, not {layer.num_groups // layer.num_nodes}")
    if len(set().union(*nodes)) != layer.num_groups:
        raise Rejected("a group is spread over several nodes")


def _numbers(layer: ExactLayer, gpus: list[dict[int, int]], makespan: Fraction, claim: Claim) -> Fraction:
    """Return the exact objective in tokens or moves, after checking it, its parts and their limits."""
    tokens = makespan / layer.scale
    _rounded("makespan", claim.makespan, tokens)
    objective = tokens
    if layer.steps is not None:
        objective = sum((_fullest(step, gpus) for step in layer.steps), Fraction(0)) / layer.scale
    if layer.reference is not None:
        moved = sum(
            max(count - old.get(expert, 0), 0)
            for held, old in zip(gpus, layer.reference, strict=True)
            for expert, count in held.items()
        )
        _rounded("moves", claim.moves, Fraction(moved))
        if layer.max_moves is not None and moved > layer.max_moves:
            raise Rejected(f"{moved} moves exceed max_moves={layer.max_moves}")
        if layer.ceiling is not None:
            objective = Fraction(moved)
    if layer.ceiling is not None and tokens > layer.ceiling * (1 + ROUNDED_SUMS):
        raise Rejected(f"makespan {short(tokens)} exceeds max_makespan={short(layer.ceiling)}")
    _rounded("objective", claim.objective, objective)
    return objective


def _rounded(name: str, stated: float | Fraction | None, true: Fraction) -> None:
    if stated is None:
        return
    value = exact(stated, f"the {name}")
    if abs(value - true) > FLOAT_FIELDS * true:
        raise Rejected(f"the {name} is {short(true)}, not {short(value)}")


def _bound(layer: ExactLayer, claim: Claim, objective: Fraction | None) -> tuple[str, str]:
    """What is known of the layer's bound, and why it is not more."""
    if claim.bound is None:
        return UNKNOWN, "no bound"
    value, certificate = exact(claim.bound, "it"), claim.certificate
    if objective is not None and value > objective * (1 + FLOAT_FIELDS):
        raise Rejected(f"the placement reaches {short(objective)}")
    if certificate is None:
        return CLAIMED, f"rests on the search of {claim.source or 'an unnamed method'}"
    if not isinstance(certificate, dict) or not isinstance(certificate.get("method"), str):
        raise Rejected("the certificate is not a dict that names its method")
    method = certificate["method"]
    if layer.splits and method in EVEN_SPLIT:
        raise Rejected(f"{method!r} proves nothing where tokens may go to any copy")
    if method in CHECKS[layer.objective]:
        units = 1 if layer.objective == "moves" else layer.scale
        CHECKS[layer.objective][method](layer, value * units, certificate)
    elif any(method in checks for checks in CHECKS.values()):
        raise Rejected(f"{method!r} proves nothing about {'the ' * (layer.objective == 'makespan')}{layer.objective}")
    elif method == claim.source and method in SEARCHES:
        return CLAIMED, f"rests on the search of {method}"
    else:
        raise Rejected(f"there is no check for certificates of {method!r}")
    return PROVEN, ""


SEARCHES = ("pairing_cpsat",)
"""Methods whose certificates say what was searched, but cannot prove that the search found nothing."""


def _status(claim: Claim, objective: Fraction | None, tolerance: float) -> None:
    """OPTIMAL and FEASIBLE need a placement, OPTIMAL one within the tolerance; INFEASIBLE must have none."""
    status, empty = claim.status, claim.slots is None
    if status in ("OPTIMAL", "FEASIBLE") and empty:
        raise Rejected(f"status {status} without a placement")
    if status == "INFEASIBLE" and not empty:
        raise Rejected("status INFEASIBLE with a placement")
    if status == "OPTIMAL" and objective is not None:
        margin = max(Fraction(tolerance), FINEST_GAP) + FLOAT_FIELDS
        if claim.bound is None:
            raise Rejected("status OPTIMAL without a bound")
        if objective > exact(claim.bound, "the bound") * (1 + margin):
            bound = short(claim.bound)
            raise Rejected(f"status OPTIMAL, but {short(objective)} is not within {tolerance:g} of the bound {bound}")


# --------------------------------------------------------------------------------
# moeopt/verify/document.py
#
# Read ``certificates.json``, check all that it says, and print it: with Python's standard library alone.


MOST_SLOTS = 1 << 20
"""Slots of a layer that are read."""


class Unreadable(Exception):
    """A file is not what it should be; the message says where."""


@dataclass(frozen=True)
class Entry:
    """One layer of one setting, and what the document says about it.

    Parameters
    ----------
    title
        The setting in words.
    loads_sha256
        Of the setting's loads, all layers together.
    number
        The trace's own id of the layer.
    layer
        Its loads and rules.
    bound
        The claim about every placement.
    placed
        Claims about placements by the methods' names; without slots where their file is not there.
    told
        What the document says instead of a makespan, by the names of methods that have none.
    """

    title: str
    loads_sha256: str
    number: int
    layer: ExactLayer
    bound: Claim
    placed: dict[str, Claim]
    told: dict[str, str]


def read_document(path: Path) -> list[Entry]:
    """Read every layer of every setting; placements from the files that the document names, beside it.

    Raises
    ------
    Unreadable
        If it is no such document, or its loads are not those whose hash it states.
    """
    document = _json(path)
    loads = _dict(document, "loads")
    return [
        entry
        for setting in _dicts(document, "settings")
        for entry in _entries(setting, loads.get(_text(setting, "loads_sha256")), path.parent)
    ]


def check_entry(entry: Entry) -> tuple[LayerVerdict, dict[str, LayerVerdict]]:
    """Return the verdicts on the bound, and on every placement that is there."""
    verdict = check_layer(entry.layer, entry.bound, entry.number, 0)
    placed = {
        name: check_layer(entry.layer, claim, entry.number, 0)
        for name, claim in entry.placed.items()
        if claim.slots is not None
    }
    return verdict, placed


def main(arguments: Sequence[str]) -> int:
    """Check documents and print what is found, layer by layer.

    Returns 0; 1 if anything is rejected; 2 if a file cannot be used.
    """
    if not arguments or arguments[0].startswith("-"):
        print("usage: verify.py certificates.json ...", file=sys.stderr)
        return 2
    rejected = placements = 0
    bounds: list[str] = []
    for argument in arguments:
        try:
            entries = read_document(Path(argument))
        except Unreadable as error:
            print(f"error: {_printable(argument)}: {_printable(error)}", file=sys.stderr)
            return 2
        title = ""
        for entry in entries:
            if entry.title != title:
                title = entry.title
                print(title)
            verdict, placed = check_entry(entry)
            print("\n".join(_lines(entry, verdict, placed)), flush=True)
            bounds.append(verdict.bound)
            placements += len(placed)
            rejected += sum(not found.ok for found in [verdict, *placed.values()])
            rejected += sum(told.startswith("REJECTED") for told in entry.told.values())
    kinds = ", ".join(f"{bounds.count(kind)} {kind}" for kind in dict.fromkeys(bounds))
    print(f"{placements} placements; bounds: {kinds or 'none'}; {rejected} rejected")
    return 1 if rejected else 0


def _lines(entry: Entry, verdict: LayerVerdict, placed: dict[str, LayerVerdict]) -> Iterator[str]:
    bound = entry.bound.bound
    value = "no bound" if bound is None else f"at least {short(Fraction(bound))}"
    how = f"proven by {entry.bound.certificate['method']}" if verdict.bound == PROVEN else verdict.reason
    yield f"  layer {entry.number}: {value}, {_printable(how)}"
    for name in entry.placed:
        found = placed.get(name)
        if found is None:
            line = "not checked: its file is not there"
        elif not found.ok or found.objective is None:
            line = found.reason
        else:
            line = f"valid, {short(found.objective)}{_above(found.objective, bound, verdict)}"
        yield f"    {_printable(name)}: {_printable(line)}"
    for name, told in entry.told.items():
        yield f"    {_printable(name)}: {_printable(told)}"


def _above(objective: Fraction, bound: float | Fraction | None, verdict: LayerVerdict) -> str:
    """How far an objective is above a bound that holds, or is said to."""
    if bound is None or bound <= 0 or verdict.bound not in (PROVEN, CLAIMED):
        return ""
    return f", at most {short(round(100 * (objective / Fraction(bound) - 1), 4))} % above the best possible"


def _entries(setting: dict[str, Any], rows: Any, folder: Path) -> Iterator[Entry]:
    digest, records = _text(setting, "loads_sha256"), _dicts(setting, "layers")
    if not isinstance(rows, list) or len(rows) != len(records):
        raise Unreadable(f"there are no loads of {len(records)} layers for loads_sha256={digest}")
    if _sha256(rows) != digest:
        raise Unreadable(f"the loads are not those of loads_sha256={digest}")
    told = [_texts(record, "placements") for record in records]
    files = {
        name: _csv(folder, file, sum(row.get(name, "none") != "none" for row in told))
        for name, file in _texts(setting, "files").items()
    }
    for record, loads, placements in zip(records, rows, told, strict=True):
        layer = _layer(setting, record, loads)
        bound = None if record.get("lower_bound") is None else _fraction(record, "lower_bound")
        source = _text(record, "bound_source")
        own = _dict(record, "slots")
        placed, instead = {}, {}
        for name, makespan in placements.items():
            rows_left = files.get(name)
            slots = own.get(name) if rows_left is None or makespan == "none" else next(rows_left)
            if not re.match(r"\d", makespan):
                instead[name] = makespan
                continue
            if slots is not None and not (_is_row(slots) and len(slots) == layer.num_slots):
                raise Unreadable(f"the slots of {name} are not {layer.num_slots} integers")
            placed[name] = Claim(slots, _fraction(placements, name), bound=bound, source=source)
        yield Entry(
            title=f"{_printable(_text(setting, 'trace'))}: {layer.num_slots} slots on {layer.num_gpus} GPUs"
            + (f", {layer.num_groups} groups on {layer.num_nodes} nodes" if layer.num_nodes > 1 else ""),
            loads_sha256=digest,
            number=_whole(record, "layer", 0),
            layer=layer,
            bound=Claim(bound=bound, source=source, certificate=record.get("certificate")),
            placed=placed,
            told=instead,
        )


def _layer(setting: dict[str, Any], record: dict[str, Any], loads: list[float]) -> ExactLayer:
    whole, scale = whole_loads(loads)
    gpus, slots = _whole(setting, "num_gpus", 1), _whole(setting, "num_slots", 1)
    nodes, groups = _whole(setting, "num_nodes", 1), _whole(setting, "num_groups", 1)
    if nodes == 1 or groups == 1:
        nodes = groups = 1
    if slots > MOST_SLOTS or slots < len(whole):
        raise Unreadable(f"num_slots={slots} is below {len(whole)} experts or above {MOST_SLOTS}")
    for name, value, divisor in (("num_slots", slots, gpus), ("num_gpus", gpus, nodes), ("num_groups", groups, nodes)):
        if value % divisor:
            raise Unreadable(f"{name}={value} is not a multiple of {divisor}")
    if len(whole) % groups:
        raise Unreadable(f"{len(whole)} experts are no {groups} groups")
    reference = record.get("reference")
    if reference is not None and not (
        _is_row(reference) and len(reference) % gpus == 0 and all(-1 <= expert < len(whole) for expert in reference)
    ):
        raise Unreadable(f"reference is not a list of experts for {gpus} GPUs")
    split = _text(setting, "split")
    if split not in ("even", "optimal"):
        raise Unreadable(f"split={split} is neither even nor optimal")
    steps = record.get("steps")
    if steps is not None and not (
        isinstance(steps, list)
        and all(_is_row(step) and len(step) == len(loads) and min(step) >= 0 for step in steps)
        and [sum(tokens) for tokens in zip(*steps, strict=True)] == loads
        and record.get("ceiling") is None
        and split == "even"
    ):
        raise Unreadable("steps are not whole loads that add up to the layer's, evenly split and without a ceiling")
    return ExactLayer(
        loads=whole,
        scale=scale,
        num_gpus=gpus,
        slots_per_gpu=slots // gpus,
        num_nodes=nodes,
        num_groups=groups,
        allow_colocated=_flag(setting, "allow_colocated"),
        allow_empty_slots=_flag(setting, "allow_empty_slots"),
        reference=None if reference is None else copies_by_gpu(reference, gpus),
        max_moves=None if setting.get("max_moves") is None else _whole(setting, "max_moves", 0),
        ceiling=None if record.get("ceiling") is None else _fraction(record, "ceiling"),
        splits=split == "optimal" and slots > len(whole),
        steps=steps,
    )


def _sha256(rows: list[Any]) -> str:
    """Hash of loads as little-endian 64-bit integers, or floats where any is one, row by row."""
    numbers = [number for row in rows if isinstance(row, list) for number in row]
    kinds, lengths = {type(number) for number in numbers}, {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(lengths) != 1 or not numbers or not kinds <= {int, float}:
        raise Unreadable("the loads are not rows of as many numbers")
    if not all(0 <= number < 2**63 for number in numbers):  # nan is not
        raise Unreadable("the loads are not finite and >= 0")
    kind = "d" if float in kinds else "q"
    return hashlib.sha256(struct.pack(f"<{len(numbers)}{kind}", *numbers)).hexdigest()


def _csv(folder: Path, name: str, count: int) -> Iterator[list[int]] | None:
    """Rows of a placement's file, one per layer that has a placement; None where the file is not there."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise Unreadable(f"the file {name} is not beside the document")
    if not (folder / path).is_file():
        return None
    lines = _bytes(folder / path).decode("ascii", "replace").split()
    if len(lines) != count or not all(re.fullmatch(r"-?\d{1,9}(,-?\d{1,9})*", line) for line in lines):
        raise Unreadable(f"the file {name} does not hold {count} rows of integers")
    return iter([[int(number) for number in line.split(",")] for line in lines])


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not readable JSON: {error}") from None
    if not isinstance(document, dict):
        raise Unreadable("not a JSON object")
    return document


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise Unreadable("not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {error}") from None


def _dict(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key, {})
    if not isinstance(value, dict):
        raise Unreadable(f"{key} is not an object")
    return value


def _dicts(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unreadable(f"{key} is not a list of objects")
    return value


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise Unreadable(f"{key} is not a text")
    return value


def _texts(record: dict[str, Any], key: str) -> dict[str, str]:
    value = _dict(record, key)
    return {name: _text(value, name) for name in value}


def _flag(record: dict[str, Any], key: str) -> bool:
    value = record.get(key)
    if not isinstance(value, bool):
        raise Unreadable(f"{key} is neither true nor false")
    return value


def _whole(record: dict[str, Any], key: str, least: int) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Unreadable(f"{key} is not an integer >= {least}")
    return value


def _fraction(record: dict[str, Any], key: str) -> Fraction:
    """Read ``"7"`` or ``"22/3"``; longer numbers than any float are refused."""
    found = re.fullmatch(r"(\d{1,700})(?:/(\d{1,700}))?", _text(record, key))
    if found is None or (found[2] and not int(found[2])):
        raise Unreadable(f"{key} is not a fraction such as 22/3")
    return Fraction(int(found[1]), int(found[2] or 1))


def _is_row(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _printable(text: object) -> str:
    """Return what came from outside without what a terminal would obey."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    return shown if len(shown) <= 300 else f"{shown[:150]}...{shown[-150:]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
