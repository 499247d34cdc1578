"""Branch and bound on the counts, whose tree is a proof: every leaf is refuted by one of few weightings of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from solvers.drive import Limits
from solvers.pairing.model import Columns, Integers, replica_cost, witness
from solvers.pairing.relaxation import Fractional, Relaxation

_NODES = 1000
"""Nodes looked at with the weights known, before a linear program chooses how to branch."""

_MOST_NODES = 20_000
"""Nodes looked at in all, repeatedly or not, after which the tree is given up."""

_PROGRAMS = 100
"""Linear programs, of half a millisecond or so each, likewise."""

_BOTH = 0.25
"""What a branch that is nearer to its refutation counts beside the other, which must be refuted as well."""

Tree = list[list[int]]
"""Preorder: ``[expert, split]``, then the trees of its counts below and from the split, or ``[witness]``."""


@dataclass(frozen=True)
class Grown:
    """A complete ``tree`` with the ``witnesses`` its leaves name, or ``counts`` that keep every row, or neither."""

    counts: Integers | None = None
    tree: Tree | None = None
    witnesses: tuple[dict[str, Any], ...] = ()


def grow(columns: Columns, limits: Limits) -> Grown:
    """Refute every choice among ``columns`` in a tree of branches on one expert's count, or find a choice that fits.

    Weights of the rows from one linear program bound in every branch. So the tree is searched in
    compiled code with the weights known; where it arrives at a choice of all counts that they do not refute, linear
    programs look, by bisection, for the first branch above it that can be refuted, and give new weights.
    """
    return _Growth(columns, limits).run()


class _GivenUp(Exception):
    """The tree has become too large, or time is over."""


class _Found(Exception):
    """A choice of columns fits."""


class _Growth:
    """The weights known so far and what columns cost with each; ``low`` and ``high`` are the columns per expert."""

    def __init__(self, columns: Columns, limits: Limits) -> None:
        self.columns, self.limits = columns, limits
        self.relaxation = Relaxation(columns)
        self.seen = 0
        self.weights: list[Integers] = []
        self.cost = np.empty((_PROGRAMS, len(columns.expert)), dtype=np.int64)
        self.limit = np.empty(_PROGRAMS, dtype=np.int64)

    def run(self) -> Grown:
        first, columns = self.columns.first, self.columns
        try:
            tree = self._close(first, np.append(first[1:], len(columns.expert)) - 1)
        except _GivenUp:
            return Grown()
        except _Found as found:
            return Grown(counts=columns.count[found.args[0]])
        used = sorted({node[0] for node in tree if len(node) == 1})
        number = {k: i for i, k in enumerate(used)}
        witnesses = tuple(witness(columns, self.weights[k]) for k in used)
        return Grown(tree=[node if len(node) == 2 else [number[node[0]]] for node in tree], witnesses=witnesses)

    def _close(self, low: NDArray[np.intp], high: NDArray[np.intp]) -> Tree:
        """Tree of the choices from ``low`` to ``high``."""
        here = self._relax(low, high)
        while True:
            nodes = np.empty((_NODES, 2), dtype=np.int64)
            path = np.empty((len(self.columns.expert), 5), dtype=np.int64)
            known = len(self.weights)
            size, depth, closed = _explore(self.cost[:known], self.limit[:known], low, high, nodes, path)
            self.seen += size
            if closed:
                return self._named(nodes[:size])
            if self.seen > _MOST_NODES:
                raise _GivenUp
            if size == _NODES:
                break
            self._learn(low, high, path[:depth])
        expert, split = self._widest(here, low, high)
        below, above = high.copy(), low.copy()
        below[expert], above[expert] = split - 1, split
        return [[expert, int(self.columns.count[split])], *self._close(low, below), *self._close(above, high)]

    def _named(self, nodes: Integers) -> Tree:
        counts = self.columns.count
        return [[k] if expert < 0 else [expert, int(counts[k])] for expert, k in nodes.tolist()]

    def _learn(self, low: NDArray[np.intp], high: NDArray[np.intp], path: Integers) -> None:
        """Find weights that refute as early a branch of the ``path`` as possible; its end is a choice of all counts."""
        free, refuted = 0, len(path)
        while refuted - free > 1:
            middle = (free + refuted) // 2
            free, refuted = (free, middle) if self._refuted(low, high, path[:middle]) else (middle, refuted)
        if refuted == len(path) and not self._refuted(low, high, path):
            raise _Found(_along(low, high, path)[0])

    def _refuted(self, low: NDArray[np.intp], high: NDArray[np.intp], path: Integers) -> bool:
        low, high = _along(low, high, path)
        self._relax(low, high)
        known = len(self.weights)
        return bool(_values(self.cost[known - 1 : known], self.limit[known - 1 : known], low, high)[0] > 0)

    def _relax(self, low: NDArray[np.intp], high: NDArray[np.intp]) -> Fractional:
        """Solve the relaxation of a branch, and keep the weights."""
        known = len(self.weights)
        if known == _PROGRAMS or self.limits.late:
            raise _GivenUp
        columns = self.columns
        every = np.arange(len(columns.expert))
        self.relaxation.allow((every >= low[columns.expert]) & (every <= high[columns.expert]))
        found = self.relaxation.solve(self.limits.deadline)
        self.weights.append(found.weights)
        self.cost[known] = columns.count * replica_cost(columns, found.weights)
        self.limit[known] = columns.num_slots * int(found.weights.sum())
        return found

    def _widest(self, here: Fractional, low: NDArray[np.intp], high: NDArray[np.intp]) -> tuple[int, int]:
        """The expert whose count varies most in the relaxation, and its first column above the mean."""
        columns, count = self.columns, self.columns.count
        mean = np.add.reduceat(here.share * count, columns.first)
        variance = np.add.reduceat(here.share * count**2, columns.first) - mean**2
        expert = int(np.argmax(np.where(high > low, variance, -np.inf)))
        above = np.searchsorted(count[low[expert] : high[expert] + 1], mean[expert], side="right")
        return expert, int(min(low[expert] + max(above, 1), high[expert]))


def _along(low: NDArray[np.intp], high: NDArray[np.intp], path: Integers) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns left at the end of a path."""
    low, high = low.copy(), high.copy()
    for expert, split, first, last, side in path.tolist():
        low[expert], high[expert] = (first, split - 1) if side == 0 else (split, last)
    return low, high


@kernel
def _explore(cost, limit, first, last, nodes, path):  # type: ignore[no-untyped-def]
    """Depth first with the weights known: nodes, depth of the ``path`` where it stopped, whether all is refuted.

    A node is (expert, split) or (-1, weights); ``path`` rows are expert, split, first, last, side.
    """
    low, high = first.copy(), last.copy()
    value = np.empty((len(path) + 1, len(limit)), np.int64)
    value[0] = _values(cost, limit, low, high)
    size = depth = 0
    while True:
        if size == len(nodes):
            return size, depth, False
        refuting = np.argmax(value[depth])
        if value[depth, refuting] <= 0:
            expert, split = _choose(cost, limit, low, high, value[depth])
            if expert < 0:
                return size, depth, False
            nodes[size] = expert, split
            path[depth] = expert, split, low[expert], high[expert], 0
        else:
            nodes[size] = -1, refuting
            while depth > 0 and path[depth - 1, 4] == 1:
                depth -= 1
                low[path[depth, 0]], high[path[depth, 0]] = path[depth, 2], path[depth, 3]
            if depth == 0:
                return size + 1, 0, True
            depth -= 1
            path[depth, 4] = 1
        size += 1
        expert, split = path[depth, 0], path[depth, 1]
        low[expert], high[expert] = path[depth, 2], path[depth, 3]
        for k in range(len(limit)):
            below, above = _cheapest(cost[k], low[expert], split), _cheapest(cost[k], split, high[expert] + 1)
            value[depth + 1, k] = value[depth, k] + (below if path[depth, 4] == 0 else above) - min(below, above)
        if path[depth, 4] == 0:
            high[expert] = split - 1
        else:
            low[expert] = split
        depth += 1


@kernel
def _values(cost, limit, low, high):  # type: ignore[no-untyped-def]
    """``[weights]`` cost of the cheapest columns of all experts, less the limit."""
    value = -limit
    for k in range(len(limit)):
        for expert in range(len(low)):
            value[k] += _cheapest(cost[k], low[expert], high[expert] + 1)
    return value


@kernel
def _cheapest(cost, start, stop):  # type: ignore[no-untyped-def]
    """Least cost among some columns."""
    least = cost[start]
    for column in range(start + 1, stop):
        least = min(least, cost[column])
    return least


@kernel
def _choose(cost, limit, low, high, value):  # type: ignore[no-untyped-def]
    """Expert and column where both branches come nearest to refutation by some weights, one refuted above all."""
    best, chosen, at = -np.inf, -1, -1
    for expert in range(len(low)):
        for split in range(low[expert] + 1, high[expert] + 1):
            under, over = -np.inf, -np.inf
            for k in range(len(limit)):
                below, above = _cheapest(cost[k], low[expert], split), _cheapest(cost[k], split, high[expert] + 1)
                least = min(below, above)
                under = max(under, (value[k] + below - least) / max(limit[k], 1))
                over = max(over, (value[k] + above - least) / max(limit[k], 1))
            score = min(under, over) + (_BOTH * max(under, over) if max(under, over) <= 0.0 else 1e6)
            if score > best:
                best, chosen, at = score, expert, split
    return chosen, at
