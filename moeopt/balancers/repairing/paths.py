"""What ``repair`` knows of every slot and GPU while it looks for swaps and cycles, and the searches' working memory."""

from typing import Any, NamedTuple

import numpy as np

from moeopt._kernel import kernel
from moeopt._sorting import rising_order


class Paths(NamedTuple):
    """What the searches for swaps and cycles need to know of every slot and GPU, and their working memory.

    ``order``: the slots by rising ``sizes``; ``ranked``: the same GPU by GPU. ``away``: 1 where a copy does not
    belong. ``strays``, ``lacks [gpus]``: whether a GPU has such copies, and misses copies of its own. ``room``:
    the size that fits into the slot's place; ``fits``: how many of ``order`` do, -1 = not counted yet.
    ``label [levels, slots]``: cost of the cheapest path on which the slot's copy leaves last; ``back``: the
    slot before it. ``low``, ``high [2, slots + 1]``: the two slots of least cost, on different GPUs, among the
    first of ``order`` and, counting size as cost, among the others.
    """

    order: Any
    rising: Any
    ranked: Any
    strays: Any
    lacks: Any
    gpu_of: Any
    sizes: Any
    away: Any
    room: Any
    fits: Any
    label: Any
    back: Any
    origin: Any
    push: Any
    low: Any
    high: Any


@kernel
def new_paths(row, levels):  # type: ignore[no-untyped-def]
    """Room for a survey and for cycles of up to ``levels`` + 1 GPUs."""
    slots, gpus = row.held.size, row.load.size
    rising = np.empty(slots)
    for slot in range(slots):
        rising[slot] = row.size[row.held[slot]]
    return Paths(
        rising_order(rising),
        rising,
        np.empty(slots, np.int64),
        np.empty(gpus, np.int64),
        np.empty(gpus, np.int64),
        np.arange(slots) // (slots // gpus),
        np.empty(slots),
        np.empty(slots),
        np.empty(slots),
        np.empty(slots, np.int64),
        np.empty((levels, slots)),
        np.empty((levels, slots), np.int64),
        np.empty((levels, slots), np.int64),
        np.empty(slots),
        np.empty((2, slots + 1), np.int64),
        np.empty((2, slots + 1), np.int64),
    )


@kernel
def survey(row, ceiling, paths):  # type: ignore[no-untyped-def]
    """Look at every slot again; quick where few sizes have changed since the last time."""
    held, size, load, here, home, owned = row.held, row.size, row.load, row.here, row.home, row.owned
    order, rising, ranked, strays, lacks = paths.order, paths.rising, paths.ranked, paths.strays, paths.lacks
    sizes, room, away = paths.sizes, paths.room, paths.away
    slots, gpus = held.size, load.size
    k = slots // gpus
    empty = size.size - 1
    paths.fits[:] = -1
    for gpu in range(gpus):
        left = ceiling - load[gpu]
        kept, strays[gpu] = 0.0, 0
        for slot in range(gpu * k, (gpu + 1) * k):
            expert = held[slot]
            own = size[expert]
            sizes[slot], room[slot], away[slot] = own, left + own, 0.0
            if expert < empty:
                n, n_home = here[gpu, expert], home[gpu, expert]
                if n > n_home:
                    away[slot], strays[gpu] = 1.0, 1
                    kept += n_home / n
                else:
                    kept += 1.0
        lacks[gpu] = int(owned[gpu] - kept > 0.5)
    for i in range(slots):
        slot = order[i]
        own = sizes[slot]
        j = i
        while j > 0 and rising[j - 1] > own:
            rising[j], order[j] = rising[j - 1], order[j - 1]
            j -= 1
        rising[j], order[j] = own, slot
    filled = np.zeros(gpus, np.int64)
    for i in range(slots):
        gpu = paths.gpu_of[order[i]]
        ranked[gpu * k + filled[gpu]] = order[i]
        filled[gpu] += 1
