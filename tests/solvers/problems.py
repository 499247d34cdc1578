"""Random small problems over all variants, as seeds so that every back end sees the same ones."""

import numpy as np

from moeopt import InputError, PlacementProblem
from solvers import SOLVERS

SPECIAL = {
    "pairing": lambda problem: problem.slots_per_gpu == 2,
    "configuration": lambda problem: problem.slots_per_gpu == 3,
    "window_cover": lambda problem: problem.num_redundant == 0,
}
"""Exact methods made for some shapes, and whether a problem has such a shape."""

GENERAL = [name for name in SOLVERS if name not in SPECIAL]
"""Exact methods that take every problem."""


def random_problem(seed):
    """A one-layer problem with up to 8 experts on up to 4 GPUs; every variant turns up."""
    rng = np.random.default_rng(seed)
    while True:
        experts, gpus = int(rng.choice([3, 4, 6, 8])), int(rng.choice([2, 3, 4]))
        size = -(-experts // gpus) + int(rng.integers(0, 2))
        if gpus * size > 10 and gpus * (size - 1) >= experts:
            size -= 1
        loads = [
            rng.integers(0, 100, experts),
            rng.integers(0, 4, experts),
            rng.lognormal(3, 1.5, experts).round(3),
        ][rng.integers(3)]
        rules: dict = {
            "allow_colocated": bool(rng.random() < 0.7),
            "allow_empty_slots": bool(rng.random() < 0.4),
        }
        if rng.random() < 0.3 and gpus % 2 == 0 and experts % 4 == 0:
            rules |= {"num_nodes": 2, "num_groups": 4}
        goal = rng.random()
        if goal < 0.5:
            extra = rng.integers(0, experts, gpus * size - experts)
            rules["reference"] = [rng.permutation(np.concatenate([np.arange(experts), extra]))]
            if goal < 0.25:
                rules["max_moves"] = int(rng.integers(0, 5))
            else:
                rules["max_makespan"] = float(loads.sum() / gpus * rng.uniform(0.95, 1.6))
        elif seed % 3 == 0:
            rules["split"] = "optimal"
        try:
            return PlacementProblem([loads], gpus, gpus * size, **rules)
        except InputError:
            continue  # this draw is no problem, e.g. too many slots without colocation
