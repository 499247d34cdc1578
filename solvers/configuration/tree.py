"""Branching on the counts of hot experts: the configuration LP's bound where it shares one between two counts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.configuration.dual import FRACTIONAL, TOLERANCE, Dual

_HOT = 0.9
"""Load of an expert, in units of a GPU's mean, from which its count moves the bound."""

MAX_LEAVES = 64
"""Leaves at most: each is a few kilobytes of prices, and a linear program."""


@dataclass
class _Node:
    """A part of the problem: a leaf, or the parts where ``expert`` has at most and more than ``split`` copies."""

    dual: Dual
    expert: int = -1
    split: int = 0
    parts: tuple[_Node, ...] = ()


class Tree:
    """Parts of a layer's problem by the counts of hot experts, each with its own prices.

    The bound is valid at any moment: what a leaf has not proven itself its parent has.
    """

    def __init__(self, root: Dual) -> None:
        self.root = _Node(root)
        self.leaves = [self.root]

    @property
    def least(self) -> _Node:
        """The leaf of the least bound."""
        return min(self.leaves, key=lambda leaf: leaf.dual.bound)

    @property
    def bound(self) -> float:
        """The least bound of a leaf."""
        return self.least.dual.bound

    @property
    def certificate(self) -> dict[str, Any]:
        """What proves the bound: experts and splits, and in the leaves prices."""
        return {"method": "configuration_tree", "threshold": self.bound, "tree": _written(self.root)}

    def grow(self, target: float, deadline: float) -> None:
        """Branch until the bound reaches ``target``, no hot expert is shared, or ``time.perf_counter`` the deadline."""
        while (
            self.bound * (1 + TOLERANCE) < target
            and len(self.leaves) < MAX_LEAVES
            and (now := time.perf_counter()) < deadline
        ):
            leaf = self.least
            if math.isinf(leaf.dual.ceiling):
                leaf.dual.climb(target, None if math.isinf(deadline) else deadline - now)
            elif not self._branch(leaf, deadline):
                return

    def _branch(self, leaf: _Node, deadline: float) -> bool:
        """Split a leaf by the hot expert that is shared most; whether there is one."""
        dual = leaf.dual
        relaxation = dual.relax(dual.ceiling, deadline)
        if relaxation is None:
            return False
        shares = relaxation.shares / relaxation.shares.sum(axis=1, keepdims=True)
        heat = dual.loads / (dual.loads.sum() / dual.num_gpus)
        top = shares.max(axis=1)
        score = np.where((heat >= _HOT) & (top < FRACTIONAL), heat * np.minimum(1 - top, 0.5), 0.0)
        expert = int(np.argmax(score))
        if score[expert] == 0:
            return False
        fewest, most = dual.ranges.get(expert, (1, shares.shape[1]))
        mean = float(shares[expert] @ np.arange(1, shares.shape[1] + 1))
        split = min(max(math.floor(mean), fewest), most - 1)
        leaf.expert, leaf.split = expert, split
        leaf.parts = (_Node(dual.within(expert, fewest, split)), _Node(dual.within(expert, split + 1, most)))
        self.leaves.remove(leaf)
        self.leaves += leaf.parts
        return True


def _written(node: _Node) -> dict[str, Any]:
    if not node.parts:
        return {key: node.dual.certificate[key] for key in ("prices", "needed")}
    fewer, more = (_written(part) for part in node.parts)
    return {"expert": node.expert, "split": node.split, "fewer": fewer, "more": more}
