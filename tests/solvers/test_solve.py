"""``solve`` must give the optimum of every variant, prove full-scale layers, and be honest when it cannot."""

import numpy as np
import pytest

from moeopt import LoadMatrix, Placement, PlacementProblem, SolveStatus, metrics, verify
from moeopt.balancers import contiguous, eplb
from solvers import SOLVERS, solve, solve_brute_force
from tests.instances import INSTANCES
from tests.solvers.problems import random_problem

DEEPSEEK = ["decode_in1000out1000", "decode_in1800out100", "prefill_in1024", "prefill_in2000out100"]
EASY = [(8, 256), (16, 256), (8, 288), (16, 288), (32, 288), (36, 288), (288, 288)]


def test_solve_comes_first_among_the_exact_methods():
    assert next(iter(SOLVERS)) == "solve"


@pytest.mark.parametrize("block", range(6))
def test_it_agrees_with_brute_force_on_all_variants(block):
    for seed in range(500 + block * 10, 510 + block * 10):
        problem = random_problem(seed)
        oracle, solution = solve_brute_force(problem, tolerance=0), solve(problem, tolerance=0)
        assert solution.status == oracle.status, seed
        if oracle.placement is not None:
            problem.check(solution.placement)
            assert solution.objective[0] == pytest.approx(oracle.objective[0], rel=1e-6, abs=1e-9), seed
            assert solution.lower_bound[0] <= oracle.objective[0] * (1 + 1e-12), seed


def test_where_tokens_go_to_any_copy_a_layer_too_large_to_enumerate_is_closed_and_checked():
    load = np.random.default_rng(0).lognormal(5, 1, 16).astype(int)
    problem = PlacementProblem([load], 9, 27, split="optimal")
    solution = solve(problem, time_limit=20)
    assert solution.is_optimal
    assert verify(problem, solution).ok
    assert solution.makespan[0] < metrics.makespan(metrics.gpu_load([load], solution.placement))[0]


@pytest.mark.parametrize("trace", DEEPSEEK)
@pytest.mark.parametrize(("gpus", "slots"), EASY)
def test_full_scale_settings_are_proven_for_every_layer(recording, trace, gpus, slots):
    problem = PlacementProblem(recording(f"deepseek-v3/{trace}"), gpus, slots, allow_empty_slots=True)
    solution = solve(problem, time_limit=5)
    problem.check(solution.placement)
    assert solution.is_optimal
    assert (solution.gap <= 1e-4).all()
    assert (solution.makespan <= metrics.makespan(metrics.gpu_load(problem.load, eplb(problem)))).all()
    assert all(solution.certificate)


@pytest.mark.parametrize(("gpus", "slots"), [(32, 256), (64, 256), (128, 256), (72, 288), (64, 320)])
def test_harder_settings_are_proven_on_some_layers_of_a_trace(recording, gpus, slots):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024")[::10], gpus, slots, allow_empty_slots=True)
    assert solve(problem, time_limit=20).is_optimal


def test_a_layer_out_of_time_is_feasible_with_an_honest_bound(recording):
    problem = PlacementProblem(recording("deepseek-v3/decode_in1800out100")[:2], 160, 320, allow_empty_slots=True)
    solution = solve(problem, time_limit=0.01, tolerance=0)
    problem.check(solution.placement)
    assert solution.status == (SolveStatus.FEASIBLE,) * 2
    assert (solution.lower_bound <= solution.makespan).all()
    assert (solution.makespan <= metrics.makespan(metrics.gpu_load(problem.load, eplb(problem)))).all()


@pytest.mark.parametrize(("gpus", "slots"), [(8, 64), (16, 64), (32, 64), (64, 64), (8, 72), (16, 80)])
def test_olmoe_is_proven_at_the_sensible_settings(recording, gpus, slots):
    problem = PlacementProblem(recording("olmoe/olmoe_github"), gpus, slots, allow_empty_slots=True)
    assert solve(problem, time_limit=30).is_optimal


def test_groups_and_nodes_are_kept_at_full_scale(recording):
    load = recording("deepseek-v3/prefill_in1024")[:4]
    problem = PlacementProblem(load, 32, 288, num_nodes=4, num_groups=8, allow_empty_slots=True)
    solution = solve(problem, time_limit=0.5)
    problem.check(solution.placement)
    assert (solution.makespan <= metrics.makespan(metrics.gpu_load(load, eplb(problem)))).all()


def test_a_better_hint_is_not_lost():
    problem = PlacementProblem([[3, 3, 2, 2, 2, 0]], 2)
    start = Placement([[0, 1, 5, 2, 3, 4]], 6, 2)
    assert solve(problem, start=start, tolerance=0).makespan.tolist() == [6]


def test_an_optimum_is_labelled_to_move_little():
    load = LoadMatrix(np.random.default_rng(0).integers(1, 50, (3, 16)))
    plain = PlacementProblem(load, 4)
    home = contiguous(plain)
    known = solve(PlacementProblem(load, 4, reference=home))
    assert (known.moves <= metrics.moves(home, solve(plain).placement)).all()
    assert known.makespan == pytest.approx(solve(plain).makespan, rel=1e-4)


@pytest.mark.parametrize("name", ["a ceiling too low", "one swap away, one move allowed", "groups stay on their node"])
def test_layers_in_parallel_give_the_same(name):
    problem = INSTANCES[name].problem
    twice = problem[[0, 0]]
    alone, together = solve(twice), solve(twice, jobs=2)
    assert alone.status == together.status
    assert np.array_equal(alone.objective, together.objective, equal_nan=True)


@pytest.mark.parametrize(("items", "sets"), [(1000, 100), (10_000, 100), (20_000, 2000)])
def test_many_items_in_sets_of_equal_size_reach_the_rounded_up_mean(items, sets):
    loads = np.random.default_rng(items).integers(1, 1000, (1, items))
    solution = solve(PlacementProblem(loads, sets), tolerance=0, time_limit=60)
    assert solution.makespan[0] == np.ceil(loads.sum() / sets)
    assert solution.is_optimal
