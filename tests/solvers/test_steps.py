"""solve_steps: the sum over steps of the fullest GPU, against all placements and against the scenario search."""

from dataclasses import replace

import numpy as np
import pytest

from moeopt import InputError, PlacementError, PlacementProblem, SolveStatus, Stop, UnsupportedError
from moeopt.balancers import contiguous, scenario_search, search
from moeopt.bounds import steps_bound
from moeopt.metrics import step_makespans
from moeopt.traces import Trace
from solvers import solve_steps
from solvers.steps import MAX_ENTRIES
from tests.instances import SMALL_RULES
from tests.steps_oracle import least_cost, least_partition, stepped, steps_of


@pytest.mark.parametrize("rules", SMALL_RULES)
@pytest.mark.parametrize("unit", [1, pytest.param(0.37, marks=pytest.mark.slow)])
def test_small_layers_of_every_rule_are_proven_optimal(rules, unit):
    problem = stepped(rules, 0)
    problem = replace(problem, load=Trace(problem.steps * unit))
    found = solve_steps(problem)
    problem.check(found.placement)
    optimum = least_cost(problem)
    assert found.status == (SolveStatus.OPTIMAL,)
    assert found.step_cost[0] == pytest.approx(optimum, rel=1e-4)
    assert optimum * (1 - 1e-4) <= found.lower_bound[0] <= optimum * (1 + 1e-12)


@pytest.mark.parametrize("rules", ["partition", "replicated", "empty slots", "nodes and groups"])
@pytest.mark.parametrize("max_moves", [0, 3])
def test_within_a_limit_of_moves_they_are_proven_optimal_too(rules, max_moves):
    problem = stepped(rules, 1, reference=search(stepped(rules, 51)), max_moves=max_moves)
    found = solve_steps(problem)
    problem.check(found.placement)
    assert found.status == (SolveStatus.OPTIMAL,)
    assert found.step_cost[0] == pytest.approx(least_cost(problem), rel=1e-4)


def test_twelve_experts_in_sixteen_steps_are_proven_optimal():
    windows = steps_of(np.random.default_rng(2), 16, 12, layers=2)
    problem = PlacementProblem(Trace(windows), 4)
    found = solve_steps(problem)
    assert found.status == (SolveStatus.OPTIMAL,) * 2
    optimum = [least_partition(windows[:, layer], 3) for layer in range(2)]
    assert found.step_cost == pytest.approx(optimum, rel=1e-4)
    assert (found.lower_bound <= optimum).all()
    assert str(found).startswith("StepsSolution of 2 layers, 16 steps: 2 OPTIMAL\n")


def test_a_time_limit_leaves_an_interval_that_holds_the_optimum():
    windows = steps_of(np.random.default_rng(4), 8, 12)
    problem = PlacementProblem(Trace(windows), 4)
    optimum = least_partition(windows[:, 0], 3)
    found = solve_steps(problem, time_limit=1e-6)
    assert found.stop == (Stop.TIME_LIMIT,)
    assert found.lower_bound[0] <= optimum <= found.step_cost[0]
    assert found.lower_bound[0] >= steps_bound(problem).value[0]
    assert found.step_cost[0] <= step_makespans(windows, scenario_search(problem)).sum()


def test_a_model_that_would_be_too_large_is_not_built_and_says_so():
    windows = steps_of(np.random.default_rng(4), 40, 64)
    problem = PlacementProblem(Trace(windows), 32, 96)
    found = solve_steps(problem)
    assert found.stop == (Stop.SKIPPED,)
    assert f"more than {MAX_ENTRIES}" in found.note[0]
    assert found.status == (SolveStatus.FEASIBLE,)
    assert found.lower_bound[0] < found.step_cost[0]


def test_the_answer_is_never_worse_than_the_hint():
    problem = stepped("two slots each", 3)
    best = solve_steps(problem).placement
    found = solve_steps(problem, start=best.phy2log.tolist(), time_limit=1e-6)
    assert found.step_cost <= step_makespans(problem.steps, best).sum(axis=0)
    with pytest.raises(PlacementError, match="has no slot"):
        solve_steps(problem, start=[[0, 0, 1, 1, 2, 2]])


def test_what_it_does_not_take_is_refused():
    problem = stepped("replicated", 0)
    with pytest.raises(InputError, match="knows its steps"):
        solve_steps(PlacementProblem([[3, 1]], 2))
    with pytest.raises(UnsupportedError, match="solve_steps minimises what steps cost; with max_makespan"):
        solve_steps(replace(problem, reference=contiguous(problem), max_makespan=1e9))
    with pytest.raises(UnsupportedError, match="split='optimal'"):
        solve_steps(replace(problem, split="optimal"))
    for name, value in (("time_limit", 0), ("tolerance", -1), ("workers", 0), ("seed", "x"), ("jobs", 0)):
        with pytest.raises(InputError, match=name):
            solve_steps(problem, **{name: value})
