"""Random problems of all variants, larger than those that exact methods can take; as seeds."""

from dataclasses import replace

import numpy as np

from moeopt import InputError, PlacementProblem


def random_problem(seed):
    """One to three layers of up to 24 experts on up to 12 GPUs; every variant turns up, in all mixtures."""
    rng = np.random.default_rng(seed)
    while True:
        gpus, per_gpu = int(rng.choice([1, 2, 3, 4, 8, 12])), int(rng.integers(1, 7))
        nodes, groups = (1, 1) if rng.random() < 0.6 else (int(rng.choice([2, 4])), int(rng.choice([4, 8])))
        experts = groups * int(rng.integers(1, 24 // groups + 1))
        layers = int(rng.integers(1, 4))
        loads = [
            rng.integers(0, 1000, (layers, experts)),
            rng.integers(0, 3, (layers, experts)),
            rng.lognormal(3, 1.5, (layers, experts)),
            np.zeros((layers, experts)),
        ][rng.choice(4, p=[0.4, 0.2, 0.35, 0.05])]
        rules = {
            "num_nodes": nodes,
            "num_groups": groups,
            "allow_colocated": bool(rng.random() < 0.5),
            "allow_empty_slots": bool(rng.random() < 0.5),
        }
        try:
            problem = PlacementProblem(loads, gpus, gpus * per_gpu, **rules)
            goal = rng.random()
            if goal > 0.4:
                return replace(problem, split="optimal" if seed % 3 == 0 else "even")
            limit = {"max_moves": int(rng.integers(0, 9))}
            if goal < 0.2:
                limit = {"max_makespan": loads.sum(axis=1) / gpus * rng.uniform(0.9, 2.0)}
            return PlacementProblem(loads, gpus, gpus * per_gpu, **rules, reference=_reference(problem, rng), **limit)
        except InputError:
            continue  # this draw is no problem, such as fewer slots than experts


def _reference(problem, rng):
    """Feasible as often as not: the layout of a contiguous start with experts renamed, or a plain shuffle."""
    if rng.random() < 0.5:
        row = np.arange(problem.slots) % problem.num_experts
        return np.stack([rng.permutation(row) for _ in range(problem.num_layers)])
    nodes = problem.num_nodes if problem.hierarchical else 1
    per_node = problem.num_experts // nodes
    local = np.arange(problem.slots // nodes) % per_node
    row = (np.arange(nodes)[:, None] * per_node + local).reshape(problem.num_gpus, -1)
    if problem.allow_empty_slots and not problem.allow_colocated:
        row[:, per_node:] = -1
    return np.tile(row.ravel(), (problem.num_layers, 1))
