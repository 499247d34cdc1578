"""Re-check bounds for partitions by searching all covers with sets within a window of loads, in exact integers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, number, short

MAX_EXPERTS, MAX_SETS, MAX_STEPS, MAX_WORK = 128, 300_000, 3_000_000, 20_000_000
"""Experts, sets of them within the window, steps to list these, sets seen in the search; beyond nothing is decided."""

Sets = list[tuple[int, int]]
"""Experts as a bit mask, and the slack up to the limit."""


def window_cover(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless no placement stays below the certificate's threshold.

    Suppose one does: no GPU is above ``limit``, the largest whole load below the threshold. The slacks
    limit - load of all GPUs add up to ``gpus * limit - total``, so none exceeds that. All sets of as many
    experts as a GPU has slots within that window are listed; the search finds no choice of them that
    holds every expert once.
    """
    threshold = number(certificate, "threshold") * layer.scale
    if threshold < value:
        raise Rejected(f"the certificate speaks of {short(threshold / layer.scale)} only")
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    if layer.num_experts > MAX_EXPERTS:
        raise Undecided(f"covers of {layer.num_experts} experts take too long to check")
    limit = (threshold.numerator - 1) // threshold.denominator
    budget = layer.num_gpus * limit - sum(layer.loads)
    if budget >= 0 and _Covers(layer.num_experts).exists(_sets(layer, limit, limit - budget), budget, layer.num_gpus):
        raise Rejected("a placement stays below the certificate's threshold")


def _sets(layer: ExactLayer, most: int, least: int) -> Sets:
    found = []
    for mask, load in _within(layer, most, least):
        found.append((mask, most - load))
        if len(found) > MAX_SETS:
            raise Undecided(f"more than {MAX_SETS} sets of {layer.slots_per_gpu} experts take too long to check")
    return sorted(found, key=lambda known: known[1])


def _within(layer: ExactLayer, most: int, least: int) -> Iterator[tuple[int, int]]:
    """Masks and loads of all sets of as many experts as a GPU has slots, with least <= load <= most."""
    loads = sorted(layer.loads, reverse=True)
    before, count = [0, *accumulate(loads)], len(loads)
    waiting, steps = [(0, layer.slots_per_gpu, 0, 0)], 0
    while waiting:
        first, missing, mask, load = waiting.pop()
        if not missing:
            yield mask, load
            continue
        for expert in range(first, count - missing + 1):
            steps += 1
            if load + before[expert + missing] - before[expert] < least:
                break
            if load + loads[expert] + before[count] - before[count - missing + 1] <= most:
                waiting.append((expert + 1, missing - 1, mask | 1 << expert, load + loads[expert]))
        if steps > MAX_STEPS:
            raise Undecided(f"the sets of {layer.slots_per_gpu} experts take too long to list")


class _Covers:
    """The search for sets that hold every expert once."""

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts
        self.failed: set[int] = set()
        self.work = 0

    def exists(self, sets: Sets, slack: int, missing: int, covered: int = 0) -> bool:
        """Whether ``missing`` of the sets, disjoint and of so much slack together, hold all experts not ``covered``.

        What is covered fixes the slack left, so that it fails for good. Some set holds the rarest expert.
        """
        if not missing:
            return True
        self.work += len(sets)
        if self.work > MAX_WORK:
            raise Undecided("the search for covers takes too long")
        often = dict.fromkeys((e for e in range(self.num_experts) if not covered >> e & 1), 0)
        for mask, _ in sets:
            while mask:
                lowest = mask & -mask
                often[lowest.bit_length() - 1] += 1
                mask ^= lowest
        rarest = min(often, key=lambda expert: often[expert])
        for mask, taken in sets:
            if mask >> rarest & 1 and covered | mask not in self.failed:
                self.work += len(sets)
                rest = [known for known in sets if not known[0] & mask and known[1] <= slack - taken]
                if len(rest) >= missing - 1 and self.exists(rest, slack - taken, missing - 1, covered | mask):
                    return True
        self.failed.add(covered)
        return False
