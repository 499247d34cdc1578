"""The choice of replica counts at a threshold, as columns and rows; exact integer arithmetic.

For two slots per GPU and given counts, a makespan of at most T is reached exactly if no size exceeds
T and for every v in (T/2, T] the replicas of size >= v find as many partners of size <= T - v:

    f(v) = #{size >= v} + #{size > T - v} <= slots,        and f(2T) = #{all} <= slots.

It suffices to ask this at the sizes ``v`` above T/2 that occur. Choosing a count for every expert
(one column each), every f(v) is linear in the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_COLUMNS = 20_000_000
"""Experts times copies that fit in memory before most of them are found superfluous."""

MARGIN = 1e-9
"""Sizes are compared in float64; the threshold searched exceeds the one claimed by this, relatively."""

_RESOLUTION = 1e-7
"""Relative precision of the largest threshold that given weights refute."""

_TINY = 1e-12
"""Relative to the threshold; more than all roundings of a size or a difference of sizes."""


@dataclass(frozen=True, eq=False)
class Columns:
    """One column per (expert, count) still possible, sorted by expert, then count.

    ``row[i]`` is, for a size above T/2, the row of its own breakpoint (1..K, falling sizes), and
    for a smaller one the first breakpoint v with size <= T - v (K+1 if it fits beside none).
    """

    expert: Integers
    count: Integers
    size: Floats
    large: NDArray[np.bool_]
    row: Integers
    points: Floats
    threshold: float
    num_slots: int

    @property
    def num_experts(self) -> int:
        """Experts of the layer."""
        return int(self.expert[-1]) + 1

    @property
    def first(self) -> NDArray[np.intp]:
        """First column of every expert."""
        return np.flatnonzero(np.diff(self.expert, prepend=-1))


def columns_at(load: Floats, threshold: float, num_slots: int, cap: int) -> Columns | None:
    """All undominated columns with size at most ``threshold`` and at most ``cap`` copies.

    None if some expert has no column: the threshold is infeasible. ``cap`` must be proven (every
    other expert needs a slot).
    """
    expert = np.repeat(np.arange(len(load)), cap)
    count = np.tile(np.arange(1, cap + 1), len(load))
    size = load[expert] / count
    fits = size <= threshold
    if not fits.reshape(len(load), cap)[:, -1].all():
        return None
    return _arrange(expert[fits], count[fits], size[fits], threshold, num_slots)


def restrict(columns: Columns, keep: NDArray[np.bool_]) -> Columns:
    """Only the columns to keep; breakpoints that no column has any more are merged."""
    kept = columns.expert[keep], columns.count[keep], columns.size[keep]
    return _arrange(*kept, columns.threshold, columns.num_slots)


def _arrange(expert: Integers, count: Integers, size: Floats, threshold: float, num_slots: int) -> Columns:
    """Rows of the columns, and dominance: small copies that fit beside the same sizes should be few.

    Replacing c copies by fewer that fit beside the same breakpoints lowers some f and raises none.
    """
    large = size > threshold / 2
    points = np.unique(size[large])[::-1]
    row = np.empty(len(size), dtype=np.int64)
    row[large] = np.searchsorted(-points, -size[large]) + 1
    row[~large] = np.searchsorted(threshold - points, size[~large], side="left") + 1
    keep = np.ones(len(size), dtype=bool)
    keep[1:] = (np.diff(expert) != 0) | large[1:] | large[:-1] | (np.diff(row) != 0)
    return Columns(
        expert=expert[keep],
        count=count[keep],
        size=size[keep],
        large=large[keep],
        row=row[keep],
        points=points,
        threshold=threshold,
        num_slots=num_slots,
    )


def replica_cost(columns: Columns, weights: Integers) -> Integers:
    """What one copy of each column adds to the weighted sum of the rows."""
    below = np.concatenate([[0], np.cumsum(weights)])  # below[k] = weights of rows 0..k-1
    return np.where(columns.large, 2 * below[-1] - below[np.minimum(columns.row, len(weights))], below[columns.row])


def witness(columns: Columns, weights: Integers) -> dict[str, list[Any]]:
    """The weights and where they sit, as plain numbers; moved by half the margin, so that exact
    comparisons at the claimed threshold find at least what the floating-point ones found.
    """
    points = np.append(2 * columns.threshold, columns.points - columns.threshold * MARGIN / 2)
    used = np.flatnonzero(weights)
    return {"points": [float(points[i]) for i in used], "weights": [int(weights[i]) for i in used]}


def largest_refuted(
    load: Floats, num_slots: int, cap: int, weighted: dict[str, list[Any]], low: float, high: float
) -> float:
    """Largest threshold from ``low`` to ``high`` that one ``witness`` refutes, by bisection; ``low`` if none.

    Weights are valid whatever the threshold, and what the cheapest counts cost only falls as it
    rises: more counts are allowed, and fewer sizes exceed T - v. O(experts * cap) a step.
    """
    order = np.argsort(weighted["points"])
    points, weights = np.array(weighted["points"])[order], np.array(weighted["weights"], dtype=np.int64)[order]
    limit = num_slots * int(weights.sum())

    def refuted(threshold: float) -> bool:
        return bool(_refuted(load, cap, threshold, points, weights, limit))

    if refuted(high):
        return high
    finest = _RESOLUTION * high
    if not refuted(low + finest):
        return low
    while high - low > finest:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


@kernel
def _refuted(load, cap, threshold, points, weights, limit):  # type: ignore[no-untyped-def]
    """Whether the cheapest counts within ``threshold`` cost more than ``limit``; points rise; roundings cost less."""
    tiny = threshold * _TINY
    every = always = total = 0
    for i in range(points.size):
        every += weights[i]
        if points[i] > threshold + tiny:
            always += weights[i]
    for expert in range(load.size):
        first = max(int(np.ceil(load[expert] / (threshold + tiny))), 1)
        if first > cap:
            return True
        reached, exceeded, above, passed = every, every, points.size, 0
        least = (every + 1) * 2 * cap  # more than any count costs
        for count in range(first, cap + 1):  # sizes fall, so each pointer goes one way
            size = load[expert] / count
            while above > 0 and points[above - 1] > size - tiny:
                above -= 1
                reached -= weights[above]
            while passed < points.size and points[passed] <= threshold - size + tiny:
                exceeded -= weights[passed]
                passed += 1
            least = min(least, count * (reached + exceeded))
            if count * always >= least:  # so any more copies cost, too
                break
        total += least
        if total > limit:
            return True
    return False
