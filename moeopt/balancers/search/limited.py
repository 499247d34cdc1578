"""Swap descent under a limit of moves, the part of ``search`` that starts from a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt._stop import Stop, raised
from moeopt.balancers.search.swaps import may_swap, sum_loads
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def limited_descent(problem: PlacementProblem, start: Placement, target: NDArray[np.float64], stop: Stop) -> Placement:
    """Swap the fullest GPU of every layer down with at most ``problem.max_moves`` moves in all.

    Each step takes the swap (inside the node where there are nodes) that leaves the lighter pair and
    keeps the limit; swapping an expert back home gives moves back. O(gpus * k**2) a step.
    """
    assert problem.reference is not None
    slots = np.where(start.by_gpu < 0, problem.num_experts, start.by_gpu)
    home = np.where(problem.reference.by_gpu < 0, problem.num_experts, problem.reference.by_gpu)
    size = problem.load.values / np.maximum(start.replica_count, 1)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    _limited(slots, size, home, target, problem.max_moves, problem.allow_colocated, per_node, stop)
    slots = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(slots, problem.num_experts, problem.num_gpus)


@kernel
def _surplus(slots, home, expert):  # type: ignore[no-untyped-def]
    """Copies of ``expert`` on a GPU beyond those it has at home there: if above 0, the last one is a move."""
    surplus = 0
    for other in slots:
        surplus += int(other == expert)
    for other in home:
        surplus -= int(other == expert)
    return surplus


@kernel
def _moves(slots, home, empty):  # type: ignore[no-untyped-def]
    """Copies on a GPU that are not at home there."""
    moves = 0
    for t in range(slots.size):
        if slots[t] != empty:
            moves += int(_surplus(slots[: t + 1], home, slots[t]) > 0)
    return moves


@kernel
def _limited(all_slots, all_size, all_home, target, max_moves, colocated, per_node, stop):  # type: ignore[no-untyped-def]
    """Descend every layer; the expert behind the last one is an empty slot."""
    layers, gpus, k = all_slots.shape
    empty = all_size.shape[1]
    load = np.empty(gpus)
    size = np.zeros(empty + 1)
    for layer in range(layers):
        slots, home = all_slots[layer], all_home[layer]
        size[:empty] = all_size[layer]
        sum_loads(slots, size, load)
        left = max_moves
        for g in range(gpus):
            left -= _moves(slots[g], home[g], empty)
        while not raised(stop):
            f = np.argmax(load)
            if load[f] <= target[layer]:
                break
            best = load[f] * (1 - 1e-12)
            partner = here = there = -1
            spent = 0
            for h in range(f // per_node * per_node, (f // per_node + 1) * per_node):
                if (load[f] + load[h]) / 2 >= best:
                    continue
                for i in range(k):
                    a = slots[f, i]
                    for j in range(k):
                        b = slots[h, j]
                        give = size[a] - size[b]
                        after = max(load[f] - give, load[h] + give)
                        if give <= 0 or after >= best or not may_swap(slots, f, i, h, j, empty, colocated):
                            continue
                        cost = int(_surplus(slots[h], home[h], a) >= 0) - int(_surplus(slots[f], home[f], a) > 0)
                        if b != empty:
                            cost += int(_surplus(slots[f], home[f], b) >= 0) - int(_surplus(slots[h], home[h], b) > 0)
                        if cost <= left:
                            best, partner, here, there, spent = after, h, i, j, cost
            if partner < 0:
                break
            a, b = slots[f, here], slots[partner, there]
            give = size[a] - size[b]
            load[f] -= give
            load[partner] += give
            left -= spent
            slots[f, here], slots[partner, there] = b, a
