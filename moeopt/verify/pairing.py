"""Re-check bounds for two slots per GPU from weighted points, in exact integers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, exact, integers, number, short


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
    rounds = _rounds(certificate)
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


def _rounds(certificate: dict[str, Any]) -> list[dict[str, Any]]:
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
