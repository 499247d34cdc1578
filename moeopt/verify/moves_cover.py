"""Re-check the fewest moves of partitions by all contents of GPUs that lack little, and their covers, in integers."""

from __future__ import annotations

from array import array
from fractions import Fraction
from typing import Any

from moeopt.verify.layer import ExactLayer, Rejected, Undecided, integer, integers
from moeopt.verify.window_cover import Covers, Sets

MAX_EXPERTS, MAX_SLOTS, MAX_STEPS, MAX_CONTENTS = 1024, 64, 10_000_000, 300_000
"""Experts, slots per GPU, steps to list contents, contents listed; beyond nothing is decided."""

MAX_PRICE = 1 << 40
"""Price beyond which nothing is decided: all sums stay far below 2**60."""

STEPS = 512
"""Steps of the ceiling in the table that prunes the listing."""

NOTHING = -(1 << 61)
"""Worth of contents that there are not."""


def moves_cover(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless every placement within the ceiling has the certificate's ``moves`` or more.

    A GPU's content is worth the prices of its experts less ``unit`` for each arrival. No content within the ceiling
    is worth more than the certificate's ``worth`` of its GPU; so a placement with fewer moves lacks what these and
    the prices of all experts leave, exactly. All contents that lack no more are listed, and the search finds no
    choice of them, one for each GPU, that holds every expert once.
    """
    moves, unit = integer(certificate, "moves"), integer(certificate, "unit")
    prices, worth = integers(certificate, "prices"), integers(certificate, "worth")
    if layer.ceiling is None or layer.reference is None:
        raise Rejected("the problem has no reference or no ceiling")
    if moves < value:
        raise Rejected(f"the certificate speaks of {moves} moves only")
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    if unit < 1 or len(prices) != layer.num_experts or len(worth) != layer.num_gpus:
        raise Rejected("'unit' must be above 0, with a price for every expert and a worth for every GPU")
    if layer.num_experts > MAX_EXPERTS or layer.slots_per_gpu > MAX_SLOTS:
        raise Undecided("the contents of GPUs take too long to list")
    if max(map(abs, [unit, moves, *prices, *worth])) > MAX_PRICE:
        raise Undecided("prices are too large to check")
    lacking = (moves - 1) * unit - (sum(prices) - sum(worth))
    contents: Sets = []
    listing = _Listing(layer)
    for gpu, held in enumerate(layer.reference):
        values = [price if expert in held else price - unit for expert, price in enumerate(prices)]
        # where nothing may lack anything, it is still to be shown that no content is worth more
        for found, experts in listing.contents(values, worth[gpu] - max(lacking, -1)):
            if found > worth[gpu]:
                raise Rejected(f"a content of GPU {gpu} is worth {found}, more than the certificate says")
            items = [*experts, layer.num_experts + gpu]
            contents.append((worth[gpu] - found, sum(1 << item for item in items), items))
    contents.sort()
    covers = Covers(layer.num_experts + layer.num_gpus, layer.slots_per_gpu + 1)
    while lacking >= 0:
        if covers.exists([content for content in contents if content[0] <= lacking], lacking, layer.num_gpus):
            raise Rejected("a placement has fewer moves than the certificate says")
        lacking -= unit


class _Listing:
    """The contents of a GPU within the ceiling, by their worth."""

    def __init__(self, layer: ExactLayer) -> None:
        assert layer.ceiling is not None
        self.loads, self.slots = layer.loads, layer.slots_per_gpu
        self.most = layer.ceiling.numerator * layer.scale // layer.ceiling.denominator
        # sizes in steps of the ceiling are rounded down: contents that fit still do
        self.sizes = [min(load * STEPS // self.most, STEPS + 1) if self.most > 0 else 0 for load in layer.loads]
        self.steps = self.listed = 0

    def contents(self, values: list[int], least: int) -> list[tuple[int, list[int]]]:
        """Worth and experts of every content worth ``least`` or more."""
        rest, found = self._rest(values), []
        waiting: list[tuple[int, int, int, list[int]]] = [(0, 0, STEPS, [])]
        while waiting:
            worth, load, room, experts = waiting.pop()
            missing = self.slots - len(experts)
            if not missing:
                found.append((worth, experts))
                continue
            for expert in range(experts[-1] + 1 if experts else 0, len(values) - missing + 1):
                self.steps += 1
                if worth + rest[expert][missing][room] < least:
                    break
                left = room - self.sizes[expert]
                if left < 0 or load + self.loads[expert] > self.most:
                    continue
                if worth + values[expert] + rest[expert + 1][missing - 1][left] >= least:
                    waiting.append((worth + values[expert], load + self.loads[expert], left, [*experts, expert]))
            if self.steps > MAX_STEPS or self.listed + len(found) > MAX_CONTENTS:
                raise Undecided("the contents of GPUs take too long to list")
        self.listed += len(found)
        return found

    def _rest(self, values: list[int]) -> list[list[array[int]]]:
        """Most that 0, 1, .. slots of the experts from one on are worth within every number of steps."""
        none = array("q", [NOTHING]) * (STEPS + 1)
        rest = [[array("q", [0]) * (STEPS + 1)] + [none] * self.slots]
        for value, size in zip(reversed(values), reversed(self.sizes), strict=True):
            after = rest[-1]
            row = [after[0]]
            for n in range(1, self.slots + 1):
                fuller = [
                    a if a > b + value else b + value for a, b in zip(after[n][size:], after[n - 1], strict=False)
                ]
                row.append(after[n][:size] + array("q", fuller))
            rest.append(row)
        rest.reverse()
        return rest
