"""Brute force, CP-SAT, HiGHS and CBC must find the same optimum; bounds must never exceed it."""

import numpy as np
import pytest

from moeopt import Placement, PlacementProblem, SolveStatus, UnsupportedError, bounds, metrics
from moeopt.balancers import search
from solvers import SOLVERS, solve, solve_brute_force, solve_cpsat, solve_milp
from tests.instances import INSTANCES
from tests.solvers.problems import GENERAL, SPECIAL, random_problem

RELATIVE = 1e-6


def _assert_same(solution, oracle):
    assert solution.status == oracle.status, (solution.note, solution.objective, oracle.objective)
    if oracle.status[0] is SolveStatus.INFEASIBLE:
        assert solution.placement is None
        assert np.isnan(solution.lower_bound[0])
        return
    assert solution.objective[0] == pytest.approx(oracle.objective[0], rel=RELATIVE, abs=1e-9)
    assert solution.lower_bound[0] <= oracle.objective[0] * (1 + 1e-12)


@pytest.mark.parametrize("solver", GENERAL)
@pytest.mark.parametrize("name", INSTANCES)
def test_every_back_end_knows_the_optimum_of_every_named_instance(solver, name):
    problem, optimum = INSTANCES[name].problem, INSTANCES[name].optimum
    solution = SOLVERS[solver](problem, tolerance=0)
    if optimum is None:
        assert solution.status == (SolveStatus.INFEASIBLE,)
        return
    assert solution.status == (SolveStatus.OPTIMAL,)
    assert solution.objective[0] == pytest.approx(optimum, rel=RELATIVE)
    problem.check(solution.placement)


@pytest.mark.parametrize("solver", SPECIAL)
@pytest.mark.parametrize("name", INSTANCES)
def test_a_special_method_refuses_a_named_instance_or_knows_its_optimum(solver, name):
    problem, optimum = INSTANCES[name].problem, INSTANCES[name].optimum
    taken = SPECIAL[solver](problem) and not problem.hierarchical and not problem.splits
    if not taken or problem.max_moves is not None or problem.objective == "moves":
        with pytest.raises(UnsupportedError):
            SOLVERS[solver](problem)
        return
    solution = SOLVERS[solver](problem, time_limit=1)
    problem.check(solution.placement)
    assert solution.lower_bound[0] <= optimum * (1 + 1e-12)
    assert optimum * (1 - 1e-12) <= solution.makespan[0]


def _agree_on(seeds, solvers):
    for seed in seeds:
        problem = random_problem(seed)
        oracle = solve_brute_force(problem, tolerance=0)
        for solver in solvers:
            _assert_same(SOLVERS[solver](problem, tolerance=0), oracle)


@pytest.mark.parametrize("block", range(6))
def test_cpsat_and_highs_agree_with_brute_force(block):
    _agree_on(range(block * 10, block * 10 + 10), ["cpsat", "highs"])


@pytest.mark.parametrize("block", range(3))
def test_cbc_agrees_with_brute_force(block):
    _agree_on(range(block * 10, block * 10 + 10), ["cbc"])


def test_cbcs_own_claim_of_optimality_makes_a_layer_optimal():
    problem = PlacementProblem([[1, 4, 6, 6, 2, 11]], 2)
    assert bounds.lower_bound(problem).value[0] < 16
    for gap in (0.0, 1e-4, 1e-2):
        solution = solve_milp(problem, backend="cbc", tolerance=gap)
        assert solution.is_optimal
        assert solution.bound_source == ("cbc",)
        assert solution.makespan[0] <= 16 * (1 + gap)


@pytest.mark.parametrize("seed", range(20))
def test_a_ceiling_that_is_the_float_makespan_of_a_placement_is_feasible_for_all(seed):
    """And so is one that is lower by less than the slack that ``problem.check`` allows."""
    rng = np.random.default_rng(seed)
    load = rng.lognormal(1, 2, 5)
    plain = PlacementProblem([load], 2, 6)
    row = rng.permutation(np.append(np.arange(5), rng.integers(5)))
    reached = metrics.makespan(metrics.gpu_load(plain.load, Placement(row, 5, 2)))
    reference = rng.permutation(np.append(np.arange(5), rng.integers(5)))
    for ceiling in (reached, reached * (1 - 5e-10)):
        problem = PlacementProblem([load], 2, 6, reference=reference, max_makespan=ceiling)
        problem.check(Placement(row, 5, 2))
        answers = [
            solve_brute_force(problem, tolerance=0),
            solve_cpsat(problem, tolerance=0),
            solve(problem, tolerance=0),
        ]
        assert [answer.status[0] for answer in answers] == [SolveStatus.OPTIMAL] * 3
        assert len({answer.moves[0] for answer in answers}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_all_four_agree_on_two_hundred_more(block):
    _agree_on(range(1000 + block * 10, 1000 + block * 10 + 10), ["cpsat", "highs", "cbc"])


def _agree_on_mixtral(load, gpus, slots):
    problem = PlacementProblem(load, gpus, slots, allow_empty_slots=True)
    cpsat, highs = solve_cpsat(problem, time_limit=120), solve_milp(problem, time_limit=120)
    assert cpsat.is_optimal
    assert highs.is_optimal
    assert cpsat.makespan == pytest.approx(highs.makespan, rel=2e-4)


@pytest.mark.parametrize("trace", ["mixtral/mistral_c4", "mixtral/mistral_github"])
@pytest.mark.parametrize(("gpus", "slots"), [(2, 8), (4, 8), (8, 8), (2, 10)])
def test_cpsat_and_highs_agree_on_mixtral(recording, trace, gpus, slots):
    _agree_on_mixtral(recording(trace), gpus, slots)


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["mixtral/mistral_c4", "mixtral/mistral_github"])
@pytest.mark.parametrize(("gpus", "slots"), [(2, 12), (4, 12), (8, 16)])
def test_cpsat_and_highs_agree_on_mixtral_with_more_redundancy(recording, trace, gpus, slots):
    """Without the first layer, whose proof on 8 GPUs takes as long as the time limit."""
    _agree_on_mixtral(recording(trace)[1:], gpus, slots)


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["olmoe/olmoe_c4", "olmoe/olmoe_arxiv", "olmoe/olmoe_github"])
def test_cpsat_and_highs_agree_on_olmoe(recording, trace):
    problem = PlacementProblem(recording(trace), 8)
    start = search(problem)
    cpsat = solve_cpsat(problem, start=start, time_limit=60)
    highs = solve_milp(problem, start=start, time_limit=60)
    assert cpsat.is_optimal
    assert highs.is_optimal
    assert cpsat.makespan == pytest.approx(highs.makespan, rel=2e-4)
    assert (np.maximum(cpsat.lower_bound, highs.lower_bound) <= np.minimum(cpsat.makespan, highs.makespan)).all()


def test_adding_a_slot_per_gpu_never_raises_the_optimum():
    for seed in range(200, 215):
        loads = np.random.default_rng(seed).integers(1, 100, 6)
        values = [
            solve_cpsat(PlacementProblem([loads], 2, slots, allow_empty_slots=True), tolerance=0).makespan[0]
            for slots in (6, 8, 10)
        ]
        assert values == sorted(values, reverse=True)


def test_permuting_the_experts_leaves_the_optimum():
    rng = np.random.default_rng(4)
    for _ in range(10):
        loads = rng.integers(1, 100, 7)
        first = solve_cpsat(PlacementProblem([loads], 4, 8), tolerance=0).makespan[0]
        assert solve_milp(PlacementProblem([rng.permutation(loads)], 4, 8), tolerance=0).makespan[0] == pytest.approx(
            first
        )
