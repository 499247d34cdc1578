"""The front of moves against balance: non-dominated, never below its bound, and what repair gives at each ceiling."""

import numpy as np
import pytest

from moeopt import InputError, PlacementProblem, metrics, moves_front
from moeopt.balancers import contiguous, eplb, relabel, search
from moeopt.traces import generate
from solvers import solve_brute_force


@pytest.fixture(scope="module")
def problem():
    old, new = (generate("decode", num_layers=6, num_experts=64, seed=seed).total() for seed in (1, 2))
    mixed = (0.8 * old.values + 0.2 * new.values).round().astype(int)
    return PlacementProblem(mixed, 8, 72, reference=eplb(PlacementProblem(old, 8, 72)))


@pytest.fixture(scope="module")
def front(problem):
    return moves_front(problem)


def test_moves_fall_and_makespans_rise_with_the_ceiling(front):
    assert front.moves.shape == (6, 8)
    assert (np.diff(front.moves, axis=1) <= 0).all()
    assert (front.makespan <= front.best[:, None] * (1 + front.ceilings) * (1 + 1e-8)).all()


def test_every_placement_is_feasible_and_its_numbers_are_the_evaluators(problem, front):
    for point, placement in enumerate(front.placements):
        problem.check(placement)
        assert metrics.moves(problem.reference, placement).tolist() == front.moves[:, point].tolist()
        assert np.array_equal(metrics.makespan(metrics.gpu_load(problem.load, placement)), front.makespan[:, point])


def test_a_bound_stands_beside_every_point_and_none_is_beaten(front):
    assert (front.lower_bound <= front.moves).all()
    assert front.proven.tolist() == (front.lower_bound == front.moves).tolist()


def test_few_moves_go_a_long_way(problem, front):
    relabelled = metrics.moves(problem.reference, relabel(problem, start=search(problem)))
    at_five_percent = front.moves[:, front.ceilings.tolist().index(0.05)]
    assert at_five_percent.sum() < relabelled.sum() / 3


def test_a_layer_is_a_table(problem, front):
    table = front[2]
    assert table.layer.tolist() == [problem.load.layer_ids[2]] * 8
    assert table.moves.tolist() == front.moves[2].tolist()
    assert len(front) == 6


@pytest.mark.parametrize("seed", range(10))
def test_small_fronts_are_near_the_optimum_and_never_better(seed):
    rng = np.random.default_rng(seed)
    load = rng.integers(1, 50, (1, 6))
    free = PlacementProblem(load, 2, 8, reference=[[*range(6), *rng.integers(0, 6, 2)]])
    front = moves_front(free, (0.0, 0.05, 0.2))
    for point, above in enumerate(front.ceilings):
        capped = PlacementProblem(load, 2, 8, reference=free.reference, max_makespan=front.best * (1 + above))
        fewest = solve_brute_force(capped, tolerance=0).moves[0]
        assert fewest <= front.moves[0, point] <= fewest + 2


def test_ceilings_below_what_can_be_reached_are_unknown_not_zero(problem):
    front = moves_front(problem, (0.0, 0.5), best=problem.load.values.sum(axis=1) / 8 * 0.9)
    assert np.isnan(front.moves[:, 0]).all()
    assert (front.placements[0].phy2log == -1).all()
    assert not np.isnan(front.moves[:, 1]).any()


def test_ceilings_are_relative_to_the_near_optimum_that_is_given(problem):
    start = eplb(PlacementProblem(problem.load, 8, 72))
    front = moves_front(problem, (0.0, 0.05), start=start)
    assert np.array_equal(front.best, metrics.makespan(metrics.gpu_load(problem.load, start)))
    assert (front.moves[:, 0] <= metrics.moves(problem.reference, relabel(problem, start=start))).all()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"reference": None}, {}, "needs a problem with a reference"),
        ({"max_moves": 3}, {}, "leave max_moves and max_makespan out"),
        ({}, {"ceilings": ()}, "at least one"),
        ({}, {"ceilings": (-0.1,)}, "ceilings must be >= 0"),
        ({}, {"ceilings": ("x",)}, "ceilings must be a finite number"),
        ({}, {"best": [1.0, 2.0]}, r"best must be \[1\]"),
        ({}, {"start": [[0, 0, 1, 2]]}, "expert 3 has no slot"),
    ],
)
def test_bad_input_is_named(change, arguments, message):
    rules = {"reference": contiguous(PlacementProblem([[4, 3, 2, 1]], 2))} | change
    with pytest.raises(InputError, match=message):
        moves_front(PlacementProblem([[4, 3, 2, 1]], 2, **rules), **arguments)
