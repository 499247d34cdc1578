"""The configuration LP in its dual form: one price per expert, one row per content of a GPU."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.configuration.pricing import lightest, most_valuable, undominated
from solvers.highs import load_highs, run

Floats = NDArray[np.float64]

_SCALE = 1 << 30
"""Integer price that a GPU collects on average; rounding prices costs less than 1e-8 of a bound."""

_MARGIN = 1e-12
"""Taken off a load computed in floats; its four divisions and additions err by less than 1e-15."""

_PRECISION = 2e-9
"""Relative excess of a price below which the linear program counts as solved."""

TOLERANCE = 2e-6
"""Relative distance of the thresholds, one refuted and one not, at which the bisection ends."""

_FIRST_STEP = 3e-5
"""Relative height of the first threshold above the mean load; most layers with replicas stay below it."""


@dataclass(frozen=True)
class ConfigurationBound:
    """What the configuration LP proves about one layer.

    ``value`` is the bound and ``certificate`` its witness; ``ceiling`` is the smallest threshold
    tried that the LP cannot refute (inf: none, because a target or the time limit came first).
    """

    value: float
    certificate: dict[str, Any]
    ceiling: float


@dataclass(frozen=True)
class Relaxation:
    """A fractional solution at a threshold: ``shares [experts, copies]`` of replica counts, ``prices [experts]``."""

    shares: Floats
    prices: Floats


@dataclass
class Dual:
    """The LP over prices, the contents found so far, the best bound, and the least threshold not refuted.

    ``ranges`` are the fewest and most copies of experts whose count is restricted.
    """

    loads: Floats
    num_gpus: int
    slots_per_gpu: int
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    bound: float = 0.0
    certificate: dict[str, Any] = field(default_factory=dict)
    ceiling: float = math.inf

    def __post_init__(self) -> None:
        experts = len(self.loads)
        most = self.num_gpus * self.slots_per_gpu - experts + 1
        copies = np.arange(1, most + 1)
        self.expert = np.repeat(np.arange(experts), most)
        self.copies = np.tile(copies, experts)
        self.size = self.loads[self.expert] / self.copies
        for expert, (fewest, most_here) in self.ranges.items():
            out = (self.expert == expert) & ((self.copies < fewest) | (self.copies > most_here))
            self.size[out] = np.inf  # no content holds it
        self.order = np.argsort(self.size, kind="stable")
        self.seen: set[tuple[int, ...]] = set()
        self.contents: list[tuple[int, ...]] = []
        self.kept = np.empty(len(self.size), dtype=np.int64)
        self.highspy = load_highs()
        self.model = self.highspy.Highs()
        self.model.setOptionValue("output_flag", False)
        self.model.setOptionValue("threads", 1)
        self._prove(self.loads)
        self._prove(
            (np.arange(experts) == np.argmax(self.loads)).astype(float)
        )  # no row holds an expert that never fits
        self._build()

    def _build(self) -> None:
        """One price per expert, rising with its load: a lighter expert fits wherever a heavier one does.

        Unless their counts are restricted: prices of such experts are free.
        """
        experts = len(self.loads)
        infinity = self.highspy.kHighsInf
        self.model.addVars(experts, np.zeros(experts), np.full(experts, infinity))
        self.model.changeColsCost(experts, np.arange(experts, dtype=np.int32), np.full(experts, -1.0))
        rising = [e for e in np.argsort(self.loads, kind="stable").astype(np.int32) if int(e) not in self.ranges]
        for lighter, heavier in itertools.pairwise(rising):
            self.model.addRow(0.0, infinity, 2, np.array([lighter, heavier]), np.array([-1.0, 1.0]))
        self.fixed_rows = max(len(rising) - 1, 0)
        most = len(self.size) // experts
        for expert, fewest in enumerate(np.ceil(self.loads / self.bound).clip(1, most).astype(int)):
            low, high = self.ranges.get(expert, (1, most))
            self._add((expert * most + min(max(int(fewest), low), high) - 1,))

    def within(self, expert: int, fewest: int, most: int) -> Dual:
        """The same LP where ``expert`` has ``fewest`` to ``most`` copies, from what is known here."""
        ranges = self.ranges | {expert: (fewest, most)}
        part = Dual(self.loads, self.num_gpus, self.slots_per_gpu, ranges, self.bound, self.certificate)
        for content in self.contents:
            if content not in part.seen and np.isfinite(part.size[list(content)]).all():
                part._add(content)
        return part

    def climb(self, target: float | None, time_limit: float | None) -> ConfigurationBound:
        """Try thresholds, first in growing steps above the bound, then by bisection."""
        deadline = math.inf if time_limit is None else time.perf_counter() + time_limit
        step = _FIRST_STEP
        goal = math.inf if target is None else target
        while self.bound * (1 + TOLERANCE) < min(self.ceiling, goal):
            threshold = min(self.bound * (1 + step), (self.bound + self.ceiling) / 2, goal)
            refuted = self._refute(threshold, deadline)
            if refuted is None:
                break
            if not refuted:
                self.ceiling = threshold
            step *= 4
        return ConfigurationBound(self.bound, self.certificate, self.ceiling)

    def _refute(self, threshold: float, deadline: float) -> bool | None:
        """Raise the bound to ``threshold``, or learn that no prices can; None = out of time."""
        self._forget(threshold)
        best = np.array(self.certificate["prices"], dtype=float)
        while self.bound < threshold:
            run(self.model, deadline)
            if time.perf_counter() > deadline:
                return None
            solution = self.model.getSolution()
            prices = np.maximum(np.array(solution.col_value), 0.0)
            if prices.sum() <= self.num_gpus * (1 + _PRECISION):
                return False
            middle = (prices / prices.sum() + best / best.sum()) / 2
            better = self._prove(middle)  # any prices bound, and the time may be over before the next ones
            if better:
                best = middle
            if self._separate(middle * prices.sum(), prices, threshold) or better:
                continue
            if not self._separate(prices, prices, threshold):
                # No content that fits is worth more than 1: these prices prove it, unless rounding decides.
                return self._prove(prices) and self.bound >= threshold
        return True

    def _front(self, price: NDArray[Any]) -> tuple[NDArray[np.int64], Floats, NDArray[Any]]:
        """Undominated items in rising size behind an empty slot: item, size, price."""
        count = undominated(self.order, self.size, price, self.kept)
        items = np.concatenate([[-1], self.kept[:count]])
        size, value = self.size[items], price[items]
        size[0] = value[0] = 0
        return items, size, value

    def _prove(self, prices: Floats) -> bool:
        """Evaluate the bound that ``prices`` give, in integers; whether it is the best so far."""
        integer = np.floor(prices * (_SCALE * self.num_gpus / prices.sum())).astype(np.int64)
        needed = -(-int(integer.sum()) // self.num_gpus)
        _, size, value = self._front(-(-integer[self.expert] // self.copies))
        threshold = float(lightest(size, value, needed, self.slots_per_gpu)) * (1 - _MARGIN)
        if not self.bound < threshold < np.inf:
            return False
        self.bound = threshold
        self.certificate = {
            "method": "configuration_lp",
            "prices": integer.tolist(),
            "needed": needed,
            "threshold": threshold,
        }
        return True

    def _separate(self, at: Floats, prices: Floats, threshold: float) -> int:
        """Add the contents within ``threshold`` most valuable ``at`` these prices that break the LP's; how many."""
        items, size, value = self._front(at[self.expert] / self.copies)
        members = np.zeros((len(items), self.slots_per_gpu), dtype=np.int64)
        worth = np.full(len(items), -1.0)
        most_valuable(size, value, threshold * (1 + 3 * _MARGIN), self.slots_per_gpu, members, worth)
        each = prices[self.expert] / self.copies
        added = 0
        for row in items[members[worth > 1 + _PRECISION]]:
            content = tuple(sorted(int(item) for item in row if item >= 0))
            if content not in self.seen and each[list(content)].sum() > 1 + _PRECISION:
                self._add(content)
                added += 1
        return added

    def _add(self, content: tuple[int, ...]) -> None:
        self.seen.add(content)
        row: dict[int, float] = {}
        for item in content:
            row[int(self.expert[item])] = row.get(int(self.expert[item]), 0.0) + 1 / self.copies[item]
        columns, weights = np.array(list(row), dtype=np.int32), np.array(list(row.values()))
        self.model.addRow(-self.highspy.kHighsInf, 1.0, len(row), columns, weights)
        self.contents.append(content)

    def _forget(self, threshold: float) -> None:
        """Drop the rows of contents that do not fit below a lowered threshold."""
        gone = [
            i
            for i, content in enumerate(self.contents)
            if self.size[list(content)].sum() > threshold * (1 + 4 * _MARGIN)
        ]
        if gone:
            rows = np.array(gone, dtype=np.int32) + self.fixed_rows
            self.model.deleteRows(len(gone), rows)
            self.seen.difference_update(self.contents[i] for i in gone)
            lost = set(gone)
            self.contents = [content for i, content in enumerate(self.contents) if i not in lost]

    def relax(self, threshold: float, deadline: float) -> Relaxation | None:
        """Solve the LP at a threshold it cannot refute; None = refuted, or out of time.

        The rows that make prices rise with loads are dropped first: their multipliers would let the
        replicas of a heavier expert stand for those of a lighter one. Climb first, for they speed it up.
        """
        if self._refute(threshold, deadline) is not False:
            return None
        if self.fixed_rows:
            self.model.deleteRows(self.fixed_rows, np.arange(self.fixed_rows, dtype=np.int32))
            self.fixed_rows = 0
        centre: Floats = np.array(self.model.getSolution().col_value)
        while True:
            run(self.model, deadline)
            if time.perf_counter() > deadline:
                return None
            solution = self.model.getSolution()
            prices = np.maximum(np.array(solution.col_value), 0.0)
            if not self._separate((centre + prices) / 2, prices, threshold) and not self._separate(
                prices, prices, threshold
            ):
                return Relaxation(self._shares(np.array(solution.row_dual)), prices)

    def _shares(self, row_dual: Floats) -> Floats:
        """Share of every replica count of every expert in the primal solution, ``[experts, copies]``."""
        shares: Floats = np.zeros(len(self.size))
        for content, weight in zip(self.contents, -row_dual, strict=True):
            for item in content:
                shares[item] += weight / self.copies[item]
        return np.maximum(shares.reshape(len(self.loads), -1), 0.0)
