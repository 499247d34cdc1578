"""What every exact method promises beside the optimum: statuses, hints, silence, limits."""

import numpy as np
import pytest

from moeopt import InputError, Placement, PlacementError, PlacementProblem, SolveStatus, metrics
from moeopt.balancers import contiguous, eplb, local_search
from solvers import SOLVERS, solve_brute_force, solve_cpsat, solve_milp
from solvers.formulation import canonical
from tests.solvers.problems import GENERAL

HARD = np.random.default_rng(0).lognormal(5, 0.4, (1, 48)).astype(int)
"""Six experts a GPU, mildly skewed: no back end proves it in a blink."""


@pytest.mark.parametrize("solver", ["cpsat", "highs", "cbc"])
def test_a_time_out_keeps_the_incumbent_and_an_honest_bound(solver):
    problem = PlacementProblem(HARD, 8)
    solution = SOLVERS[solver](problem, time_limit=0.2, gap=0)
    problem.check(solution.placement)
    assert solution.status[0] in (SolveStatus.FEASIBLE, SolveStatus.OPTIMAL)
    assert solution.lower_bound[0] >= HARD.sum() / 8
    assert solution.makespan[0] <= metrics.makespan(metrics.gpu_load(problem.load, local_search(problem)))[0]
    assert (solution.status[0] is SolveStatus.OPTIMAL) == (solution.gap[0] <= 1e-6)
    assert solution.runtime[0] < 20


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
    PlacementProblem([[0.3, 0.1, 0.7, 0.05]], 2),
]


@pytest.mark.parametrize("problem", HINTED, ids=range(len(HINTED)))
def test_cpsat_accepts_a_complete_hint(problem):
    hint = problem.reference if problem.reference is not None else contiguous(problem)
    lines: list[str] = []
    solve_cpsat(problem, hint=hint, log=lines.append)
    log = "\n".join(lines)
    assert "The solution hint is complete and is feasible" in log


@pytest.mark.parametrize("problem", HINTED, ids=range(len(HINTED)))
def test_highs_accepts_a_complete_start(problem):
    """HiGHS ends a run of zero branching nodes with the start it was given, or something better."""
    hint = problem.reference if problem.reference is not None else contiguous(problem)
    solution = solve_milp(problem, hint=hint, time_limit=1e-6, gap=0)
    problem.check(solution.placement)
    assert "infeasible" not in solution.note[0]


@pytest.mark.parametrize("solver", GENERAL)
def test_a_result_is_never_worse_than_the_hint(solver):
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    hint = contiguous(problem)
    solution = SOLVERS[solver](problem, hint=hint, time_limit=1e-3)
    assert solution.makespan[0] <= metrics.makespan(metrics.gpu_load(problem.load, hint))[0]


@pytest.mark.parametrize("solver", GENERAL)
def test_an_infeasible_hint_is_refused(solver):
    problem = PlacementProblem([[9, 5, 4, 2]], 2)
    with pytest.raises(PlacementError, match="expert 3 has no slot"):
        SOLVERS[solver](problem, hint=Placement([[0, 1, 2, 2]], 4, 2))


@pytest.mark.parametrize("solver", GENERAL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit": 0}, "time_limit must be > 0 seconds, got 0"),
        ({"time_limit": -1.0}, "time_limit must be > 0"),
        ({"gap": -0.1}, "gap must be finite and >= 0, got -0.1"),
        ({"gap": float("nan")}, "gap must be finite"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
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
    alone = SOLVERS[solver](problem, gap=0)
    together = SOLVERS[solver](problem, gap=0, jobs=2)
    assert np.array_equal(alone.makespan, together.makespan)
    assert alone.status == together.status
    assert alone[1].makespan.tolist() == [alone.makespan[1]]


def test_a_model_too_large_is_skipped_with_the_reason(recording):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024")[:1], 8, 384)
    for solver in ("cpsat", "highs"):
        solution = SOLVERS[solver](problem)
        assert solution.status == (SolveStatus.SKIPPED,)
        assert solution.placement is None
        assert "copy variables" in solution.note[0]
    assert "at most 12 experts" in solve_brute_force(problem).note[0]


def test_cpsat_proves_full_scale_layers_when_bound_and_hint_meet(recording):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024")[:2], 8)
    solution = solve_cpsat(problem, time_limit=30)
    assert solution.is_optimal
    assert (solution.gap <= 1e-4).all()


def test_results_are_reproducible_with_one_worker():
    problem = PlacementProblem(np.random.default_rng(5).integers(1, 60, (1, 12)), 4)
    assert solve_cpsat(problem, gap=0).placement == solve_cpsat(problem, gap=0).placement


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
    solution = solve_cpsat(PlacementProblem([[1, 8, 9, 2]], 2, reference=home), gap=0)
    assert solution.makespan.tolist() == [10]
    assert solution.moves.tolist() == [0]


def test_a_solution_knows_when_every_layer_is_proven():
    problem = PlacementProblem([[9, 5, 4, 2], [1, 1, 1, 1]], 2)
    solution = solve_cpsat(problem, gap=0)
    assert solution.is_optimal
    assert solution.gap.tolist() == [0, 0]
    assert len(solution) == 2
    assert solution[1:].status == (SolveStatus.OPTIMAL,)
