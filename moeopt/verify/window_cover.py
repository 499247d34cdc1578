"""Re-check bounds for partitions by searching all covers with sets within a window of loads, in exact integers."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, number, short

MAX_EXPERTS, MAX_SETS, MAX_STEPS, MAX_WORK = 128, 300_000, 3_000_000, 20_000_000
"""Experts, sets of them within the window, steps to list these, sets seen in the search; beyond nothing is decided."""

Sets = list[tuple[int, int, list[int]]]
"""Slack of a set up to the limit, its experts as a bit mask, and as a list."""


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
    if budget >= 0:
        sets = _sets(sorted(layer.loads), layer.slots_per_gpu, limit, limit - budget)
        if Covers(layer.num_experts, layer.slots_per_gpu).exists(sets, budget, layer.num_gpus):
            raise Rejected("a placement stays below the certificate's threshold")


def _sets(loads: list[int], size: int, most: int, least: int) -> Sets:
    """Sets of ``size`` experts with least <= load <= most, the fullest first; ``loads`` rise."""
    before, count = [0, *accumulate(loads)], len(loads)
    found: Sets = []
    waiting: list[tuple[int, list[int]]] = [(0, [])]
    steps = 0
    while waiting:
        load, experts = waiting.pop()
        missing = size - len(experts)
        if not missing:
            found.append((most - load, sum(1 << expert for expert in experts), experts))
            continue
        for expert in range(experts[-1] + 1 if experts else 0, count - missing + 1):
            steps += 1
            if load + before[expert + missing] - before[expert] > most:
                break
            if load + loads[expert] + before[count] - before[count - missing + 1] >= least:
                waiting.append((load + loads[expert], [*experts, expert]))
        if steps > MAX_STEPS or len(found) > MAX_SETS:
            raise Undecided(f"the sets of {size} experts below the threshold take too long to list")
    return sorted(found)


class Covers:
    """The search for sets that hold every expert once."""

    def __init__(self, num_experts: int, size: int) -> None:
        self.num_experts, self.size = num_experts, size
        self.failed: set[int] = set()
        self.work = 0

    def exists(self, sets: Sets, slack: int, missing: int, covered: int = 0) -> bool:
        """Whether ``missing`` of the sets, disjoint and of so much slack together, hold all experts not ``covered``.

        What is covered fixes the slack left, so that it fails for good. Some set holds the rarest expert.
        """
        if not missing:
            return True
        often, sets = self._possible(sets, slack, covered)
        rarest = min(often, key=lambda expert: often[expert], default=None)
        for known in sets if rarest is not None else []:
            taken, mask, experts = known
            if rarest in experts and covered | mask not in self.failed:
                self.work += len(sets)
                rest = [other for other in sets if not other[1] & mask and other[0] <= slack - taken]
                if self.exists(rest, slack - taken, missing - 1, covered | mask):
                    return True
        self.failed.add(covered)
        return False

    def _possible(self, sets: Sets, slack: int, covered: int) -> tuple[dict[int, int], Sets]:
        """In how many sets every expert is that is not ``covered``, and the sets that a cover may have; or nothing.

        Give every expert an even share of its set's slack: the shares add up to ``slack``. So the least shares of
        all experts, and those of one set with the least of all others, add up to no more, the greatest to no less.
        """
        self.work += len(sets)
        if self.work > MAX_WORK:
            raise Undecided("the search for covers takes too long")
        often: dict[int, int] = {}
        least: dict[int, int] = {}
        most: dict[int, int] = {}
        for taken, _, experts in sets:
            for expert in experts:
                often[expert] = often.get(expert, 0) + 1
                least.setdefault(expert, taken)
                most[expert] = taken
        lowest, highest, whole = sum(least.values()), sum(most.values()), self.size * slack
        if len(often) + covered.bit_count() < self.num_experts or not lowest <= whole <= highest:
            return {}, []
        return often, [
            (taken, mask, experts)
            for taken, mask, experts in sets
            if lowest + self.size * taken - sum(least[expert] for expert in experts) <= whole
            and highest + self.size * taken - sum(most[expert] for expert in experts) >= whole
        ]
