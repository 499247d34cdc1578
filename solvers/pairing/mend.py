"""Counts that the relaxation favours, repaired by weighted local search until every row holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt._random import below, random_state, uniform
from moeopt._stop import Flag, never, raised
from solvers.pairing.model import Columns

_SAMPLES = 30
"""Changes compared before the best is made."""

_TENURE = 4
"""Least number of steps before a count that was given up may come back."""

_WEIGHT = 10
"""Weight of a row at first; a broken one's grows by 1 where no change helps."""


def repair(
    columns: Columns, start: NDArray[np.int64], steps: int, seed: int, stop: Flag | None = None
) -> NDArray[np.int64] | None:
    """Look for one count per expert with f(v) <= slots in every row; None if the steps run out or ``stop`` is raised.

    ``start[e]`` is the count to begin with; the next lower one (else the lowest) where ``columns``
    lacks it. Each step changes one expert's count so that a broken row, picked at random, has less
    excess and the weighted excess of all rows becomes least; where nothing lessens it, the broken
    rows gain weight (as in the breakout method of Morris, AAAI 1993). O(steps * rows).
    """
    rows = np.arange(len(columns.points) + 1)
    each = np.where(columns.large[:, None], 1 + (rows >= columns.row[:, None]), rows < columns.row[:, None])
    table = (each * columns.count[:, None]).astype(np.int32)
    stride = int(max(columns.count.max(), start.max())) + 1
    experts = np.arange(columns.num_experts)
    at = np.searchsorted(columns.expert * stride + columns.count, experts * stride + start, side="right") - 1
    chosen = np.maximum(at, columns.first)
    stop = never() if stop is None else stop
    held = _repair(table, columns.expert, chosen, np.int32(columns.num_slots), steps, seed, stop)
    return columns.count[chosen] if held else None


@kernel
def _repair(table, expert, chosen, slots, steps, seed, stop):  # type: ignore[no-untyped-def]
    """Change ``chosen`` until no row of the sum of its columns exceeds ``slots``; whether that was reached.

    In 32-bit integers, whose sums the compiler vectorises. Should a weighted sum overflow, a bad
    change is made, but what is returned still holds: the excesses themselves are exact.
    """
    columns, rows = table.shape
    excess = np.full(rows, -slots, dtype=np.int32)
    for column in chosen:
        excess += table[column]
    weight = np.full(rows, _WEIGHT, dtype=np.int32)
    barred = np.zeros(columns, dtype=np.int64)
    state = random_state(seed, 0)
    for step in range(steps):
        if raised(stop):
            break
        broken, picked, present = 0, 0, np.int32(0)
        for row in range(rows):
            if excess[row] > 0:
                present += np.int32(weight[row] * excess[row])
                broken += 1
                if uniform(state) * broken < 1.0:
                    picked = row
        if broken == 0:
            return True
        best, least, seen = -1, np.int32(2**31 - 1), 0
        for _ in range(60 * _SAMPLES):
            column = below(state, columns)
            old = chosen[expert[column]]
            if barred[column] > step or table[column, picked] >= table[old, picked]:
                continue
            total, new, gone = np.int32(0), table[column], table[old]
            for row in range(rows):
                total += np.int32(weight[row] * max(np.int32(excess[row] + new[row] - gone[row]), np.int32(0)))
            if total < least:
                best, least = column, total
            seen += 1
            if seen == _SAMPLES:
                break
        if least >= present:
            for row in range(rows):
                if excess[row] > 0:
                    weight[row] += np.int32(1)
        if best >= 0:
            old = chosen[expert[best]]
            excess += table[best] - table[old]
            chosen[expert[best]] = best
            barred[old] = step + _TENURE + below(state, _TENURE)
    return False
