"""What CP-SAT and MILP models of one layer have in common: index sets, data and their reductions.

Names and numbers are those of ``docs/formulations.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from solvers.drive import Limits, interchangeable

MAX_VARIABLES = 100_000
"""Models beyond this many copy variables are not built: no back end closes them in minutes."""


@dataclass(frozen=True)
class LayerModel:
    """Index sets and data of one layer's model.

    Parameters
    ----------
    problem
        A problem of one layer.
    start
        The placement known, its GPUs numbered as the symmetry breaking wants them, or None.
    lower, upper
        What the makespan lies between: the bound known and the makespan of ``start``, or 0 and the ceiling.
    fewest_moves, most_moves
        What the moves lie between, where they matter.
    counts
        For every expert the replica counts ``c`` that a placement with makespan <= ``upper``
        can have.
    """

    problem: PlacementProblem
    start: Placement | None
    lower: float
    upper: float
    fewest_moves: int
    most_moves: int
    counts: tuple[range, ...]

    @property
    def size(self) -> int:
        """Copy variables of the model."""
        return sum(len(c) for c in self.counts) * self.problem.num_gpus

    @property
    def too_large(self) -> str:
        """Why the model is not built; empty if it is."""
        if self.size <= MAX_VARIABLES:
            return ""
        return f"the model would have {self.size} copy variables, more than {MAX_VARIABLES}"

    @property
    def loads(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """``[experts]`` loads of the layer."""
        row: NDArray[np.int64] | NDArray[np.float64] = self.problem.load.values[0]
        return row

    @property
    def by_load(self) -> list[int]:
        """Experts by falling load, ties by lower id: the ranks of (13)."""
        order: list[int] = np.argsort(-self.loads, kind="stable").tolist()
        return order

    @property
    def gpus_are_alike(self) -> bool:
        """Whether GPUs may be renumbered: not where moves are limited or minimised."""
        return interchangeable(self.problem)

    @property
    def max_copies_per_gpu(self) -> int:
        """u: the most copies of one expert that a GPU may hold."""
        return self.problem.slots_per_gpu if self.problem.allow_colocated else 1

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the constraints that this layer needs, in the order of ``docs/formulations.md``."""
        problem, alike = self.problem, self.gpus_are_alike
        needed = {
            "one_replica_count": True,
            "place_every_copy": True,
            "fill_every_slot": True,
            "no_colocation": not problem.allow_colocated,
            "load_within_makespan": True,
            "one_node_per_group": problem.hierarchical,
            "equal_groups_per_node": problem.hierarchical,
            "copies_stay_on_node": problem.hierarchical,
            "keep_what_is_there": not alike,
            "limit_moves": problem.max_moves is not None,
            "order_gpus": alike,
            "order_nodes": alike and problem.hierarchical,
        }
        return tuple(name for name, is_needed in needed.items() if is_needed)

    def copies_in_reference(self) -> NDArray[np.int64]:
        """``[gpus, experts]`` r[e,g] of (10)."""
        assert self.problem.reference is not None
        counts: NDArray[np.int64] = self.problem.reference.copies[0]
        return counts


class Model(Protocol):
    """A back end's model: a method per constraint that yields its rows."""

    data: LayerModel

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert."""

    def add_row(self, row: Any) -> None:
        """Add a row of a constraint."""


def build(model: Model, limits: Limits) -> bool:
    """Add variables and constraints; False if the time is over before all are there."""
    if any(limits.late for _ in model.add_variables()):
        return False
    for name in model.data.constraints:
        for row in getattr(model, name)():
            if limits.late:
                return False
            model.add_row(row)
    return True


def layer_model(known: Solution) -> LayerModel:
    """Prepare one layer from what is known about it."""
    problem, start = known.problem, known.placement
    least = 0.0 if np.isnan(known.lower_bound[0]) else float(known.lower_bound[0])
    lower, upper = 0.0, np.inf
    fewest, most = 0, problem.slots if problem.max_moves is None else problem.max_moves
    if start is not None and interchangeable(problem):
        start = canonical(problem, start)
    if problem.objective == "makespan":
        lower = least
        upper = np.inf if start is None else float(known.makespan[0])
    else:
        upper = float(problem.ceiling[0])
        fewest = math.ceil(least)
        most = most if start is None else int(known.moves[0])
    return LayerModel(problem, start, lower, upper, fewest, most, useful_counts(problem, upper))


def useful_counts(problem: PlacementProblem, upper: float) -> tuple[range, ...]:
    """Replica counts that a makespan <= ``upper`` leaves open.

    A replica weighs at most ``upper``, so ``c_e >= ceil(w_e / upper)``; the redundancy that these
    least counts leave over is all that one expert can have on top. Within a node only its own
    group's needs are known to compete.
    """
    loads = problem.load.values[0].astype(float)
    most = problem.max_replicas
    least = np.ones(problem.num_experts, dtype=np.int64)
    if np.isfinite(upper) and upper > 0:
        least = np.maximum(np.ceil(loads / upper * (1 - metrics.FLOAT_SLACK)), 1).astype(np.int64)
    nodes = problem.num_nodes if problem.hierarchical else 1
    pool = problem.group_of_expert if problem.hierarchical else np.zeros(problem.num_experts, dtype=np.intp)
    needed = np.bincount(pool, weights=least - 1).astype(np.int64)[pool]
    spare = np.maximum(problem.num_redundant // nodes - needed, -1)
    highest = np.minimum(least + spare, most)
    return tuple(range(int(low), int(high) + 1) for low, high in zip(least, highest, strict=True))


def canonical(problem: PlacementProblem, placement: Placement) -> Placement:
    """Renumber nodes and GPUs of a one-layer placement as (13) and (14) want them.

    GPUs (within their node) by the hottest expert they hold, empty ones last; nodes by their
    first group.
    """
    rank = np.empty(problem.num_experts + 1, dtype=np.int64)
    rank[np.argsort(-problem.load.values[0], kind="stable")] = np.arange(problem.num_experts)
    rank[-1] = problem.num_experts
    nodes = problem.num_nodes if problem.hierarchical else 1
    content = placement.by_gpu[0].reshape(nodes, problem.num_gpus // nodes, -1)
    if nodes > 1:
        first_group = [problem.group_of_expert[node[node >= 0]].min() for node in content]
        content = content[np.argsort(first_group, kind="stable")]
    hottest = rank[content].min(axis=2)
    order = np.argsort(hottest, axis=1, kind="stable")
    content = np.take_along_axis(content, order[:, :, None], axis=1)
    return Placement(content.reshape(1, -1), problem.num_experts, problem.num_gpus)


def slots_from_copies(problem: PlacementProblem, copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """``phy2log [slots]`` from ``copies [gpus, experts]``: experts in rising order, then -1."""
    phy2log = np.full((problem.num_gpus, problem.slots_per_gpu), -1, dtype=np.int64)
    for gpu, row in enumerate(copies):
        held = np.repeat(np.arange(problem.num_experts), row)[: problem.slots_per_gpu]
        phy2log[gpu, : len(held)] = held
    return phy2log.ravel()
