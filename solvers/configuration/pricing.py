"""Kernels of the configuration LP: the best GPU content under a load, or the lightest above a price."""

from __future__ import annotations

import numpy as np

from moeopt._kernel import kernel


@kernel
def undominated(order, size, price, kept):  # type: ignore[no-untyped-def]
    """Keep, of the items in rising ``size`` (``order``), those worth more than every lighter one; return how many."""
    count = 0
    best = price[order[0]] * 0
    for item in order:
        if price[item] > best:
            if count and size[kept[count - 1]] == size[item]:
                count -= 1
            kept[count] = item
            count += 1
            best = price[item]
    return count


@kernel
def most_valuable(size, price, capacity, slots, members, value):  # type: ignore[no-untyped-def]
    """For each item of a front, the most valuable content of ``slots`` items within ``capacity`` whose largest it is.

    ``size`` and ``price`` rise together from an item (0, 0), which stands for an empty slot.
    ``members[item, 0..slots-1]`` receives the content, ``value[item]`` its price; -1 where the item
    does not fit, or where a larger one fits as often as there are slots and is more valuable.
    """
    value[:] = -1.0
    for anchor in range(size.size - 1, 0, -1):
        rest = capacity - size[anchor]
        if rest < 0:
            continue
        for first in range(1 if slots < 4 else anchor + 1):
            room = rest - size[first]
            if room < 0:
                break
            high = anchor
            for low in range(first, 1 if slots == 2 else anchor + 1):
                while size[high] + size[low] > room:
                    high -= 1
                    if high < low:
                        break
                if high < low:
                    break
                total = price[anchor] + price[first] + price[low] + price[high]
                if total > value[anchor]:
                    value[anchor] = total
                    members[anchor, 0], members[anchor, 1] = anchor, high
                    if slots > 2:
                        members[anchor, 2] = low
                    if slots > 3:
                        members[anchor, 3] = first
        if slots * size[anchor] <= capacity:
            break


@kernel
def lightest(size, price, needed, slots):  # type: ignore[no-untyped-def]
    """Least size of at most ``slots`` items of a front whose integer prices reach ``needed``; inf if none do."""
    best = np.inf
    for anchor in range(1, size.size):
        if size[anchor] >= best:
            break
        if price[anchor] * slots < needed:  # the largest item of a content is its most valuable
            continue
        for first in range(1 if slots < 4 else anchor + 1):
            base = size[anchor] + size[first]
            missing = needed - price[anchor] - price[first]
            if base >= best:
                break
            high = anchor
            for low in range(first, 1 if slots == 2 else anchor + 1):
                if base + size[low] >= best:
                    break
                if price[anchor] + price[low] < missing:
                    continue
                while high > 0 and price[high - 1] + price[low] >= missing:
                    high -= 1
                best = min(best, base + size[low] + size[high])
                if high <= low:
                    break
    return best
