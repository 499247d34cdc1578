"""Empty slots are filled without a rule broken, and without a GPU fuller than need be."""

from itertools import product

import numpy as np
import pytest

from moeopt import Placement, PlacementError, PlacementProblem, balancers, metrics
from moeopt.traces import generate


def makespan(problem, placement):
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def best_filled(problem, placement):
    """The least makespan of all ways to fill the slots of one layer."""
    empty = np.flatnonzero(placement.phy2log[0] < 0)
    least = np.inf
    for experts in product(range(problem.num_experts), repeat=len(empty)):
        row = placement.phy2log[0].copy()
        row[empty] = experts
        candidate = Placement(row, problem.num_experts, problem.num_gpus)
        if problem.allow_colocated or (candidate.copies <= 1).all():
            least = min(least, makespan(problem, candidate)[0])
    return least


def some_problem(seed):
    rng = np.random.default_rng(seed)
    gpus, size = rng.integers(2, 4), rng.integers(2, 4)
    experts = int(rng.integers(max(size, gpus * size - 3), gpus * size))
    row = np.full(gpus * size, -1)
    row[rng.permutation(gpus * size)[:experts]] = rng.permutation(experts)
    colocated = bool(rng.integers(2))
    problem = PlacementProblem(
        rng.integers(0, 30, experts), gpus, gpus * size, allow_colocated=colocated, allow_empty_slots=True
    )
    return problem, Placement(row, experts, gpus)


@pytest.mark.parametrize("seed", range(60))
def test_a_gpu_gets_fuller_only_where_no_way_to_fill_avoids_it(seed):
    problem, placement = some_problem(seed)
    least = best_filled(problem, placement)
    if np.isinf(least):
        with pytest.raises(PlacementError, match=r"layer 0: GPU \d holds every expert that it may hold"):
            placement.fill(problem)
        return
    full = placement.fill(problem)
    kept = placement.phy2log >= 0
    assert (full.phy2log[kept] == placement.phy2log[kept]).all()
    assert (full.phy2log >= 0).all()
    assert makespan(problem, full)[0] <= max(least, makespan(problem, placement)[0]) * (1 + 1e-9)


def test_a_problem_that_forbids_empty_slots_is_what_they_are_filled_for():
    problem = PlacementProblem([[3, 2, 1]], 2, 4)
    assert Placement([[0, 1, -1, 2]], 3, 2).fill(problem).phy2log.min() >= 0


def test_groups_stay_on_their_nodes():
    problem = PlacementProblem([[9, 5, 4, 2]], 4, 8, num_nodes=2, num_groups=2, allow_empty_slots=True)
    placement = Placement([[0, -1, 1, -1, 2, -1, 3, -1]], 4, 4)
    full = placement.fill(problem)
    problem.check(full)
    assert set(full.phy2log[0, :4].tolist()) == {0, 1}


def test_layers_without_empty_slots_stay_as_they_are_and_others_keep_the_makespan_at_full_size():
    load = generate(num_layers=4, num_experts=64).total()
    problem = PlacementProblem(load, 8, 80, allow_empty_slots=True)
    placement = balancers.hot_replication(problem)
    assert (placement.phy2log < 0).any(axis=1).all()
    mixed = Placement(np.vstack([placement.phy2log[:2], balancers.eplb(problem).phy2log[2:]]), 64, 8)
    full = mixed.fill(problem)
    assert np.array_equal(full.phy2log[2:], mixed.phy2log[2:])
    assert (makespan(problem, full) <= makespan(problem, mixed) * (1 + 1e-9)).all()


def test_a_placement_that_breaks_the_problem_is_not_filled():
    problem = PlacementProblem([[3, 2, 1]], 2, 4, allow_empty_slots=True)
    with pytest.raises(PlacementError, match="layer 0: expert 2 has no slot"):
        Placement([[0, 1, -1, 0]], 3, 2).fill(problem)
