"""Swap descent under a limit of moves, the part of ``search`` that starts from a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.balancers._search_kernels import holds, sum_loads
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def limited_descent(problem: PlacementProblem, start: Placement, target: NDArray[np.float64]) -> Placement:
    """Swap the fullest GPU of every layer down with at most ``problem.max_moves`` moves in all.

    Each step takes the swap (inside the node where there are nodes) that leaves the lighter pair and
    keeps the limit; swapping an expert back home gives moves back. O(gpus * k**2) a step.
    """
    assert problem.reference is not None
    slots = np.where(start.by_gpu < 0, problem.num_experts, start.by_gpu)
    home = problem.reference.copies
    size = problem.load.values / np.maximum(start.replica_count, 1)
    per_node = problem.num_gpus // (problem.num_nodes if problem.hierarchical else 1)
    _limited(slots, size, home, target, problem.max_moves, problem.allow_colocated, per_node)
    slots = np.where(slots == problem.num_experts, -1, slots).reshape(problem.num_layers, -1)
    return Placement(slots, problem.num_experts, problem.num_gpus)


@kernel
def _limited(all_slots, all_size, home, target, max_moves, colocated, per_node):  # type: ignore[no-untyped-def]
    """Descend every layer; the expert behind the last one is an empty slot."""
    layers, gpus, k = all_slots.shape
    experts = all_size.shape[1]
    load = np.empty(gpus)
    size = np.zeros(experts + 1)
    for layer in range(layers):
        slots = all_slots[layer]
        size[:experts] = all_size[layer]
        sum_loads(slots, size, load)
        # surplus > 0: more copies than the reference has there, so the last one is a move
        surplus = np.zeros((gpus, experts + 1), np.int64)
        surplus[:, :experts] = -home[layer]
        for g in range(gpus):
            for t in range(k):
                surplus[g, slots[g, t]] += 1
        left = max_moves
        for g in range(gpus):
            for e in range(experts):
                left -= max(surplus[g, e], 0)
        while True:
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
                        if give <= 0 or after >= best:
                            continue
                        if not colocated and (holds(slots[h], a) or (b < experts and holds(slots[f], b))):
                            continue
                        cost = int(surplus[h, a] >= 0) - int(surplus[f, a] > 0)
                        if b < experts:
                            cost += int(surplus[f, b] >= 0) - int(surplus[h, b] > 0)
                        if cost <= left:
                            best, partner, here, there, spent = after, h, i, j, cost
            if partner < 0:
                break
            a, b = slots[f, here], slots[partner, there]
            give = size[a] - size[b]
            load[f] -= give
            load[partner] += give
            left -= spent
            surplus[f, a] -= 1
            surplus[partner, a] += 1
            surplus[f, b] += 1
            surplus[partner, b] -= 1
            slots[f, here], slots[partner, there] = b, a
