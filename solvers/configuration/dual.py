"""The configuration LP in its dual form: one price per expert, one row per content of a GPU."""

from __future__ import annotations

import copy
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

FRACTIONAL = 0.98
"""Share of an expert on one count from which it counts as settled."""

TOLERANCE = 2e-6
"""Relative distance of the thresholds, one refuted and one not, at which the bisection ends."""

_FIRST_STEP = 3e-5
"""Relative height of the first threshold above the mean load; most layers with replicas stay below it."""

_DUAL, _PRIMAL = 1, 4
"""HiGHS's simplex methods: the first after contents were closed, the second after some were added."""


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


def _model() -> Any:
    model = load_highs().Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("threads", 1)
    return model


@dataclass
class Dual:
    """The LP over prices, the contents found so far, the best bound, and the least threshold not refuted.

    ``ranges`` are the fewest and most copies of experts whose count is restricted. HiGHS is given its dual, a row
    for each expert and a column for each content; those that do not fit are closed, so that the basis stays.
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
        self.most = self.num_gpus * self.slots_per_gpu - experts + 1
        self.expert = np.repeat(np.arange(experts), self.most)
        self.copies = np.tile(np.arange(1, self.most + 1), experts)
        self.kept = np.empty(len(self.expert), dtype=np.int64)
        self.seen: set[tuple[int, ...]] = set()
        self.contents = np.empty((0, self.slots_per_gpu), dtype=np.int64)
        self.is_open = np.empty(0, dtype=np.bool_)
        self.closed = False
        self.restrict(self.ranges)
        self._prove(self.loads)
        self._prove(
            (np.arange(experts) == np.argmax(self.loads)).astype(float)
        )  # no content holds an expert that never fits
        self._build()

    def _build(self) -> None:
        """One price per expert, rising with its load: a lighter expert fits wherever a heavier one does.

        No price is above the number of GPUs, so that there are prices whatever contents are open.
        """
        experts = len(self.loads)
        self.model = _model()
        for _ in range(experts):
            self.model.addRow(1.0, math.inf, 0, np.empty(0, dtype=np.int32), np.empty(0))
        rising = np.argsort(self.loads, kind="stable").tolist()
        pairs = [{lighter: 1.0, heavier: -1.0} for lighter, heavier in itertools.pairwise(rising)]
        self.rising = len(pairs)
        self._columns(0.0, pairs)
        self._columns(float(self.num_gpus), [{expert: 1.0} for expert in range(experts)])
        self.fixed = self.rising + experts
        least = np.ceil(self.loads / self.bound).clip(1, self.most).astype(int)
        self._add([(expert * self.most + count - 1,) for expert, count in enumerate(least.tolist())])

    def restrict(self, ranges: dict[int, tuple[int, int]]) -> None:
        """Let experts have no other counts than those in ``ranges``, from the fewest to the most copies."""
        self.ranges = ranges
        self.size = self.loads[self.expert] / self.copies
        for expert, (fewest, most) in ranges.items():
            out = (self.expert == expert) & ((self.copies < fewest) | (self.copies > most))
            self.size[out] = np.inf  # no content holds it
        self.order = np.argsort(self.size, kind="stable")

    def within(self, expert: int, fewest: int, most: int) -> Dual:
        """The same LP where ``expert`` has ``fewest`` to ``most`` copies, from what is known here after ``relax``."""
        part = copy.copy(self)
        part.ceiling, part.seen, part.model = math.inf, set(self.seen), _model()
        part.model.passModel(self.model.getLp())
        part.model.setBasis(self.model.getBasis())
        part.restrict(self.ranges | {expert: (fewest, most)})
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
        self._open_within(threshold)
        best = np.array(self.certificate["prices"], dtype=float)
        while self.bound < threshold:
            prices = self._solve(deadline)
            if prices is None:
                return None
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

    def _solve(self, deadline: float) -> Floats | None:
        """Best prices for the contents that are open, ``[experts]``; None = out of time."""
        self.model.setOptionValue("simplex_strategy", _DUAL if self.closed else _PRIMAL)
        self.closed = False
        run(self.model, deadline)
        if time.perf_counter() > deadline:
            return None
        prices: Floats = np.maximum(np.array(self.model.getSolution().row_dual), 0.0)
        return prices

    @property
    def prices(self) -> Floats:
        """Those of the best bound, ``[experts]``, the number of GPUs in all."""
        prices = np.array(self.certificate["prices"], dtype=float)
        return prices * (self.num_gpus / prices.sum())

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
        each = np.append(prices[self.expert] / self.copies, 0.0)  # the last one is an empty slot
        rows = items[members[worth > 1 + _PRECISION]]
        rows = rows[each[rows].sum(axis=1) > 1 + _PRECISION]
        contents = {tuple(sorted(item for item in row if item >= 0)) for row in rows.tolist()} - self.seen
        self._add(sorted(contents))
        return len(contents)

    def _add(self, contents: list[tuple[int, ...]]) -> None:
        """Add contents, which fit, as columns."""
        columns: list[dict[int, float]] = []
        rows = np.full((len(contents), self.slots_per_gpu), -1, dtype=np.int64)
        for content, row in zip(contents, rows, strict=True):
            row[: len(content)] = content
            columns.append({})
            for item in content:
                expert, copies = divmod(item, self.most)
                columns[-1][expert] = columns[-1].get(expert, 0.0) + 1 / (copies + 1)
        self.seen.update(contents)
        self.contents = np.concatenate([self.contents, rows])
        self.is_open = np.append(self.is_open, np.ones(len(contents), dtype=np.bool_))
        self._columns(1.0, columns)

    def _columns(self, cost: float, columns: list[dict[int, float]]) -> None:
        count, sizes = len(columns), [len(column) for column in columns]
        rows = np.array([row for column in columns for row in column], dtype=np.int32)
        weights = np.array([weight for column in columns for weight in column.values()], dtype=float)
        starts = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
        costs, most = np.full(count, cost), np.full(count, math.inf)
        self.model.addCols(count, costs, np.zeros(count), most, len(rows), starts, rows, weights)

    def _open_within(self, threshold: float) -> None:
        """Open the contents that fit below a threshold, and close the others."""
        size = np.append(self.size, 0.0)[self.contents].sum(axis=1)
        fits = size <= threshold * (1 + 4 * _MARGIN)
        changed = np.flatnonzero(fits != self.is_open).astype(np.int32)
        upper = np.where(fits[changed], math.inf, 0.0)
        self.model.changeColsBounds(len(changed), changed + self.fixed, np.zeros(len(changed)), upper)
        self.closed = not fits[changed].all()
        self.is_open = fits

    def relax(self, threshold: float, deadline: float) -> Relaxation | None:
        """Solve the LP at a threshold it cannot refute; None = refuted, or out of time.

        The columns that make prices rise with loads are closed first: they would let the replicas of a
        heavier expert stand for those of a lighter one. Climb first, for they speed it up.
        """
        if self._refute(threshold, deadline) is not False:
            return None
        nothing = np.zeros(self.rising)
        self.model.changeColsBounds(self.rising, np.arange(self.rising, dtype=np.int32), nothing, nothing)
        centre: Floats = np.array(self.model.getSolution().row_dual)
        while (prices := self._solve(deadline)) is not None:
            if not self._separate((centre + prices) / 2, prices, threshold) and not self._separate(
                prices, prices, threshold
            ):
                return Relaxation(self._shares(), prices)
        return None

    def _shares(self) -> Floats:
        """Share of every replica count of every expert in the primal solution, ``[experts, copies]``."""
        used = np.array(self.model.getSolution().col_value)[self.fixed :]
        held = self.contents >= 0
        items, weights = self.contents[held], np.broadcast_to(used[:, None], held.shape)[held]
        shares = np.bincount(items, weights / self.copies[items], len(self.expert))
        return np.maximum(shares.reshape(len(self.loads), -1), 0.0).astype(np.float64)
