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
        """Copy variables of the model, or where tokens may go to any copy, hosts and flows."""
        per_gpu = 2 * self.problem.num_experts if self.problem.splits else sum(len(c) for c in self.counts)
        return per_gpu * self.problem.num_gpus

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
        """u: the most copies of one expert that a GPU may hold; one where tokens may go to any of them."""
        return self.problem.slots_per_gpu if self.problem.allow_colocated and not self.problem.splits else 1

    @property
    def slots_may_be_left(self) -> bool:
        """Whether (4) is an inequality: also where what is left can be filled with second copies that serve nothing."""
        return self.problem.allow_empty_slots or (self.problem.splits and self.problem.allow_colocated)

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the constraints that this layer needs, in the order of ``docs/formulations.md``."""
        problem, alike, splits = self.problem, self.gpus_are_alike, self.problem.splits
        needed = {
            "one_replica_count": not splits,
            "place_every_copy": not splits,
            "fill_every_slot": True,
            "no_colocation": not problem.allow_colocated and not splits,
            "load_within_makespan": not splits,
            "one_node_per_group": problem.hierarchical,
            "equal_groups_per_node": problem.hierarchical,
            "copies_stay_on_node": problem.hierarchical,
            "keep_what_is_there": not alike,
            "limit_moves": problem.max_moves is not None,
            "order_gpus": alike,
            "order_nodes": alike and problem.hierarchical,
            "host_every_expert": splits,
            "flow_from_hosts": splits,
            "send_every_token": splits,
            "flow_within_makespan": splits,
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


def start_values(model: Any, start: Placement) -> Iterator[tuple[Any, float]]:
    """Every variable of a model but the makespan, and its value in the placement known."""
    data, problem = model.data, model.problem
    count, copies = start.replica_count[0], start.copies[0]
    if problem.splits:
        flow = model.start_flows(start)
        for (g, e), held in np.ndenumerate(copies):
            yield model.copies[e][g], int(held > 0)
            yield model.f[e][g], flow[g, e].item()
    else:
        for e, counts in enumerate(model.y):
            for c, chosen in counts.items():
                yield chosen, int(count[e] == c)
                for g, placed in enumerate(model.x[e][c]):
                    yield placed, int(copies[g, e]) if count[e] == c else 0
    if problem.hierarchical:
        node, group = problem.node_of_gpu, problem.group_of_expert
        hosted = {(int(group[e]), int(node[g])) for g, e in np.argwhere(copies > 0)}
        for q, nodes in enumerate(model.b):
            for n, hosts in enumerate(nodes):
                yield hosts, int((q, n) in hosted)
    if not data.gpus_are_alike:
        reference = data.copies_in_reference()
        for (e, g), kept in model.kept.items():
            yield kept, int(min(reference[g, e], copies[g, e]))


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
    """``phy2log [slots]`` from ``copies [gpus, experts]``: experts in rising order, then -1.

    Where tokens may go to any copy, slots that must not stay empty take further copies of what the node holds.
    """
    if problem.splits and problem.allow_colocated and not problem.allow_empty_slots:
        copies, node = copies.copy(), problem.node_of_gpu if problem.hierarchical else np.zeros(problem.num_gpus)
        for gpu, row in enumerate(copies):
            expert = np.argmax(row if row.any() else copies[node == node[gpu]].any(axis=0))
            row[expert] += problem.slots_per_gpu - row.sum()
    phy2log = np.full((problem.num_gpus, problem.slots_per_gpu), -1, dtype=np.int64)
    for gpu, row in enumerate(copies):
        held = np.repeat(np.arange(problem.num_experts), row)[: problem.slots_per_gpu]
        phy2log[gpu, : len(held)] = held
    return phy2log.ravel()
