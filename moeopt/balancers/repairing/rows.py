"""The rows ``repair`` works on: a flat problem per layer, or per node where groups bind experts to nodes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import copy_into, kernel
from moeopt._stop import Flag, in_shares, raised
from moeopt.balancers.repairing.anneal import anneal
from moeopt.balancers.repairing.cycles import go_home
from moeopt.balancers.repairing.greedy import descend
from moeopt.balancers.repairing.kernels import count_moves, enter, new_row, recount_loads, settle
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_LIMIT = 2**40
"""More moves than any row has."""

_GREEDY_LEVELS, _HOME_LEVELS = 3, 6
"""Cycles visit at most one GPU more than this, before and after the ceiling is kept; longer ones save little."""

_BREADTHS = (2, 3, 3, 1)
"""Fullest GPUs among whose moves the greedy chooses, in its first and further attempts."""

_HOPE = 1.5
"""How much more than the move at hand the later ones of an attempt may remove on average, before it is given up."""

_CHUNK = 20_000
"""Steps of an annealing between two looks at the clock: a few milliseconds."""

HOT = 3e-3
"""First temperature of an annealing, in mean GPU loads."""

_COOLING = 1e-2
"""Last temperature of an annealing, in units of the first."""

_PRICE = 0.5
"""What an annealing pays for a move too many, in loads of a mean copy."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Layers as flat problems: ``weight [rows, experts]``, ``reference [rows, reference slots]``.

    Experts are numbered within their row; the number behind the last one is an empty slot, or in a
    reference an expert of another node. ``member [rows, experts]`` has their numbers in the layer.
    Work on them is cut off at ``deadline``, by ``time.perf_counter``.
    """

    problem: PlacementProblem
    member: Ints
    weight: Floats
    reference: Ints
    deadline: float = math.inf

    @property
    def per_layer(self) -> int:
        """Rows of a layer: its nodes."""
        return len(self.member) // self.problem.num_layers

    @property
    def gpus(self) -> int:
        """GPUs of a row."""
        return self.problem.num_gpus // self.per_layer

    def placement(self, held: Ints) -> Placement:
        """The placement that ``held [rows, slots]`` describes."""
        number = np.concatenate([self.member, np.full((len(self.member), 1), -1)], axis=1)
        slots = np.take_along_axis(number, held, axis=1).reshape(self.problem.num_layers, -1)
        return Placement(slots, self.problem.num_experts, self.problem.num_gpus)

    def held(self, placement: Placement) -> Ints:
        """``[rows, slots]`` of a placement in the rows' own numbers."""
        return _own_numbers(self.member, placement)


def rows_of(problem: PlacementProblem, hosts: Placement, deadline: float = math.inf) -> Rows:
    """Rows of ``problem``, every group where ``hosts`` has it."""
    assert problem.reference is not None
    nodes = problem.num_nodes if problem.hierarchical else 1
    order: Any = np.broadcast_to(np.arange(problem.num_experts), (problem.num_layers, problem.num_experts))
    if nodes > 1:
        per_node = hosts.copies.reshape(problem.num_layers, nodes, -1, problem.num_experts).sum(axis=2)
        order = np.argsort(per_node.argmax(axis=1), axis=1, kind="stable")
    member = order.reshape(problem.num_layers * nodes, -1)
    loads: Any = np.take_along_axis(problem.load.values, order, axis=1)
    weight = loads.reshape(member.shape).astype(float)
    return Rows(problem, member, weight, _own_numbers(member, problem.reference), deadline)


def _own_numbers(member: Ints, placement: Placement) -> Ints:
    rows, experts = member.shape
    number = np.full((rows, placement.num_experts + 1), experts)  # the last column serves empty slots
    np.put_along_axis(number, member, np.arange(experts)[None, :], axis=1)
    return np.take_along_axis(number, placement.phy2log.reshape(rows, -1), axis=1)


def repair_rows(
    rows: Rows, start: Ints, ceiling: Floats, *, limit: int = NO_LIMIT, forwards: bool = True
) -> tuple[Ints, Ints]:
    """Bring every row under its ceiling with few moves, then copies home.

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
    held, moves = start.copy(), np.empty(len(start), np.int64)
    rules = rows.problem.allow_colocated, np.int64(rows.problem.allow_empty_slots)

    def run(part: slice, stop: Flag) -> None:
        # Copies, as every other row is a stride, for which numba would compile once more.
        own, count = held[part].copy(), moves[part].copy()
        data = rows.weight[part].copy(), rows.reference[part].copy(), ceiling[part].copy()
        if forwards:
            _repair(own, *data, np.int64(rows.gpus), np.int64(limit), *rules, count, stop)
        else:
            _bring_home(own, *data, np.int64(rows.gpus), rows.problem.allow_colocated, count, stop)
        held[part], moves[part] = own, count

    in_shares(run, len(held), held.size, rows.deadline)
    return held, moves


def anneal_rows(
    rows: Rows,
    best: Ints,
    moves: Ints,
    ceiling: Floats,
    steps: int,
    seed: int,
    deadline: float | None,
    hot: float = HOT,
) -> None:
    """Look for placements under the ceiling with fewer than ``moves [rows]``; both arrays are updated.

    Every row makes ``steps`` steps, unless the clock says ``deadline``.
    """
    now = best.copy()
    state = np.full((len(best), 1), 0x9E3779B97F4A7C15 ^ (seed * 0x2545F4914F6CDD1D % 2**63), np.uint64)
    rules = rows.problem.allow_colocated, np.int64(rows.problem.allow_empty_slots)
    chunks = -(-steps // _CHUNK)
    heat = hot * _COOLING ** (np.arange(chunks + 1) / chunks)

    end = rows.deadline if deadline is None else min(deadline, rows.deadline)

    def run(part: slice, stop: Flag) -> None:
        for chunk in range(chunks):
            for row in range(len(best))[part]:
                if stop[0] or time.perf_counter() >= end:
                    return
                one = slice(row, row + 1)
                data = rows.weight[one], rows.reference[one], ceiling[one], np.int64(rows.gpus), *rules
                cooling = float(heat[chunk]), float(heat[chunk + 1]), np.int64(min(steps, _CHUNK))
                _anneal(now[one], *data, _PRICE, *cooling, state[one], best[one], moves[one], stop)

    in_shares(run, len(best), best.size, end)


@kernel
def _bring_home(held, weight, reference, ceiling, gpus, colocated, moves, stop):  # type: ignore[no-untyped-def]
    """Bring copies home in every row that keeps its ceiling."""
    row = new_row(held.shape[1], gpus, weight.shape[1])
    for r in range(held.shape[0]):
        enter(row, held[r], weight[r], reference[r])
        if recount_loads(row) <= ceiling[r]:
            go_home(row, ceiling[r], _HOME_LEVELS, colocated, stop)
        moves[r] = count_moves(row)
        copy_into(row.held, held[r])


@kernel
def _repair(held, weight, reference, ceiling, gpus, limit, colocated, gaps, moves, stop):  # type: ignore[no-untyped-def]
    """Repair every row in place, with cycles and without, where both fail with others; the best result goes home."""
    row = new_row(held.shape[1], gpus, weight.shape[1])
    best = np.empty(held.shape[1], np.int64)
    # within a limit of moves what fails is an answer too
    hope = _HOPE if limit == NO_LIMIT else np.inf
    tries = 4 if limit == NO_LIMIT and held.shape[1] > 2 * gpus else 2
    for r in range(held.shape[0]):
        enter(row, held[r], weight[r], reference[r])
        fewest, least = 0, np.inf
        for attempt in range(tries):
            if attempt > 1 and least <= ceiling[r]:
                break
            if attempt > 0:
                settle(row, held[r])
            most_moves = limit if attempt == 0 or least > ceiling[r] else min(limit, fewest - 1)
            levels = _GREEDY_LEVELS * int(attempt != 1)
            descend(row, ceiling[r], most_moves, colocated, gaps, _BREADTHS[attempt], levels, hope, stop)
            found, most = count_moves(row), max(recount_loads(row), ceiling[r])
            if attempt == 0 or most < least or (most == least and found < fewest):
                fewest, least = found, most
                copy_into(row.held, best)
            if found == 0 or raised(stop):
                break
        settle(row, best)
        if recount_loads(row) <= ceiling[r]:
            go_home(row, ceiling[r], _HOME_LEVELS, colocated, stop)
        moves[r] = count_moves(row)
        copy_into(row.held, held[r])


@kernel
def _anneal(  # type: ignore[no-untyped-def]
    now, weight, reference, ceiling, gpus, colocated, gaps, price, hot, cold, steps, state, best, moves, stop
):
    """Anneal every row from ``now``, where it is left; what improves on ``best`` goes home as far as it can."""
    row = new_row(now.shape[1], gpus, weight.shape[1])
    for r in range(now.shape[0]):
        total = weight[r].sum()
        if total <= 0.0:  # without load nothing needs to move
            continue
        enter(row, now[r], weight[r], reference[r])
        scale = price * total / now.shape[1], hot * total / gpus, cold * total / gpus
        fewest = anneal(row, reference[r], ceiling[r], colocated, gaps, *scale, steps, state[r], best[r], moves[r])
        copy_into(row.held, now[r])
        if fewest < moves[r]:
            enter(row, best[r], weight[r], reference[r])
            go_home(row, ceiling[r], _HOME_LEVELS, colocated, stop)
            moves[r] = count_moves(row)
            copy_into(row.held, best[r])
