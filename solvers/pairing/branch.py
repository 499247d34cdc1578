"""Branch and bound on the counts, whose tree is a proof: prices strike out columns in every node, and all in a leaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._stop import stoppable
from solvers.drive import Limits
from solvers.pairing.model import Floats, Integers
from solvers.pairing.walks import SLOT, Walks

STEPS = 400
"""Steps of the ascent at the root, where prices come from elsewhere."""

FURTHER = 80
"""Steps in a branch, which begins with the prices of the node above."""

_STALLED = 0.9
"""Share of the columns left by prices above which no better ones are sought."""

_DOUBT = 0.02
"""Added to how far an expert's mean count is from a whole number: the mean is not sure either."""

_HOPE = 1e-4
"""Slots added to what a branch gains, so that one in which nothing is gained yet does not rule an expert out."""

Reaches = Callable[[Integers], bool]
"""Whether counts reach the threshold; they are kept by the one who asks."""


@dataclass(frozen=True, eq=False)
class Left:
    """What rounds of prices leave possible, the last prices (in slots), and what walks take of every expert.

    Choices lack at least ``lacking`` slots, more than 0 where the threshold is refuted.
    """

    walks: Walks
    prices: Floats
    mean: Floats
    rounds: tuple[Integers, ...] = ()
    lacking: float = -np.inf

    @property
    def nothing(self) -> bool:
        """Whether some expert has no column left: the threshold is refuted."""
        return not self.walks.options.all()

    @property
    def nearest(self) -> Integers:
        """``[experts]`` counts left that are nearest to the mean."""
        expert, count = self.walks.expert, self.walks.count
        order = np.lexsort((np.abs(count - self.mean[expert]), expert))
        return count[order][np.diff(expert[order], prepend=-1) != 0]

    def only(self, kept: NDArray[np.bool_]) -> Left:
        """A branch in which some of the columns are left, and no rounds yet."""
        return Left(self.walks.only(kept), self.prices, self.mean)

    def strike(self, prices: Integers) -> Left:
        """One round: what these prices leave possible as well."""
        possible, lacking = self.walks.weigh(prices)
        return Left(self.walks.only(possible), prices / SLOT, self.mean, (*self.rounds, prices), lacking)


def squeeze(left: Left, steps: int, limits: Limits) -> Left:
    """Rounds of the best prices for what is left, until they refute the threshold or strike out little."""
    while not left.nothing and not limits.late:
        mean, before = left.mean.copy(), len(left.walks.at)
        prices = stoppable(partial(left.walks.ascend, left.prices, mean, steps), limits.deadline)
        left = replace(left.strike(prices), mean=mean)
        if len(left.walks.at) > _STALLED * before:
            break
    return left


@dataclass
class _Node:
    """Rounds of prices; then a leaf, or the parts where ``expert`` has fewer copies than ``split``, and at least."""

    rounds: tuple[Integers, ...] = ()
    expert: int = -1
    split: int = 0
    parts: tuple[_Node, ...] = ()


@dataclass
class _Branch:
    """A node to look at: what is left before its rounds, and the slots lacking above; ``side`` 1 has more copies."""

    node: _Node
    left: Left
    above: _Node
    side: int
    lacking: float


class Tree:
    """Branches on one expert's count, each with rounds of prices of its own."""

    def __init__(self, left: Left, limits: Limits) -> None:
        self.limits = limits
        self.root = _Node(left.rounds)
        self.waiting = [_Branch(self.root, left, self.root, 0, left.lacking)]
        self.gained, self.times = np.zeros((2, len(left.mean))), np.zeros((2, len(left.mean)))

    def grow(self, reaches: Reaches, effort: float) -> bool:
        """Branch until all is refuted or counts reach the threshold; False where ``effort`` or time ends before.

        ``effort`` is in columns weighed, by one step of the ascent for prices. The next branch is the one that
        the walks favour, so that the way down ends at counts that may well reach the threshold.
        """
        while self.waiting:
            branch = self.waiting.pop()
            node, left = branch.node, branch.left
            if node is not self.root:
                if effort < 0 or self.limits.late:
                    return False
                effort -= len(left.walks.at) * FURTHER
                left = squeeze(left, FURTHER, self.limits)
                node.rounds = left.rounds
                self.gained[branch.side, branch.above.expert] += max(min(left.lacking, 0.0) - branch.lacking, 0.0)
                self.times[branch.side, branch.above.expert] += 1
            if left.nothing:
                continue
            if reaches(left.nearest):
                return True
            expert = self._widest(left)
            if expert < 0:
                return False
            self._split(node, left, expert)
        return True

    def _widest(self, left: Left) -> int:
        """The expert to branch on, -1 if none has a choice: fractional, and both branches gained much in the past.

        The product of what they gain, with means for what is not known, as in Achterberg, Koch and Martin,
        "Branching rules revisited" (2005), doi 10.1016/j.orl.2004.04.002.
        """
        usual = self.gained.sum(axis=1, keepdims=True) / np.maximum(self.times.sum(axis=1, keepdims=True), 1)
        below, above = (self.gained + usual) / (self.times + 1) + _HOPE
        fractional = np.abs(left.mean - np.rint(left.mean)) + _DOUBT
        score = np.where(left.walks.options > 1, np.sqrt(below * above) * fractional, 0.0)
        expert = int(np.argmax(score))
        return expert if score[expert] > 0 else -1

    def _split(self, node: _Node, left: Left, expert: int) -> None:
        mean, of_expert = left.mean[expert], left.walks.expert == expert
        counts = np.sort(left.walks.count[of_expert])
        split = int(counts[np.clip(np.searchsorted(counts, mean, side="right"), 1, len(counts) - 1)])
        node.expert, node.split, node.parts = expert, split, (_Node(), _Node())
        more = left.walks.count >= split
        branches = [
            _Branch(part, left.only(~of_expert | kept), node, side, min(left.lacking, 0.0))
            for side, (part, kept) in enumerate(zip(node.parts, (~more, more), strict=True))
        ]
        self.waiting += branches if mean >= split - 0.5 else branches[::-1]

    @property
    def certificate(self) -> dict[str, Any]:
        """All rounds of prices, and the nodes in preorder: ``[rounds]``, with parts ``[rounds, expert, split]``."""
        nodes: list[list[int]] = []
        prices: list[list[int]] = []
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            nodes.append([len(node.rounds), node.expert, node.split] if node.parts else [len(node.rounds)])
            prices += [prices_of_round.tolist() for prices_of_round in node.rounds]
            waiting += node.parts[::-1]
        method = "pairing_tree" if len(nodes) > 1 else "pairing_walks"
        return {"method": method, "slot": SLOT, "prices": prices, "nodes": nodes}
