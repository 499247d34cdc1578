"""Small layers whose load comes in steps, and what all their placements cost: the sum over steps of the fullest GPU."""

from itertools import combinations

import numpy as np

from moeopt import PlacementProblem
from moeopt.traces import Trace
from tests.instances import SMALL_RULES
from tests.oracles import keeps_groups, layouts


def steps_of(rng, steps, experts, layers=1):
    """Counts whose experts rise and fall together: each step mixes three kinds of traffic."""
    kinds = rng.lognormal(0, 1, (3, layers, experts))
    mixed = np.tensordot(rng.dirichlet([0.7] * 3, steps), kinds, 1) * rng.uniform(20, 60, (steps, 1, 1))
    return rng.poisson(mixed)


def stepped(rules, seed, steps=5, **limits):
    """A problem of one layer under the rules of that name."""
    gpus, experts, slots, switches = SMALL_RULES[rules]
    windows = steps_of(np.random.default_rng(seed), steps, experts)
    return PlacementProblem(Trace(windows), gpus, slots, **switches, **limits)


def step_costs(problem):
    """``[placements]`` sums over steps of the fullest GPU, limits aside; and ``[placements, gpus, experts]`` copies."""
    rules = problem.allow_colocated, problem.allow_empty_slots
    every = layouts(problem.num_experts, problem.num_gpus, problem.slots_per_gpu, *rules)
    if problem.hierarchical:
        every = [gpus for gpus in every if keeps_groups(problem, gpus)]
    held = np.array(every)
    copies = (held[..., None] == np.arange(problem.num_experts)).sum(axis=2)
    share = copies / copies.sum(axis=1, keepdims=True)
    return np.einsum("nge,te->ntg", share, problem.steps[:, 0]).max(axis=2).sum(axis=1), copies


def least_cost(problem):
    """The least such sum within the limit of moves."""
    cost, copies = step_costs(problem)
    if problem.max_moves is not None:
        moves = np.maximum(copies - problem.reference.copies, 0).sum(axis=(1, 2))
        cost = cost[moves <= problem.max_moves]
    return cost.min()


def least_partition(steps, size):
    """The same for partitions ``[steps, experts]`` into GPUs of ``size``, of which there may be more."""
    experts = steps.shape[1]
    found = []

    def extend(rest, most):
        if not rest:
            found.append(most)
            return
        for others in combinations(rest[1:], size - 1):
            left = tuple(e for e in rest[1:] if e not in others)
            extend(left, np.maximum(most, steps[:, [rest[0], *others]].sum(axis=1)))

    extend(tuple(range(experts)), np.zeros(len(steps)))
    return min(most.sum() for most in found)
