"""A near-optimal balancer: EPLB's placement, improved by exchanges until it meets the lower bound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt.balancers._search_level import level_rows
from moeopt.balancers._search_limited import limited_descent
from moeopt.balancers._search_stages import improve
from moeopt.balancers.eplb import eplb
from moeopt.balancers.pairing import pairing
from moeopt.errors import InputError, PlacementError, UnsupportedError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement, as_placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CLOSE = 9e-5
"""Default distance to the bound at which a layer is done: within the usual tolerance of 1e-4."""

_SMALL = 64
"""Slots up to which further stages are cheap enough to belong to the default mode."""

_LARGE = 512
"""Slots from which a layer is levelled: dealing anew takes too long, and exchanges find all but the best."""

_PAIR_MOVES = 1000
"""Moves of the first annealing of a layer with two slots a GPU: a millisecond or so."""

_PARALLEL_SLOTS = 4096
"""Slots in all layers together from which a second thread pays for itself."""


def search(
    problem: PlacementProblem,
    *,
    start: Placement | Any = None,
    budget: float | None = None,
    target: Any = None,
    seed: int = 0,
) -> Placement:
    """Exchange experts, and change replica counts, until every layer is near its lower bound.

    Stages, each applied to the layers that are still above their target: swaps from the fullest
    GPU; dealing replicas to GPUs anew, each filled as close to a cap as random draws and two
    pointers find, with repair of a few GPUs at a time that gathers the slack (in layers of 512 slots and
    more: bringing GPU after GPU exactly to a cap by exchanges of subsets); moving a copy from one
    expert to another. With two slots a GPU and replicas the counts are annealed instead, as
    ``pairing`` does. A stage never leaves a layer worse, and what it does depends on the layer,
    the stage and the seed only, so a larger budget never gives a worse answer.

    Parameters
    ----------
    start
        Placement (or ``[layers, slots]``) to improve; EPLB's by default. Problems with
        ``max_moves`` start from their reference.
    budget
        Seconds for all layers together, checked between stages and layers; None = a fixed number of stages,
        the same answer on every machine.
    target
        Makespan at which a layer is done, a number or ``[layers]``; by default the best combinatorial
        lower bound plus 0.009 %.
    seed
        Of the random draws, >= 0.

    Raises
    ------
    UnsupportedError
        If the problem minimises moves, or no feasible start is known: EPLB, ``start`` or the
        reference breaks a rule that swaps cannot mend.
    InputError
        For a budget that is not a number >= 0, a negative seed or a target of the wrong shape.
    PlacementError
        If ``start`` breaks the problem.

    Notes
    -----
    Swapping is O(slots) a pair of GPUs with the fullest, dealing O(slots**2) in all, levelling O(slots). Best fit under
    a cap with gathered slack follows bin-packing practice: A. Alvim, C. Ribeiro, F. Glover, D. Aloise,
    "A hybrid improvement heuristic for the one-dimensional bin packing problem", J. Heuristics 10
    (2004), doi 10.1023/B:HEUR.0000026267.44673.ed.
    """
    if problem.objective != "makespan":
        raise UnsupportedError("search minimises the makespan; with max_makespan the problem minimises moves")
    if budget is not None and not budget >= 0:
        raise InputError(f"budget must be seconds >= 0 or None, got {budget!r}")
    if seed < 0:
        raise InputError(f"seed must be >= 0, got {seed}")
    deadline = None if budget is None else time.perf_counter() + budget
    goal = _target(problem, target)
    first = _start(problem, start)
    if problem.max_moves is not None:
        return limited_descent(problem, first, goal)
    if problem.hierarchical:
        found = _by_node(problem, first, goal, None, seed)
        if start is None:
            found = _better(problem, found, _by_node(problem, _regrouped(problem, seed), goal, None, seed))
        return found if deadline is None else _by_node(problem, found, goal, deadline, seed)
    if problem.slots_per_gpu == 2 and problem.num_redundant > 0:
        return _pairs(problem, first, goal, deadline, seed)
    return _placement(problem, _climb(problem, first.by_gpu, goal, deadline, seed))


def _target(problem: PlacementProblem, target: Any) -> Floats:
    if target is None:
        return bounds.lower_bound(problem).value * (1 + _CLOSE)
    values = np.asarray(target, dtype=float)
    if values.ndim > 1 or values.size not in (1, problem.num_layers):
        raise InputError(f"target must be a number or [{problem.num_layers}], got shape {values.shape}")
    return np.broadcast_to(values, (problem.num_layers,)).copy()


def _start(problem: PlacementProblem, start: Any) -> Placement:
    """The given placement, the reference, or EPLB's, made feasible where EPLB colocates."""
    if start is not None:
        placement = as_placement(start, problem.num_experts, problem.num_gpus)
        problem.check(placement)
        return placement
    placement = eplb(problem)
    if problem.max_moves is not None:
        assert problem.reference is not None
        placement = problem.reference
    elif not problem.allow_colocated:
        placement = _separated(problem, placement)
    try:
        problem.check(placement)
    except PlacementError as error:
        raise UnsupportedError(f"search has no feasible placement to start from: {error}") from None
    return placement


def _separated(problem: PlacementProblem, placement: Placement) -> Placement:
    """``placement``, with layers in which a GPU holds an expert twice dealt anew."""
    slots = placement.phy2log.copy()
    nodes = problem.num_nodes if problem.hierarchical else 1
    node_of_group = _hosts(problem, placement) if nodes > 1 else np.zeros((problem.num_layers, problem.num_groups))
    per_group = problem.num_experts // problem.num_groups
    for layer in np.flatnonzero((placement.copies > 1).any(axis=(1, 2))):
        dealt = []
        for node in range(nodes):
            experts = np.flatnonzero(np.repeat(node_of_group[layer] == node, per_group))
            weight = problem.load.values[layer, experts].astype(float)
            order = _dealt_in_turn(weight, problem.num_gpus // nodes, problem.slots_per_gpu)
            dealt.append(np.where(order < 0, -1, experts[order]))
        slots[layer] = np.concatenate(dealt)
    return _placement(problem, slots)


def _dealt_in_turn(weight: Floats, gpus: int, per_gpu: int) -> Ints:
    """Slots ``[gpus * per_gpu]`` that never hold an expert twice on a GPU.

    Counts are greedy, at most one copy a GPU; copies of an expert follow each other and are dealt
    to the GPUs in turn, so they all go to different ones.
    """
    experts = len(weight)
    extra = min(gpus * per_gpu - experts, experts * (gpus - 1))
    heat = weight[:, None] / np.arange(1, max(gpus, 2))
    granted = np.argsort(-heat, axis=None, kind="stable")[:extra] // heat.shape[1]
    copies = 1 + np.bincount(granted, minlength=experts)
    falling = np.argsort(-weight / copies, kind="stable")
    replicas = np.full(gpus * per_gpu, -1)
    replicas[: experts + extra] = np.repeat(falling, copies[falling])
    dealt: Ints = replicas.reshape(per_gpu, gpus).T.ravel()
    return dealt


def _climb(problem: PlacementProblem, start: Ints, goal: Floats, deadline: float | None, seed: int) -> Ints:
    """Run the stages on all layers as flat problems; returns ``[layers, gpus, k]``."""
    slots = np.where(start < 0, problem.num_experts, start)
    weight = problem.load.values.astype(float)
    makespan = np.full(problem.num_layers, np.inf)
    switches = problem.allow_colocated, problem.allow_empty_slots
    large = problem.slots >= _LARGE and problem.slots_per_gpu > 3
    threads = 2 if slots.size >= _PARALLEL_SLOTS and problem.num_layers > 1 else 1

    def run(first: int, stage: int) -> None:
        # layer by layer where the clock counts, since a late stage may take most of a second a layer
        rows = np.arange(first, problem.num_layers, threads)
        for part in [rows] if deadline is None or stage < 2 else np.split(rows, len(rows)):
            if deadline is not None and time.perf_counter() >= deadline:
                return
            improved, reached = slots[part], makespan[part]
            if large and (stage % 6 != 5 or problem.num_redundant == 0):
                level_rows(improved, weight[part], goal[part], seed + stage, problem.allow_colocated, reached)
            else:
                improve(improved, weight[part], goal[part], stage, seed, *switches, reached)
            slots[part], makespan[part] = improved, reached

    with ThreadPoolExecutor(threads) as pool:
        for stage in _stages(problem, deadline):
            list(pool.map(run, range(threads), [stage] * threads))
            if np.all(makespan <= goal):
                break
    return np.where(slots == problem.num_experts, -1, slots)


def _pairs(problem: PlacementProblem, first: Placement, goal: Floats, deadline: float | None, seed: int) -> Placement:
    """With two slots a GPU only the counts matter: annealing, ever longer while time is left."""
    best, moves = first.phy2log.copy(), _PAIR_MOVES
    makespan = metrics.makespan(metrics.gpu_load(problem.load, first))
    while np.any(makespan > goal):
        for layer in np.flatnonzero(makespan > goal):
            if deadline is not None and time.perf_counter() >= deadline:
                break
            found = pairing(problem[int(layer)], moves=moves, seed=seed)
            reached = metrics.makespan(metrics.gpu_load(problem.load[int(layer)], found))[0]
            if reached < makespan[layer]:
                best[layer], makespan[layer] = found.phy2log[0], reached
        if deadline is None or time.perf_counter() >= deadline:
            break
        moves *= 4
    return _placement(problem, best)


def _stages(problem: PlacementProblem, deadline: float | None) -> Iterator[int]:
    """Stage numbers while time is left; a few without a deadline."""
    if problem.slots_per_gpu == 1 and problem.num_redundant == 0:
        return
    last = 6 if problem.slots <= _SMALL else 1
    for stage in count():
        if stage > last if deadline is None else time.perf_counter() >= deadline:
            return
        yield stage


def _by_node(problem: PlacementProblem, first: Placement, goal: Floats, deadline: float | None, seed: int) -> Placement:
    """Every node is a flat problem of its own, once groups are dealt to nodes."""
    nodes = problem.num_nodes
    rows, member = _node_rows(problem, np.argsort(_hosts(problem, first), axis=1, kind="stable"))
    local = np.full((len(member), problem.num_experts + 1), -1)  # the last column serves empty slots
    np.put_along_axis(local, member, np.arange(member.shape[1])[None, :], axis=1)
    begin = np.take_along_axis(local, first.phy2log.reshape(len(member), -1), axis=1)
    best = _climb(rows, begin.reshape(len(member), rows.num_gpus, -1), np.repeat(goal, nodes), deadline, seed)
    return _global(problem, member, best)


def _regrouped(problem: PlacementProblem, seed: int) -> Placement:
    """EPLB inside the nodes, after a search for the best deal of groups to nodes."""
    group_load = problem.load.values.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2)
    hosting = search(PlacementProblem(LoadMatrix(group_load), problem.num_nodes), seed=seed)
    rows, member = _node_rows(problem, hosting.phy2log)
    placement = _global(problem, member, eplb(rows).phy2log)
    return placement if problem.allow_colocated else _separated(problem, placement)


def _node_rows(problem: PlacementProblem, groups: NDArray[Any]) -> tuple[PlacementProblem, Ints]:
    """One flat problem a node, given the groups in the order of their nodes; and its experts, ``[rows, experts]``."""
    size = problem.num_experts // problem.num_groups
    order = (groups[:, :, None] * size + np.arange(size)).reshape(problem.num_layers, -1)
    loads: Any = np.take_along_axis(problem.load.values, order, axis=1)
    member = order.reshape(problem.num_layers * problem.num_nodes, -1)
    rows = PlacementProblem(
        LoadMatrix(loads.reshape(member.shape)),
        num_gpus=problem.num_gpus // problem.num_nodes,
        num_slots=problem.slots // problem.num_nodes,
        allow_colocated=problem.allow_colocated,
        allow_empty_slots=problem.allow_empty_slots,
    )
    return rows, member


def _global(problem: PlacementProblem, member: Ints, slots: Ints) -> Placement:
    """Placement of the nodes' own experts as one of all experts."""
    local = slots.reshape(len(member), -1)
    return _placement(problem, np.where(local < 0, -1, np.take_along_axis(member, np.maximum(local, 0), axis=1)))


def _better(problem: PlacementProblem, a: Placement, b: Placement) -> Placement:
    """The placement with the lower makespan, layer by layer."""
    first, second = (metrics.makespan(metrics.gpu_load(problem.load, placement)) for placement in (a, b))
    return _placement(problem, np.where((second < first)[:, None], b.phy2log, a.phy2log))


def _hosts(problem: PlacementProblem, placement: Placement) -> Ints:
    """``[layers, groups]`` node of every group."""
    per_node = placement.copies.reshape(problem.num_layers, problem.num_nodes, -1, problem.num_experts).sum(axis=2)
    hosts: Ints = per_node[:, :, :: problem.num_experts // problem.num_groups].argmax(axis=1)
    return hosts


def _placement(problem: PlacementProblem, slots: Ints) -> Placement:
    return Placement(slots.reshape(problem.num_layers, -1), problem.num_experts, problem.num_gpus)
