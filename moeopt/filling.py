"""Empty slots filled with copies: what an engine needs that knows no empty slots."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.errors import PlacementError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

_ROUNDS = 20
"""Times that every filled slot is thought over at most; two or three are the rule."""

_PAIRS = 4096
"""Pairs of choices looked at in a layer whose fullest GPU got fuller."""


def filled(problem: PlacementProblem, placement: Placement) -> Placement:
    """Fill the empty slots of ``placement``; see :meth:`moeopt.placement.Placement.fill`."""
    replace(problem, allow_empty_slots=True, max_moves=None, max_makespan=None).check(placement)
    by_gpu = placement.by_gpu.copy()
    for layer in np.flatnonzero((placement.phy2log < 0).any(axis=1)).tolist():
        attempts = []
        for order in (1, -1):
            attempt = _Layer(problem, by_gpu[layer].copy(), layer)
            before = attempt.makespan
            attempt.fill(order, before * (1 + metrics.FLOAT_SLACK))
            attempts.append(attempt)
            if attempt.makespan <= before * (1 + metrics.FLOAT_SLACK):
                break
        by_gpu[layer] = min(attempts, key=lambda attempt: attempt.makespan).held
    found = Placement(by_gpu.reshape(placement.phy2log.shape), placement.num_experts, placement.num_gpus)
    replace(problem, allow_empty_slots=False).check(found)
    return found


class _Layer:
    """One layer: ``held [gpus, slots_per_gpu]`` is filled in place."""

    def __init__(self, problem: PlacementProblem, held: NDArray[np.int64], layer: int) -> None:
        self.held, self.number = held, problem.load.layer_ids[layer]
        self.weight = problem.load.values[layer].astype(float)
        self.copies = Placement(held.ravel(), problem.num_experts, problem.num_gpus).copies[0].copy()
        self.count = self.copies.sum(axis=0)
        self.colocated = problem.allow_colocated
        self.allowed = np.ones(self.copies.shape, dtype=bool)
        if problem.hierarchical:
            nodes = self.copies.reshape(problem.num_nodes, -1, problem.num_experts).any(axis=1)
            self.allowed = np.repeat(nodes, problem.num_gpus // problem.num_nodes, axis=0)

    @property
    def load(self) -> NDArray[np.float64]:
        """``[gpus]`` loads as far as slots are filled."""
        return self.copies @ (self.weight / self.count)

    @property
    def makespan(self) -> float:
        """The largest of them."""
        return float(self.load.max())

    def fill(self, order: int, goal: float) -> None:
        """Choose for every empty slot, by rising or falling load of its GPU, then think each over again.

        Where the makespan is above ``goal`` then, pairs of slots are thought over.
        """
        gpus, slots = np.nonzero(self.held < 0)
        turns = np.argsort(order * self.load[gpus], kind="stable")
        empty = list(zip(gpus[turns].tolist(), slots[turns].tolist(), strict=True))
        for gpu, slot in empty:
            self._put(gpu, slot, self._best(gpu))
        for _ in range(_ROUNDS):
            before = self.held.copy()
            for gpu, slot in empty:
                old = int(self.held[gpu, slot])
                self._put(gpu, slot, old, -1)
                self._put(gpu, slot, self._best(gpu, old))
            if np.array_equal(before, self.held):
                break
        looked = 0
        while self.makespan > goal and looked < _PAIRS:
            improved, some = self._change_two(empty, _PAIRS - looked)
            looked += some
            if not improved:
                return

    def _change_two(self, empty: list[tuple[int, int]], most: int) -> tuple[bool, int]:
        """Choose again for a slot of the fullest GPU and another one, until that helps; and how much was looked at."""
        before, looked, fullest = self.makespan, 0, int(np.argmax(self.load))
        for mine, other in product([place for place in empty if place[0] == fullest], empty):
            if mine == other:
                continue
            old = int(self.held[mine]), int(self.held[other])
            self._put(*mine, old[0], -1)
            self._put(*other, old[1], -1)
            for expert in self._choices(other[0]).tolist():
                looked += 1
                self._put(*other, expert)
                chosen = self._best(mine[0])
                self._put(*mine, chosen)
                if self.makespan < before * (1 - metrics.FLOAT_SLACK):
                    return True, looked
                self._put(*mine, chosen, -1)
                self._put(*other, expert, -1)
            self._put(*mine, old[0])
            self._put(*other, old[1])
            if looked >= most:
                break
        return False, looked

    def _choices(self, gpu: int) -> NDArray[np.intp]:
        """Experts of which another copy may come to a GPU."""
        return np.flatnonzero(self.allowed[gpu] if self.colocated else self.allowed[gpu] & (self.copies[gpu] == 0))

    def _best(self, gpu: int, old: int = -1) -> int:
        """Return the expert of which another copy on ``gpu`` gives the least makespan, then the most even loads."""
        chosen = self._choices(gpu)
        if not chosen.size:
            raise PlacementError(
                f"layer {self.number}: GPU {gpu} holds every expert that it may hold, and a slot is left empty; "
                "copies of one expert on a GPU would need allow_colocated=True"
            )
        weight, count = self.weight[chosen], self.count[chosen]
        share = weight / (count + 1)
        load = self.load - self.copies[:, chosen].T * (weight / count - share)[:, None]  # [chosen, gpus]
        load[:, gpu] += share
        makespan = load.max(axis=1)
        least = makespan <= makespan.min() * (1 + metrics.FLOAT_SLACK)
        spread = np.where(least, (load**2).sum(axis=1), np.inf)
        even = spread <= spread.min() * (1 + metrics.FLOAT_SLACK)
        return old if old in chosen[even] else int(chosen[np.argmax(even)])

    def _put(self, gpu: int, slot: int, expert: int, copies: int = 1) -> None:
        self.held[gpu, slot] = expert if copies > 0 else -1
        self.copies[gpu, expert] += copies
        self.count[expert] += copies
