"""What every exact method promises beside the optimum: statuses, starts, silence, limits."""

from dataclasses import replace

import numpy as np
import pytest

from moeopt import (
    Bound,
    InputError,
    Placement,
    PlacementError,
    PlacementProblem,
    Solution,
    SolveStatus,
    Stop,
    UnsupportedError,
    bounds,
    metrics,
)
from moeopt.balancers import contiguous, eplb, local_search
from moeopt.traces import generate
from solvers import SOLVERS, cpsat, milp, solve_brute_force, solve_cpsat, solve_milp
from solvers.drive import Limits
from solvers.formulation import canonical, layer_model
from tests.solvers.problems import GENERAL

HARD = np.random.default_rng(0).lognormal(5, 0.4, (1, 48)).astype(int)
"""Six experts per GPU, mildly skewed: no back end proves it in a blink."""


@pytest.mark.parametrize("solver", ["cpsat", "highs", "cbc"])
def test_a_time_out_keeps_the_incumbent_and_an_honest_bound(solver):
    problem = PlacementProblem(HARD, 8)
    solution = SOLVERS[solver](problem, time_limit=0.2, tolerance=0)
    problem.check(solution.placement)
    assert solution.status[0] in (SolveStatus.FEASIBLE, SolveStatus.OPTIMAL)
    assert solution.lower_bound[0] >= HARD.sum() / 8
    assert solution.makespan[0] <= metrics.makespan(metrics.gpu_load(problem.load, local_search(problem)))[0]
    assert (solution.status[0] is SolveStatus.OPTIMAL) == (solution.gap[0] <= 1e-6)


@pytest.mark.parametrize("solver", ["cpsat", "highs", "cbc", "brute_force"])
def test_solvers_print_nothing(solver, capfd):
    SOLVERS[solver](PlacementProblem([[9, 5, 4, 2]], 2))
    assert capfd.readouterr() == ("", "")


HINTED = [
    PlacementProblem([[9, 5, 4, 2, 8, 1]], 2),
    PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, 8),
    PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, 8, allow_empty_slots=True, allow_colocated=False),
    PlacementProblem([[9, 5, 4, 2, 8, 1, 3, 3]], 4, 12, num_nodes=2, num_groups=4),
    PlacementProblem([[9, 5, 4, 2]], 2, 6, reference=[[0, 1, 2, 3, 0, 1]], max_moves=2),
    PlacementProblem([[9, 5, 4, 2]], 2, 6, reference=[[0, 1, 0, 3, 2, 1]], max_makespan=30.0),
    PlacementProblem([[0.3, 0.1, 0.7, 0.05, 0.31, 0.11]], 2),
    PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, 8, split="optimal"),
    PlacementProblem([[0.9, 0.5, 0.4, 2, 8, 1, 3, 3]], 4, 12, num_nodes=2, num_groups=4, split="optimal"),
    PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, 8, allow_empty_slots=True, allow_colocated=False, split="optimal"),
]


@pytest.mark.parametrize("problem", HINTED, ids=range(len(HINTED)))
def test_cpsat_accepts_the_placement_known_as_a_complete_hint(problem):
    start = problem.reference if problem.reference is not None else local_search(problem)
    lines: list[str] = []
    cpsat.solve_layer(problem, Solution(problem, start), Limits(), log=lines.append)
    assert "The solution hint is complete and is feasible" in "\n".join(lines)


@pytest.mark.parametrize("problem", HINTED, ids=range(len(HINTED)))
def test_highs_without_time_ends_with_the_start_it_was_given_and_with_nothing_without_one(problem):
    start = problem.reference if problem.reference is not None else local_search(problem)
    known_start = Solution(problem, start)
    found = []
    for known in (known_start, Solution(problem)):
        model = (milp.MilpFlowModel if problem.splits else milp.MilpModel)(layer_model(known))
        assert model.build(Limits())
        found.append(milp.run_highs(model, Limits(1e-9).started())[0])
    given, nothing = found
    assert nothing is None
    pairs = Placement(given, problem.num_experts, problem.num_gpus).copies, layer_model(known_start).start.copies
    # where tokens go to any copy, which expert fills the slots that are left over does not matter
    assert np.array_equal(*(copies > 0 if problem.splits else copies for copies in pairs))


def test_a_start_of_fractional_flows_never_exceeds_a_variable_by_its_rounding():
    for seed in range(60):
        problem = PlacementProblem(np.random.default_rng(seed).lognormal(0, 2, (1, 4)), 3, 6, split="optimal")
        assert milp.MilpFlowModel(layer_model(Solution(problem, eplb(problem)))).build(Limits())


HINTABLE = [name for name in GENERAL if name != "brute_force"]
"""Exact methods that a start changes."""


@pytest.mark.parametrize("solver", HINTABLE)
def test_a_result_is_never_worse_than_the_hint(solver):
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    start = contiguous(problem)
    solution = SOLVERS[solver](problem, start=start, time_limit=1e-3)
    assert solution.makespan[0] <= metrics.makespan(metrics.gpu_load(problem.load, start))[0]


@pytest.mark.parametrize("solver", HINTABLE)
def test_an_infeasible_hint_is_refused(solver):
    problem = PlacementProblem([[9, 5, 4, 2]], 2)
    with pytest.raises(PlacementError, match="expert 3 has no slot"):
        SOLVERS[solver](problem, start=Placement([[0, 1, 2, 2]], 4, 2))


@pytest.mark.parametrize("solver", GENERAL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit": 0}, "time_limit must be seconds > 0, or None for no limit, got 0"),
        ({"time_limit": -1.0}, "time_limit must be seconds > 0"),
        ({"time_limit": "1"}, "time_limit must be a finite number, got '1'"),
        ({"time_limit": float("inf")}, "time_limit must be a finite number, got inf"),
        ({"tolerance": -0.1}, "tolerance must be >= 0, got -0.1"),
        ({"tolerance": float("nan")}, "tolerance must be a finite number, got nan"),
        ({"tolerance": "x"}, "tolerance must be a finite number, got 'x'"),
        ({"tolerance": None}, "tolerance must be a finite number, got None"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"workers": 10**9}, "workers must be <= 256, got 1000000000"),
        ({"workers": 1.5}, "workers must be an integer, got 1.5"),
        ({"workers": True}, "workers must be an integer, got True"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"seed": 2**63}, "seed must be <= 2147483647"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
        ({"jobs": "2"}, "jobs must be an integer, got '2'"),
        ({"budget": 0}, "budget must be seconds > 0"),
    ],
)
def test_bad_arguments_are_named(solver, arguments, message):
    with pytest.raises(InputError, match=message):
        SOLVERS[solver](PlacementProblem([[1, 2]], 2), **arguments)


def test_an_unknown_milp_backend_is_named():
    with pytest.raises(InputError, match="highs, cbc, got 'gurobi'"):
        solve_milp(PlacementProblem([[1, 2]], 2), backend="gurobi")


@pytest.mark.parametrize("solver", GENERAL)
def test_layers_solved_side_by_side_give_what_one_by_one_gives(solver):
    problem = PlacementProblem([[9, 5, 4, 2], [1, 2, 3, 4], [7, 7, 1, 1]], 2)
    alone = SOLVERS[solver](problem, tolerance=0)
    together = SOLVERS[solver](problem, tolerance=0, jobs=2)
    assert np.array_equal(alone.makespan, together.makespan)
    assert alone.status == together.status
    assert alone[1].makespan.tolist() == [alone.makespan[1]]


def test_a_model_too_large_leaves_what_is_known_and_says_why():
    problem = PlacementProblem(generate("prefill", num_layers=1), 8, 384)
    for solver in ("cpsat", "highs"):
        solution = SOLVERS[solver](problem, tolerance=0)
        assert solution.status == (SolveStatus.FEASIBLE,)
        assert solution.stop == (Stop.SKIPPED,)
        assert "copy variables" in solution.note[0]
    with pytest.raises(UnsupportedError, match="solve_brute_force takes at most 12 experts"):
        solve_brute_force(problem)


@pytest.mark.parametrize("solver", HINTABLE)
def test_a_solution_as_hint_brings_its_bounds_along(solver):
    problem = PlacementProblem([[1, 4, 6, 6, 2, 11]], 2)
    assert bounds.lower_bound(problem).value.tolist() == [15.0]
    placed = Solution(problem, contiguous(problem), Bound([16.0], ("told",)))
    solution = SOLVERS[solver](problem, start=placed, tolerance=0)
    assert solution.is_optimal
    assert solution.lower_bound.tolist() == [16.0]
    assert solution.bound_source == ("told",)


def test_a_hint_brings_the_bounds_of_its_split_only():
    """The optimal split is a relaxation of the even one: its bounds hold for both, the other's only for itself."""
    even = PlacementProblem([[10, 8, 7]], 2, 4)
    optimal = replace(even, split="optimal")
    placement = Placement([[0, 1, 0, 2]], 3, 2)
    found = solve_cpsat(optimal, start=Solution(even, placement, Bound([13.0], ("told",))), tolerance=0)
    assert found.is_optimal
    assert found.makespan.tolist() == [12.5]
    found = solve_cpsat(even, start=Solution(optimal, placement, Bound([12.5], ("told",))), tolerance=0)
    assert found.makespan.tolist() == [13]


@pytest.mark.parametrize(("solver", "experts"), [("pairing", 10), ("configuration", 15)])
def test_methods_that_prove_what_holds_for_equal_shares_refuse_another_split(solver, experts):
    problem = PlacementProblem([range(1, experts + 1)], 6, 6 * (2 if solver == "pairing" else 3), split="optimal")
    with pytest.raises(UnsupportedError, match=f"solve_{solver} has every copy carry an equal share, and split='opt"):
        SOLVERS[solver](problem)
    with pytest.raises(UnsupportedError, match="needs slots_per_gpu"):
        SOLVERS[solver](PlacementProblem([[1, 2]], 2, split="optimal"))


def test_cpsat_proves_full_scale_layers_when_bound_and_hint_meet():
    problem = PlacementProblem(generate("prefill", num_layers=2), 8)
    solution = solve_cpsat(problem, time_limit=30)
    assert solution.is_optimal
    assert (solution.gap <= 1e-4).all()


def test_results_are_reproducible_with_one_worker():
    problem = PlacementProblem(np.random.default_rng(5).integers(1, 60, (1, 12)), 4)
    assert solve_cpsat(problem, tolerance=0).placement == solve_cpsat(problem, tolerance=0).placement


def test_symmetry_numbering_is_a_relabelling():
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1, 3, 3]], 4, 12, num_nodes=2, num_groups=4)
    placement = eplb(problem)
    same = canonical(problem, placement)
    problem.check(same)
    loads = [np.sort(metrics.gpu_load(problem.load, p)[0]) for p in (placement, same)]
    assert loads[0] == pytest.approx(loads[1])
    assert canonical(problem, same) == same


def test_with_a_reference_but_no_limit_the_optimum_is_labelled_to_move_little():
    home = Placement([[1, 3, 0, 2]], 4, 2)
    solution = solve_cpsat(PlacementProblem([[1, 8, 9, 2]], 2, reference=home), tolerance=0)
    assert solution.makespan.tolist() == [10]
    assert solution.moves.tolist() == [0]


def test_a_solution_knows_when_every_layer_is_proven():
    problem = PlacementProblem([[9, 5, 4, 2], [1, 1, 1, 1]], 2)
    solution = solve_cpsat(problem, tolerance=0)
    assert solution.is_optimal
    assert solution.gap.tolist() == [0, 0]
    assert len(solution) == 2
    assert solution[1:].status == (SolveStatus.OPTIMAL,)
