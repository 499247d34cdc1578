"""Cells: few experts with counts whose copies fill some GPUs among themselves, with little room to spare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt._sorting import number_below

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MEMBERS = 5
"""Experts in a cell at most."""

_SPARE = (0.0, 0.0, 9.0, 5.0, 3.5, 3.0)
"""Room to spare in a cell of so many experts, in GPUs, times the experts of the layer: this lists about twenty
cells per expert, however many experts there are."""

_ROOM = 2**18
"""Cells, and unfinished ones of each length, that are kept at most."""

_FURTHER = 8
"""Copies of an expert listed beyond those that fill half a GPU each."""

_LARGE, _SMALL, _LEFT, _GPUS = range(2 * MEMBERS, 2 * MEMBERS + 4)


@dataclass(frozen=True, eq=False)
class Cells:
    """``expert [cells, MEMBERS]`` (-1 = none), the ``count`` of each of them, and the ``gpus [cells]`` they fill."""

    expert: Integers
    count: Integers
    gpus: Integers


def cells_at(load: Floats, threshold: float, spare: float, plenty: float = 1.0) -> Cells:
    """Cells within ``threshold`` and with at most ``spare`` room to spare; after them, every expert alone.

    In a cell the largest copies, of half a GPU or more, are paired with the smallest, so it is built pair by
    pair: as long as one expert has copies left, another joins the other side. ``plenty`` multiplies the room
    that is usual where ``spare`` is larger.
    """
    order = np.argsort(load, kind="stable")
    ordered = load[order]
    spares = np.minimum(plenty * np.array(_SPARE) * threshold / len(load), spare)
    fewest = np.maximum(np.ceil(load / threshold), 1).astype(np.int64)
    begun, lost = _begin(ordered, threshold)
    done = [_alone(np.argsort(order), fewest)]
    for length in range(1, MEMBERS):
        limits = spares[length + 1], spares[length + 2] if length + 2 <= MEMBERS else -1.0
        closed, begun, lost = _extend(ordered, threshold, length, begun, lost, *limits)
        done.append(closed)
    rows = np.concatenate(done[1:] + done[:1])
    expert = np.where(rows[:, :MEMBERS] < 0, -1, order[rows[:, :MEMBERS]])
    return Cells(expert, rows[:, MEMBERS : 2 * MEMBERS], rows[:, _GPUS])


def _alone(number: Integers, fewest: Integers) -> Integers:
    rows = np.zeros((len(number), 2 * MEMBERS + 4), dtype=np.int64)
    rows[:, :MEMBERS] = -1
    rows[:, 0], rows[:, MEMBERS], rows[:, _GPUS] = number, fewest, fewest
    return rows


@kernel
def _begin(load, threshold):  # type: ignore[no-untyped-def]
    """Every expert with every count whose copies fill half a GPU: the largest of a cell."""
    rows = np.full((int((2 * load / threshold).sum()) + load.size, 2 * MEMBERS + 4), -1)
    size = 0
    for expert in range(load.size):
        for copies in range(max(1, int(np.ceil(load[expert] / threshold))), int(2 * load[expert] / threshold) + 1):
            rows[size, 0], rows[size, MEMBERS] = expert, copies
            rows[size, _LARGE], rows[size, _LEFT], rows[size, _GPUS] = 0, copies, 0
            size += 1
    return rows[:size], np.zeros(size)


@kernel
def _extend(load, threshold, length, begun, lost, closing, going):  # type: ignore[no-untyped-def]
    """Join one more expert to cells of ``length``: what is closed then, what is not, and the room lost in it."""
    closed, further = np.empty((_ROOM, begun.shape[1]), np.int64), np.empty((_ROOM, begun.shape[1]), np.int64)
    lost_further = np.empty(_ROOM)
    num_closed = num_further = 0
    most = max(closing, going)
    for at in range(len(begun)):
        row = begun[at]
        left = row[_LEFT]
        holder = row[_LARGE] if left > 0 else row[_SMALL]
        room = threshold - load[row[holder]] / row[MEMBERS + holder]
        low, high = 0.0, room
        if left > 0 and row[_SMALL] >= 0:
            low = load[row[row[_SMALL]]] / row[MEMBERS + row[_SMALL]]
        elif left < 0:
            high = min(room, load[row[row[_LARGE]]] / row[MEMBERS + row[_LARGE]])
        for copies in range(1, int(2 * load[-1] / threshold) + _FURTHER + 1):
            pairs = min(copies, abs(left))
            least = max(low, room - (most - lost[at]) / pairs, (copies - _FURTHER) * threshold / (2 * copies))
            expert = number_below(load, copies * least)
            while expert < load.size and load[expert] <= copies * high:
                total = lost[at] + pairs * (room - load[expert] / copies)
                full = copies == abs(left)
                if total <= (closing if full else going) and not _holds(row, length, expert):
                    if full and num_closed < _ROOM:
                        _join(row, closed[num_closed], length, expert, copies, pairs)
                        num_closed += 1
                    elif not full and num_further < _ROOM:
                        lost_further[num_further] = total
                        _join(row, further[num_further], length, expert, copies, pairs)
                        num_further += 1
                expert += 1
    return closed[:num_closed], further[:num_further], lost_further[:num_further]


@kernel
def _holds(row, length, expert):  # type: ignore[no-untyped-def]
    """Whether the expert is a member already."""
    at = 0
    while at < length and row[at] != expert:
        at += 1
    return at < length


@kernel
def _join(cell, row, length, expert, copies, pairs):  # type: ignore[no-untyped-def]
    """Write a cell and its new expert to a row; it joins the side that has no copies left."""
    for i in range(row.size):
        row[i] = cell[i]
    row[length], row[MEMBERS + length] = expert, copies
    row[_GPUS] += pairs
    if row[_LEFT] > 0:
        row[_SMALL] = length
        row[_LEFT] -= copies
    else:
        row[_LARGE] = length
        row[_LEFT] += copies
