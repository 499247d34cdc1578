"""Re-check bounds that speak of moves, in exact integers.

Every function takes a layer, the claimed bound ``value`` (moves, or a makespan in the layer's units) and the
certificate, and raises ``Rejected`` unless it has proven that no placement does with less. The ceiling is the
problem's own. Arrivals are copies that their GPU does not hold in the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected


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
    if needed is None or layer.num_nodes == 1 or _nodes(layer) is None:
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


def _nodes(layer: ExactLayer) -> list[set[int]] | None:
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
    nodes = _nodes(layer) if layer.num_nodes > 1 else None
    if nodes is None:
        raise Rejected("the reference does not keep groups on nodes")
    size = layer.num_experts // layer.num_groups
    return max(sum(sum(layer.loads[g * size : (g + 1) * size]) for g in groups) for groups in nodes)


def _regrouped(layer: ExactLayer) -> int:
    """Arrivals when a group leaves its node and another takes its place: every expert of both."""
    return 2 * (layer.num_experts // layer.num_groups)
