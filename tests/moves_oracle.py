"""Every placement of a tiny layer with its makespan and its moves; random layers with a reference."""

import math
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import numpy as np

from moeopt import PlacementProblem


@cache
def layouts(experts, gpus, size, colocated, empty):
    """Contents of all GPUs, as tuples of tuples, such that every expert has a copy; -1 is an empty slot."""
    items = range(-1 if empty else 0, experts)
    contents = list(combinations_with_replacement(items, size))
    if not colocated:
        contents = [c for c in contents if max(Counter(e for e in c if e >= 0).values(), default=1) == 1]
    found = []

    def extend(chosen, missing):
        left = gpus - len(chosen)
        if not left:
            found.append(chosen)
            return
        for content in contents:
            rest = missing.difference(content)
            if len(rest) <= (left - 1) * size:
                extend((*chosen, content), rest)

    extend((), frozenset(range(experts)))
    return found


def outcomes(problem):
    """The set of (makespan, moves) of all placements of a one-layer problem, ceilings and limits aside."""
    loads = [Fraction(w) for w in problem.load.values[0].tolist()]
    scale = math.lcm(*(w.denominator for w in loads))
    unit = math.lcm(*range(1, problem.max_replicas + 1))
    whole = [int(w * scale) for w in loads]
    reference = [Counter(e for e in gpu if e >= 0) for gpu in problem.reference.by_gpu[0].tolist()]
    every = layouts(
        problem.num_experts, problem.num_gpus, problem.slots_per_gpu, problem.allow_colocated, problem.allow_empty_slots
    )
    seen = set()
    for gpus in every:
        if problem.hierarchical and not _keeps_groups(problem, gpus):
            continue
        count = Counter(e for gpu in gpus for e in gpu)
        share = [w * unit // count[e] for e, w in enumerate(whole)]
        makespan = max(sum(share[e] for e in gpu if e >= 0) for gpu in gpus)
        moves = sum(
            sum((Counter(e for e in gpu if e >= 0) - held).values()) for gpu, held in zip(gpus, reference, strict=True)
        )
        seen.add((makespan, moves))
    return {(Fraction(makespan, unit * scale), moves) for makespan, moves in seen}


def _keeps_groups(problem, gpus):
    size, per_node = problem.num_experts // problem.num_groups, problem.num_gpus // problem.num_nodes
    nodes = [set() for _ in range(problem.num_nodes)]
    for g, gpu in enumerate(gpus):
        nodes[g // per_node].update(e // size for e in gpu if e >= 0)
    share = problem.num_groups // problem.num_nodes
    return all(len(node) == share for node in nodes) and len(set().union(*nodes)) == problem.num_groups


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
        every = [gpus for gpus in every if _keeps_groups(problem, gpus)]
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
