"""Re-check pairing bounds in integers, sharing no code with the method that found them.

The argument: let every pair on a GPU weigh at most T. For any number v, count a copy of size s once
if s >= v and once if s > T - v. A GPU's two copies (or one, or none) count at most 2: if one has
size >= v, the other has size <= T - v. So with weights x(v) >= 0, all copies together count at most
slots * sum_v x(v). If even the cheapest counts of all experts exceed that, no placement reaches T;
and a count that exceeds it beside the cheapest of all others is in none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any


def refutes(load: Sequence[float], num_slots: int, max_replicas: int, certificate: dict[str, Any]) -> bool:
    """Whether ``certificate`` proves that no placement has a makespan of its threshold or less.

    Parameters
    ----------
    load
        ``[experts]`` loads of one layer; GPUs have two slots each, of which any may stay empty.
    num_slots, max_replicas
        Slots on all GPUs, and the most copies of one expert (``problem.max_replicas``).
    certificate
        As returned in ``Solution.certificate``: ``threshold`` and ``rounds`` of ``points`` and
        ``weights``. One of the method ``pairing_cpsat`` proves nothing here by itself:
        ``possible_counts`` says what its solver had to search.
    """
    return possible_counts(load, num_slots, max_replicas, certificate) is None


def possible_counts(
    load: Sequence[float], num_slots: int, max_replicas: int, certificate: dict[str, Any]
) -> list[list[int]] | None:
    """Counts of every expert that the certificate's rounds leave possible; None if no choice is left."""
    threshold = Fraction(certificate["threshold"])
    loads = [Fraction(value) for value in load]
    choices = [[c for c in range(1, max_replicas + 1) if w <= c * threshold] for w in loads]
    if not all(choices):
        return None
    for weighted in certificate["rounds"]:
        weights = [int(weight) for weight in weighted["weights"]]
        points = [Fraction(point) for point in weighted["points"]]
        if len(weights) != len(points) or any(weight < 0 for weight in weights):
            return choices  # not a certificate
        slack, costs = _costs(loads, choices, threshold, points, weights, num_slots)
        if slack < 0:
            return None
        choices = [
            [c for c, cost in zip(counts, cost_of, strict=True) if cost - min(cost_of) <= slack]
            for counts, cost_of in zip(choices, costs, strict=True)
        ]
    return choices


def _costs(
    loads: list[Fraction],
    choices: list[list[int]],
    threshold: Fraction,
    points: list[Fraction],
    weights: list[int],
    num_slots: int,
) -> tuple[int, list[list[int]]]:
    """What every count costs, and what the cheapest ones leave of ``slots * sum of weights``."""
    scale = lcm(*(value.denominator for value in (threshold, *points, *loads)))
    order = sorted(range(len(points)), key=points.__getitem__)
    scaled = [int(points[i] * scale) for i in order]
    below = [0, *accumulate(weights[i] for i in order)]
    limit = int(threshold * scale)
    costs = []
    for load, counts in zip(loads, choices, strict=True):
        total = int(load * scale)
        reached = [below[bisect_right(scaled, total // c)] for c in counts]
        excluded = [below[bisect_right(scaled, (limit * c - total) // c)] for c in counts]
        costs.append([c * (a + below[-1] - b) for c, a, b in zip(counts, reached, excluded, strict=True)])
    return num_slots * below[-1] - sum(map(min, costs)), costs
