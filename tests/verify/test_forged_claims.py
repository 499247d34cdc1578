"""Forged placements, numbers and statuses are rejected by the independent check, with a reason."""

from dataclasses import replace

import numpy as np
import pytest

from moeopt import Placement, PlacementProblem, SolveStatus, verify
from moeopt.balancers import contiguous
from solvers import solve_brute_force, solve_cpsat
from tests.verify.claims import accepts, certified, forged


def genuine(**rules):
    rules = {"num_slots": 8, "allow_empty_slots": True} | rules
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, **rules)
    solution = solve_brute_force(problem, tolerance=0)
    assert verify(problem, solution).ok
    return problem, solution


def placed(solution, phy2log):
    return forged(solution, placement=Placement(phy2log, 6, 4))


def reason(problem, solution):
    verification = verify(problem, solution)
    assert not verification.ok
    assert verification.layers[0].reason.startswith("REJECTED")
    assert "REJECTED" in str(verification)
    return verification.layers[0].reason


def test_the_makespan_of_another_split_is_rejected():
    problem, solution = genuine(split="optimal")
    assert solution.makespan.tolist() == [22 / 3]
    even = replace(problem, split="even")
    assert "the makespan is" in reason(even, solution)
    assert "the makespan is" in reason(problem, forged(solution, makespan=solution.makespan * (1 + 1e-8)))


@pytest.mark.parametrize(
    ("rules", "phy2log", "message"),
    [
        ({}, [0, 1, 2, 3, 4, 0, 1, 2], "expert 5 has no slot"),
        ({"allow_empty_slots": False}, [0, 1, 2, 3, 4, 5, -1, -1], "slot 6 is empty"),
        ({"allow_colocated": False}, [0, 0, 1, 2, 3, 4, 5, -1], "GPU 0 holds expert 0 twice"),
        ({"num_nodes": 2, "num_groups": 2}, [0, 3, 1, 2, 4, 5, -1, -1], "node 0 hosts 2 groups"),
        ({"reference": [[0, 1, 2, 3, 4, 5, 0, 4]], "max_moves": 2}, [5, 4, 3, 2, 1, 0, 0, 4], "exceed max_moves=2"),
        (
            {"reference": [[0, 1, 2, 3, 4, 5, 0, 4]], "max_makespan": 10.0},
            [0, 4, 1, 2, 3, 5, -1, -1],
            "max_makespan=10",
        ),
    ],
)
def test_a_placement_that_breaks_a_rule_is_rejected(rules, phy2log, message):
    problem, solution = genuine(**rules)
    claims = placed(solution, phy2log)
    load = problem.load.values[0]
    count = np.bincount([e for e in phy2log if e >= 0], minlength=6)
    share = np.append(load / np.maximum(count, 1), 0)
    makespan = share[np.array(phy2log)].reshape(4, 2).sum(axis=1).max(keepdims=True)
    moves = np.array([np.nan])
    if problem.reference is not None:
        gpus = zip(
            problem.reference.phy2log[0].reshape(4, 2).tolist(), np.reshape(phy2log, (4, 2)).tolist(), strict=True
        )
        moves = np.array([float(sum(e >= 0 and e not in old for old, new in gpus for e in new))])
    objective = makespan if problem.objective == "makespan" else moves
    assert message in reason(problem, forged(claims, makespan=makespan, moves=moves, objective=objective))


def test_a_removed_copy_is_noticed_in_the_makespan():
    problem, solution = genuine()
    row = solution.placement.phy2log[0].copy()
    copied = next(e for e in range(6) if (row == e).sum() > 1)
    row[np.flatnonzero(row == copied)[0]] = -1
    assert "makespan is" in reason(problem, placed(solution, row))


def test_understated_numbers_are_rejected():
    problem, solution = genuine(reference=[[0, 1, 2, 3, 4, 5, 0, 4]])
    less = solution.makespan * (1 - 1e-8)
    assert "makespan is" in reason(problem, forged(solution, makespan=less, objective=less))
    assert "objective is" in reason(problem, forged(solution, objective=less))
    assert "moves is" in reason(problem, forged(solution, moves=solution.moves - 1))
    assert "makespan is not a finite" in reason(problem, forged(solution, makespan=np.array([np.nan])))


def test_optimal_without_closing_the_gap_is_rejected():
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    solution = certified(problem, contiguous(problem))
    assert solution.status == (SolveStatus.FEASIBLE,)
    assert verify(problem, solution).ok
    assert "status OPTIMAL" in reason(problem, forged(solution, status=(SolveStatus.OPTIMAL,)))
    unknown = forged(solution, status=(SolveStatus.OPTIMAL,), lower_bound=np.array([np.nan]))
    assert "status OPTIMAL" in reason(problem, unknown)
    assert verify(problem, forged(solution, status=(SolveStatus.OPTIMAL,)), tolerance=0.5).ok


def test_statuses_that_do_not_fit_the_placement_are_rejected():
    problem, solution = genuine()
    assert "INFEASIBLE with a placement" in reason(problem, forged(solution, status=(SolveStatus.INFEASIBLE,)))
    assert "OPTIMAL without a placement" in reason(problem, forged(solution, placement=None))
    assert "FEASIBLE without" in reason(problem, forged(placed(solution, [-1] * 8), status=(SolveStatus.FEASIBLE,)))


def test_a_bound_above_the_placement_is_rejected_whatever_its_source():
    problem, solution = genuine()
    higher = forged(solution, lower_bound=solution.makespan * 1.001, bound_source=("cpsat",), certificate=(None,))
    assert "the placement reaches" in reason(problem, higher)


def test_a_solution_of_another_shape_is_rejected():
    problem, solution = genuine()
    two = PlacementProblem([[9, 5, 4, 2, 8, 1]] * 2, 4, 8)
    assert not any(verdict.ok for verdict in verify(two, solution).layers)
    assert "the problem (1, 8)" in reason(problem, forged(solution, placement=Placement([[0, 1, 2, 3, 4, 5]], 6, 2)))
    assert "on 2 GPUs" in reason(problem, forged(solution, placement=Placement(solution.placement.phy2log, 6, 2)))
    more = Placement([[0, 1, 2, 3, 4, 5, 6, 7]], 8, 4)
    assert "names no expert" in reason(problem, forged(solution, placement=more))


def test_fewest_moves_are_proven_by_what_the_reference_lacks():
    problem = PlacementProblem([[4, 4, 1, 1]], 2, 6, reference=[[0, 1, 2, 3, -1, -1]], max_makespan=10.0)
    solution = solve_cpsat(problem, tolerance=0)
    assert verify(problem, solution).proven
    assert not accepts(problem, 3.0, {"method": "moves_needed"})
    assert not accepts(problem, 2.0, {"method": "mean_load"})
