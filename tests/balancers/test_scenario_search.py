"""Scenario search: the least sum over steps of the fullest GPU, within a limit of moves or without."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from moeopt import InputError, Placement, PlacementError, PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import contiguous, eplb, local_search, scenario_search, search
from moeopt.traces import Trace
from tests.instances import SMALL_RULES
from tests.steps_oracle import least_cost, least_partition, stepped, steps_of

ROUNDING = 1e-9


def cost(problem, placement):
    return metrics.step_makespans(problem.steps, placement).sum(axis=0)


@pytest.mark.parametrize("rules", SMALL_RULES)
def test_small_layers_of_every_rule_come_within_a_part_in_a_thousand_of_the_optimum(rules):
    for seed in range(2):
        problem = stepped(rules, seed)
        placement = scenario_search(problem)
        problem.check(placement)
        optimum = least_cost(problem)
        assert optimum * (1 - ROUNDING) <= cost(problem, placement)[0] <= optimum * 1.001


@pytest.mark.parametrize(("experts", "gpus"), [(8, 4), (12, 4)])
def test_partitions_of_sixteen_steps_come_within_a_part_in_a_thousand_of_the_optimum(experts, gpus):
    windows = steps_of(np.random.default_rng(experts), 16, experts, layers=2)
    problem = PlacementProblem(Trace(windows), gpus)
    reached = cost(problem, scenario_search(problem))
    for layer in range(2):
        optimum = least_partition(windows[:, layer], experts // gpus)
        assert optimum * (1 - ROUNDING) <= reached[layer] <= optimum * 1.001


@pytest.fixture(scope="module")
def drifting():
    """Two layers of 32 experts on 8 GPUs and 40 slots, 16 steps and the 16 that follow."""
    windows = steps_of(np.random.default_rng(7), 32, 32, layers=2)
    return PlacementProblem(Trace(windows[:16]), 8, 40), PlacementProblem(Trace(windows[16:]), 8, 40)


def test_it_is_better_on_its_steps_than_what_looks_at_the_sum(drifting):
    problem, _ = drifting
    found = cost(problem, scenario_search(problem))
    assert (found < cost(problem, search(problem)) * 0.99).all()
    assert (found < cost(problem, eplb(problem)) * 0.99).all()


def test_it_is_never_worse_than_the_start_and_looks_at_the_steps_alone(drifting):
    problem, _ = drifting
    for start in (contiguous(problem), eplb(problem), scenario_search(problem)):
        assert (cost(problem, scenario_search(problem, start=start)) <= cost(problem, start)).all()
    best = scenario_search(problem)
    assert (cost(problem, scenario_search(problem, start=best, budget=0.0)) == cost(problem, best)).all()


@pytest.mark.parametrize("budget", [0.0, 0.02, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_budget_never_makes_it_worse(drifting, budget):
    problem, _ = drifting
    start = local_search(problem)
    found = [cost(problem, scenario_search(problem, budget=seconds)) for seconds in (budget, budget + 0.3)]
    assert (found[0] <= cost(problem, start)).all()
    assert (found[1] <= found[0]).all()


def test_the_same_arguments_give_the_same_answer_for_all_layers_together_and_alone(drifting):
    problem, _ = drifting
    together = scenario_search(problem, seed=3)
    assert together == scenario_search(problem, seed=3)
    for layer in range(problem.num_layers):
        assert together[layer] == scenario_search(problem[layer], seed=3)
    assert together != scenario_search(problem, seed=4)


def test_doubling_every_count_changes_nothing(drifting):
    problem, _ = drifting
    twice = PlacementProblem(Trace(problem.steps * 2), 8, 40)
    assert scenario_search(twice) == scenario_search(problem)


def test_without_steps_or_with_one_the_problem_is_that_of_the_sum():
    problem = stepped("two slots each", 0)
    for sums in (PlacementProblem(problem.load.values, 3, 6), PlacementProblem(Trace(problem.steps[:1]), 3, 6)):
        assert scenario_search(sums, seed=5) == search(sums, seed=5)


def test_layers_without_load_and_steps_without_tokens_are_no_trouble():
    windows = np.zeros((4, 2, 8), dtype=int)
    windows[1, 1] = 5
    problem = PlacementProblem(Trace(windows), 4, 12)
    problem.check(scenario_search(problem))
    problem.check(scenario_search(replace(problem, reference=contiguous(problem), max_moves=3)))


def single_changes(problem, reference):
    """Placements one swap or one replacement away from the reference, last copies kept."""
    row, k = reference.phy2log[0], problem.slots_per_gpu
    for p, q in combinations(range(problem.slots), 2):
        if p // k != q // k:
            other = row.copy()
            other[p], other[q] = row[q], row[p]
            yield other
    for p in range(problem.slots):
        for expert in range(-1 if problem.allow_empty_slots else 0, problem.num_experts):
            other = row.copy()
            other[p] = expert
            if (np.bincount(other[other >= 0], minlength=problem.num_experts) > 0).all():
                yield other


def best_single_change(problem):
    """Least cost of a placement that is one change away and feasible."""
    best = cost(problem, problem.reference)[0]
    for row in single_changes(problem, problem.reference):
        placement = Placement(row, problem.num_experts, problem.num_gpus)
        try:
            problem.check(placement)
        except PlacementError:
            continue
        best = min(best, cost(problem, placement)[0])
    return best


def drifted(rules, seed, max_moves):
    """A small problem whose steps have changed since its reference was good."""
    return stepped(rules, seed, reference=search(stepped(rules, seed + 50)), max_moves=max_moves)


@pytest.mark.parametrize("rules", SMALL_RULES)
@pytest.mark.parametrize("max_moves", [0, 1, 2])
def test_within_one_or_two_moves_no_swap_or_replacement_is_better(rules, max_moves):
    for seed in range(2):
        problem = drifted(rules, seed, max_moves)
        placement = scenario_search(problem)
        problem.check(placement)
        reached = cost(problem, placement)[0]
        assert least_cost(problem) * (1 - ROUNDING) <= reached <= best_single_change(problem) * (1 + ROUNDING)
        if max_moves < 2 and not problem.allow_empty_slots:
            assert reached == pytest.approx(least_cost(problem), rel=ROUNDING)


@pytest.mark.parametrize("max_moves", [1, 2])
def test_on_eight_gpus_no_swap_or_replacement_is_better_either(drifting, max_moves):
    problem, later = drifting
    limited = replace(later[0], reference=eplb(problem)[0], max_moves=max_moves)
    reached = cost(limited, scenario_search(limited))[0]
    best = best_single_change(limited)
    assert reached <= best * (1 + ROUNDING)
    assert max_moves > 1 or reached == pytest.approx(best, rel=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("rules", SMALL_RULES)
def test_within_a_few_moves_small_layers_come_near_the_optimum(rules):
    for seed in range(2):
        problem = drifted(rules, seed, 3)
        placement = scenario_search(problem)
        problem.check(placement)
        optimum = least_cost(problem)
        assert optimum * (1 - ROUNDING) <= cost(problem, placement)[0] <= optimum * 1.001


def test_more_moves_are_never_worse_than_two_and_a_start_within_the_limit_is_kept(drifting):
    problem, later = drifting
    reference = search(problem)
    limited = [replace(later, reference=reference, max_moves=moves) for moves in (2, 4, 8)]
    two, four, eight = (scenario_search(one) for one in limited)
    for one, placement in zip(limited, (two, four, eight), strict=True):
        one.check(placement)
    assert (cost(later, two) <= cost(later, reference)).all()
    assert (cost(later, four) <= cost(later, scenario_search(limited[0], budget=0.0)) * (1 + ROUNDING)).all()
    assert (cost(later, scenario_search(limited[2], start=four, budget=0.0)) <= cost(later, four)).all()
    assert (cost(later, eight) < cost(later, reference) * 0.99).all()


def test_what_it_does_not_take_is_refused():
    problem = stepped("replicated", 0)
    with pytest.raises(UnsupportedError, match="scenario_search minimises what steps cost; with max_makespan"):
        scenario_search(replace(problem, reference=search(problem), max_makespan=1e9))
    broken = Placement([[0, 0, 1, 1, 2, 2]], 4, 2)
    with pytest.raises(UnsupportedError, match="scenario_search starts from the reference, which breaks"):
        scenario_search(replace(problem, reference=broken, max_moves=2))
    with pytest.raises(PlacementError, match="expert 3 has no slot"):
        scenario_search(problem, start=broken)


@pytest.mark.parametrize("budget", [-1.0, float("nan"), "1", True])
@pytest.mark.parametrize("steps", [True, False])
def test_bad_arguments_are_named(budget, steps):
    problem = stepped("replicated", 0)
    problem = problem if steps else PlacementProblem(problem.load.values, 2, 6)
    with pytest.raises(InputError, match="budget"):
        scenario_search(problem, budget=budget)
    with pytest.raises(InputError, match="seed"):
        scenario_search(problem, seed=-1)
