"""The best placement known of every layer, as offers come in."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.errors import PlacementError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Best:
    """Per layer the best offer so far of a problem with ``max_makespan`` or ``max_moves``.

    A placement that keeps the limit comes before one that does not. Among those that do, the objective
    decides, then the other of makespan and moves; among those that do not, the one nearer to the limit.

    Attributes
    ----------
    slots, makespan, moves, reached
        ``[layers, slots]`` and ``[layers]``; -1, infinite, 0 and False where nothing was offered.
    """

    def __init__(self, problem: PlacementProblem, deadline: float = math.inf) -> None:
        self.problem, self.deadline = problem, deadline
        self.slots: Ints = np.full((problem.num_layers, problem.slots), -1)
        self.makespan: Floats = np.full(problem.num_layers, np.inf)
        self.moves: Ints = np.zeros(problem.num_layers, np.int64)
        self.reached: Flags = np.zeros(problem.num_layers, np.bool_)

    def offer(self, layers: NDArray[Any], placement: Placement) -> Flags:
        """Take what is better; ``placement`` has the given layers. Returns which layers improved."""
        part = self.problem[layers]
        assert part.reference is not None
        makespan: Floats = metrics.makespan(metrics.gpu_load(part.load, placement))
        moves: Any = metrics.moves(part.reference, placement)
        if part.max_makespan is not None:
            reached = makespan <= part.ceiling
            first, second = np.where(reached, moves, makespan), makespan
            old_first, old_second = np.where(self.reached, self.moves, self.makespan)[layers], self.makespan[layers]
        else:
            assert part.max_moves is not None
            reached = moves <= part.max_moves
            first, second = np.where(reached, makespan, moves), moves
            old_first, old_second = np.where(self.reached, self.makespan, self.moves)[layers], self.moves[layers]
        known = self.reached[layers]
        nothing = np.isinf(self.makespan[layers])
        better = (first < old_first) | ((first == old_first) & (second < old_second)) | nothing
        better = np.where(reached == known, better, reached)
        took = layers[better]
        self.slots[took], self.makespan[took] = placement.phy2log[better], makespan[better]
        self.moves[took], self.reached[took] = moves[better], reached[better]
        return better

    @property
    def late(self) -> bool:
        """Whether the time for looking is over, by ``time.perf_counter``."""
        return time.perf_counter() >= self.deadline

    def placement(self) -> Placement:
        """The best offers together."""
        return Placement(self.slots, self.problem.num_experts, self.problem.num_gpus)


def sound_layers(problem: PlacementProblem, placement: Placement) -> Flags:
    """``[layers]`` whether ``placement`` keeps the rules of ``problem``."""

    def sound(index: Any) -> bool:
        try:
            problem[index].check(placement[index])
        except PlacementError:
            return False
        return True

    if sound(slice(None)):
        return np.ones(problem.num_layers, np.bool_)
    return np.array([sound(layer) for layer in range(problem.num_layers)])
