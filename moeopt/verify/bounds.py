"""Re-check combinatorial bounds from their certificates, in exact integers.

Every function takes a layer, the claimed bound ``value`` (in the layer's units, an exact fraction)
and the certificate, and raises ``Rejected`` unless it has proven that no placement stays below
``value``. All assume a placement that does and look for a contradiction.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, integer, integers

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
