"""The rows ``repair`` works on: one flat problem per layer, or per node of a layer where groups bind experts to nodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.balancers._repair_cycles import go_home
from moeopt.balancers._repair_greedy import descend
from moeopt.balancers._repair_kernels import count_moves, enter, excess, new_row, recount_loads
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = 3
"""A cycle visits at most one GPU more than this."""

_PARALLEL_SLOTS = 4096
"""Slots in all rows together from which a second thread pays for itself."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Layers as flat problems: ``weight [rows, experts]``, ``reference`` and ``held`` ``[rows, slots]``.

    Experts are numbered within their row; the number behind the last one is an empty slot, or in a
    reference an expert of another node. ``member [rows, experts]`` has their numbers in the layer.
    """

    problem: PlacementProblem
    member: Ints
    weight: Floats
    reference: Ints

    @property
    def per_layer(self) -> int:
        """Rows of a layer: its nodes."""
        return len(self.member) // self.problem.num_layers

    @property
    def gpus(self) -> int:
        """GPUs of a row."""
        return self.problem.num_gpus // self.per_layer

    def local(self, placement: Placement) -> Ints:
        """``[rows, slots]`` of a placement in the rows' own numbers."""
        rows, experts = self.member.shape
        number = np.full((rows, self.problem.num_experts + 1), experts)  # the last column serves empty slots
        np.put_along_axis(number, self.member, np.arange(experts)[None, :], axis=1)
        return np.take_along_axis(number, placement.phy2log.reshape(rows, -1), axis=1)

    def placement(self, held: Ints) -> Placement:
        """The placement that ``held`` describes."""
        rows, experts = self.member.shape
        number = np.concatenate([self.member, np.full((rows, 1), -1)], axis=1)
        slots = np.take_along_axis(number, held, axis=1).reshape(self.problem.num_layers, -1)
        return Placement(slots, self.problem.num_experts, self.problem.num_gpus)


def rows_of(problem: PlacementProblem, hosts: Placement) -> Rows:
    """Rows of ``problem``, every group where ``hosts`` has it."""
    assert problem.reference is not None
    nodes = problem.num_nodes if problem.hierarchical else 1
    order = np.broadcast_to(np.arange(problem.num_experts), (problem.num_layers, problem.num_experts))
    if nodes > 1:
        per_node = hosts.copies.reshape(problem.num_layers, nodes, -1, problem.num_experts).sum(axis=2)
        order = np.argsort(per_node.argmax(axis=1), axis=1, kind="stable")
    member = order.reshape(problem.num_layers * nodes, -1)
    loads: Any = np.take_along_axis(problem.load.values, order, axis=1)
    rows = Rows(problem, member, loads.reshape(member.shape).astype(float), np.empty((0, 0), np.int64))
    return Rows(problem, member, rows.weight, rows.local(problem.reference))


def repair_rows(
    rows: Rows, start: Ints, ceiling: Floats, limit: int | None = None, *, forwards: bool = True
) -> tuple[Ints, Ints]:
    """Bring every row under its ceiling with few moves, or only its copies home where it is already.

    Parameters
    ----------
    start
        ``[rows, slots]`` to begin from.
    ceiling
        ``[rows]``.
    limit
        Moves after which a row is left as it is.
    forwards
        Whether rows above their ceiling are repaired; else they are left alone.

    Returns
    -------
    held, moves
        ``[rows, slots]`` and ``[rows]``.
    """
    held = start.copy()
    moves = np.empty(len(held), np.int64)
    most = np.int64(2**40 if limit is None else limit)
    switches = rows.problem.allow_colocated, np.int64(rows.problem.allow_empty_slots), forwards

    def run(part: slice) -> None:
        _repair(
            held[part],
            rows.weight[part],
            rows.reference[part],
            ceiling[part],
            np.int64(rows.gpus),
            most,
            np.int64(LEVELS),
            *switches,
            moves[part],
        )

    in_threads(run, len(held), held.size)
    return held, moves


def in_threads(run: Any, rows: int, size: int) -> None:
    """Call ``run`` with slices that cover the rows, in two threads where that pays."""
    threads = 2 if size >= _PARALLEL_SLOTS and rows > 1 else 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, [slice(first, None, threads) for first in range(threads)]))


@kernel
def _repair(held, weight, reference, ceiling, gpus, limit, levels, colocated, gaps, forwards, moves):  # type: ignore[no-untyped-def]
    """Repair every row in place."""
    row = new_row(held.shape[1], gpus, weight.shape[1])
    for r in range(held.shape[0]):
        enter(row, held[r], weight[r], reference[r])
        moves[r] = count_moves(row)
        if excess(row, ceiling[r]) > 0.0 and forwards:
            moves[r] = descend(row, ceiling[r], limit, colocated, gaps, False)
        recount_loads(row)
        if excess(row, ceiling[r]) <= 0.0:
            go_home(row, ceiling[r], levels, colocated)
            moves[r] = count_moves(row)
        held[r] = row.held
