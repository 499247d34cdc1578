"""Covers of ``search`` on one row: with few slots per GPU, contents within a narrow window of loads are listed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moeopt._stop import Flag
from moeopt.covers import CoverSearch, Effort, whole_loads

MAX_ITEMS = 128
"""Slots of a layer that the bit masks of covers hold."""

_GAP = 2e-5
"""Least distance of two thresholds."""

_PARTITION = Effort(most_sets=40_000, remembered=1 << 14, work=3_000_000)
_COPIES = Effort(most_sets=40_000, remembered=1 << 14, work=500_000)
"""Ten milliseconds at most, one or two as a rule; less where other counts may be better anyway."""


def cover_rows(
    slots: NDArray[np.int64],
    weight: NDArray[np.float64],
    target: NDArray[np.float64],
    makespan: NDArray[np.float64],
    stop: Flag,
) -> None:
    """Cover every row of ``slots [rows, gpus, k]`` above its target by contents of GPUs; never leaves one worse.

    The target of a partition rises to what is proven to be the least that can be reached.
    """
    partition = slots[0].size == weight.shape[1]
    for row in np.flatnonzero(makespan > target):
        items = slots[row].ravel()
        copies = np.bincount(items, minlength=weight.shape[1] + 1)[:-1]
        load = np.append(weight[row] / copies, 0.0)[items]
        order = np.argsort(-load, kind="stable")
        whole, digits = whole_loads(load)
        whole = whole[order]
        least = int(whole[0] + whole[1 - slots.shape[2] :].sum())
        bound = max(int(math.ldexp(float(target[row]), digits) / (1 + _GAP)), least)
        reached = int(math.ldexp(float(makespan[row]), digits))
        search = CoverSearch(whole, slots.shape[1], bound, reached, _GAP, _PARTITION if partition else _COPIES)
        search.run(stop)
        if search.cover is not None:
            after = float(load[order][search.cover].sum(axis=1).max())
            if after < makespan[row]:
                slots[row], makespan[row] = items[order[search.cover]], after
        if partition and search.makespan <= search.bound * (1 + _GAP):
            target[row] = makespan[row]
