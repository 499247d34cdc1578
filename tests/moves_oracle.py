"""Random tiny layers with a reference, and the ceilings at which bounds on moves go wrong first."""

import numpy as np

from moeopt import PlacementProblem
from tests.oracles import keeps_groups, layouts

SHAPES = [(2, 2, 2), (4, 2, 2), (6, 2, 3), (6, 3, 2), (8, 2, 4), (4, 4, 1), (6, 1, 6), (8, 4, 2)]
"""Experts, GPUs, slots per GPU of partitions."""

REPLICATED = [(3, 2, 2), (4, 2, 3), (5, 2, 3), (4, 3, 2), (5, 3, 2), (3, 4, 1), (2, 3, 2), (6, 2, 4)]
"""Experts, GPUs, slots per GPU with replicas."""


def random_problem(rng, shapes, **rules):
    """A one-layer problem whose reference is one of its own placements, mostly a good one for other loads."""
    experts, gpus, size = shapes[rng.integers(len(shapes))]
    loads = rng.integers(0, rng.choice([4, 15, 100, 10**6]), experts)
    if rng.random() < 0.3:
        loads = loads / rng.choice([1.0, 3.0, 7.0, 1e3])
    if rng.random() < 0.1:
        loads = loads * 0
    every = layouts(experts, gpus, size, rules.get("allow_colocated", True), False)
    if rules.get("num_nodes", 1) > 1:
        problem = PlacementProblem([loads], gpus, gpus * size, **rules)
        every = [gpus for gpus in every if keeps_groups(problem, gpus)]
    reference = np.array(every[rng.integers(len(every))]).reshape(1, -1)
    return PlacementProblem([loads], gpus, gpus * size, reference=reference, **rules)


def ceilings(problem, found, rng):
    """Ceilings to try: the mean, the optimum, the reference's makespan, any makespan, and beside them."""
    makespans = sorted({makespan for makespan, _ in found})
    kept = [makespan for makespan, moves in found if moves == 0]
    exact = [makespans[0], makespans[rng.integers(len(makespans))], *kept]
    mean = problem.load.values.sum() / problem.num_gpus
    at = [float(value) for value in exact] + [float(mean), float(makespans[0]) * float(rng.uniform(1, 1.3))]
    return [*at, max(at[0] * (1 - 1e-9), 0.0), at[1] * (1 - 1e-6)]
