"""Re-check bounds for two slots per GPU from weighted points and trees of branches, in exact integers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, exact, integers, number, short

MAX_WORK = 20_000_000
"""Costs of counts computed or compared, beyond which nothing is decided."""

Counts = list[list[int]]
"""``[experts]`` lists with an entry per count that is still possible."""


def pairing_lp(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the certificate's rounds refute every makespan of at most its threshold T.

    Suppose a placement with makespan <= T. Let a copy of size s cost, for a point p of weight x >= 0,
    x if s >= p and x again if s > T - p. Of two copies on a GPU, if one has s >= p, the other has at
    most T - p: together they cost at most 2x, a lone copy too. So all copies together cost at most
    slots * sum(x). Every expert picks a count among those still possible; the cheapest counts of
    all leave a slack. Slack below zero refutes T; a count that costs more than its expert's cheapest by more
    than the slack is possible no longer, in this and the following rounds.
    """
    if _left(layer, _threshold(layer, value, certificate), certificate) is not None:
        raise Rejected("the certificate's rounds leave replica counts that may reach it")


def pairing_tree(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless its rounds and a tree of branches refute every makespan of at most the certificate's threshold.

    Nodes come in preorder. ``[expert, split]`` stands for two branches: the expert has fewer copies than ``split``,
    whose tree follows, or at least as many, whose tree comes after that. ``[i]`` is a leaf: the points and weights of
    witness ``i`` cost more than their limit with the cheapest counts that this branch allows, of those that the
    rounds leave possible.
    """
    threshold = _threshold(layer, value, certificate)
    possible = _left(layer, threshold, certificate)
    if possible is None:
        return
    steps = _steps(certificate, "witnesses")
    _within_limits(len(steps) * sum(map(len, possible)))
    witnesses = [_Witness(layer, threshold, possible, step) for step in steps]
    waiting: list[dict[int, tuple[int, int]]] = [{}]  # fewest and most copies of the experts branched on
    work = 0
    for node in _nodes(certificate):
        if not waiting:
            raise Rejected("the tree has more nodes than branches")
        branch = waiting.pop()
        if len(node) == 2:
            expert, split = node
            if not 0 <= expert < layer.num_experts:
                raise Rejected(f"the tree branches on expert {expert}, the layer has {layer.num_experts}")
            fewest, most = branch.get(expert, (1, layer.most_copies))
            waiting.append(branch | {expert: (max(fewest, split), most)})
            waiting.append(branch | {expert: (fewest, min(most, split - 1))})
        elif not 0 <= node[0] < len(witnesses) or not witnesses[node[0]].refutes(branch):
            raise Rejected("a leaf of the tree leaves replica counts that may reach the threshold")
        work += sum(len(possible[expert]) for expert in branch)
        _within_limits(work)
    if waiting:
        raise Rejected("the tree leaves a branch open")


class _Witness:
    """Weighted points: what every possible count of every expert costs, and how much all may cost together."""

    def __init__(self, layer: ExactLayer, threshold: Fraction, possible: Counts, step: dict[str, Any]) -> None:
        self.possible = possible
        self.costs, self.limit = _step(layer, possible, threshold, step)
        self.cheapest = [min(of_expert) for of_expert in self.costs]
        self.total = sum(self.cheapest)

    def refutes(self, branch: dict[int, tuple[int, int]]) -> bool:
        """Whether the cheapest counts within the branch cost too much, or an expert has none."""
        total = self.total
        for expert, (fewest, most) in branch.items():
            counts = zip(self.possible[expert], self.costs[expert], strict=True)
            allowed = [cost for count, cost in counts if fewest <= count <= most]
            if not allowed:
                return True
            total += min(allowed) - self.cheapest[expert]
        return total > self.limit


def _threshold(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> Fraction:
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    if layer.slots_per_gpu != 2:
        raise Rejected(f"the certificate is for two slots per GPU, the problem has {layer.slots_per_gpu}")
    return threshold


def _left(layer: ExactLayer, threshold: Fraction, certificate: dict[str, Any]) -> Counts | None:
    """Counts of every expert that the rounds leave possible, or None where they refute the threshold."""
    rounds = _steps(certificate, "rounds")
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
    layer: ExactLayer, possible: Counts, threshold: Fraction, step: dict[str, Any]
) -> tuple[list[list[int]], int]:
    """What the possible counts cost with the points and weights of a step, and what all may cost together."""
    points, weights = _points(layer, step), integers(step, "weights")
    if len(points) != len(weights) or any(weight < 0 for weight in weights):
        raise Rejected("a round needs a weight >= 0 for every point")
    return _costs(layer.loads, possible, threshold, points, weights), layer.num_slots * sum(weights)


def _steps(certificate: dict[str, Any], key: str) -> list[dict[str, Any]]:
    steps = certificate.get(key)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise Rejected(f"the certificate's {key!r} is not a list of points and weights")
    return steps


def _nodes(certificate: dict[str, Any]) -> list[list[int]]:
    nodes = certificate.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, list) and len(node) in (1, 2) for node in nodes):
        raise Rejected("the certificate's 'nodes' is not a list of nodes [expert, split] and [witness]")
    if any(isinstance(entry, bool) or not isinstance(entry, int) for node in nodes for entry in node):
        raise Rejected("the nodes of a tree hold integers")
    return nodes


def _within_limits(work: int) -> None:
    if work > MAX_WORK:
        raise Undecided("the tree takes too long to check")


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
