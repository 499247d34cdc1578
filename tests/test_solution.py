"""What is known about layers is one value: joined by one function, its status decided by one function."""

import pickle

import numpy as np
import pytest

from moeopt import (
    Bound,
    ContradictionError,
    InputError,
    Placement,
    PlacementError,
    PlacementProblem,
    Solution,
    SolveStatus,
    Stop,
    bounds,
    gap_to_bound,
    metrics,
)
from moeopt.solution import decide, stack

PROBLEM = PlacementProblem([[9, 5, 4, 2], [8, 1, 1, 1]], num_gpus=2)
GOOD = [[0, 3, 1, 2], [0, 1, 2, 3]]
POOR = [[0, 1, 2, 3], [0, 1, 2, 3]]
NONE = [-1, -1, -1, -1]


def test_numbers_are_recomputed_from_the_placement():
    known = Solution(PROBLEM, GOOD)
    assert known.makespan.tolist() == [11, 9]
    assert known.gpu_load.tolist() == [[11, 9], [9, 2]]
    assert np.isnan(known.lower_bound).all()
    assert np.isnan(known.moves).all()
    assert known.status == (SolveStatus.FEASIBLE,) * 2


def test_moves_are_the_objective_where_the_problem_minimises_them():
    problem = PlacementProblem([[4, 4, 1, 1]], 2, reference=[[0, 1, 2, 3]], max_makespan=5.0)
    known = Solution(problem, [[0, 2, 1, 3]], Bound([2], ("mine",)))
    assert (known.makespan[0], known.moves[0], known.objective[0]) == (5, 2, 2)
    assert known.is_optimal


def test_layers_without_a_placement_are_unknown_not_zero():
    known = Solution(PROBLEM, [GOOD[0], NONE])
    assert known.solved.tolist() == [0]
    assert np.isnan(known.makespan).tolist() == [False, True]
    assert known.status[1] is SolveStatus.NO_SOLUTION
    assert Solution(PROBLEM, [NONE, NONE]).placement is None


@pytest.mark.parametrize(
    ("has", "gap", "stop", "status"),
    [
        (True, 0.0, Stop.DONE, "OPTIMAL"),
        (True, 1e-4, Stop.TIME_LIMIT, "OPTIMAL"),
        (True, 2e-4, Stop.DONE, "FEASIBLE"),
        (True, np.nan, Stop.ERROR, "FEASIBLE"),
        (False, np.nan, Stop.DONE, "NO_SOLUTION"),
        (False, np.nan, Stop.TIME_LIMIT, "NO_SOLUTION"),
        (False, np.nan, Stop.INFEASIBLE, "INFEASIBLE"),
        (False, np.nan, Stop.SKIPPED, "SKIPPED"),
        (False, np.nan, Stop.ERROR, "ERROR"),
    ],
)
def test_a_status_says_what_is_found_whatever_ended_the_work(has, gap, stop, status):
    assert decide(has, gap, stop, 1e-4) == status


def test_no_tolerance_is_finer_than_floating_point_solvers_resolve():
    assert decide(True, 9e-7, Stop.DONE, 0.0) is SolveStatus.OPTIMAL
    assert decide(True, 2e-6, Stop.DONE, 0.0) is SolveStatus.FEASIBLE


def test_joining_takes_the_better_placement_and_the_better_bound_of_every_layer():
    first = Solution(PROBLEM, [POOR[0], GOOD[1]], Bound([10, 9], ("a", "a")), note="first", runtime=1.0)
    second = Solution(PROBLEM, [GOOD[0], NONE], Bound([9, np.nan], ("b", "")), Stop.TIME_LIMIT, "second", 0.5)
    joined = first.join(second)
    assert joined.placement == Placement(GOOD, 4, 2)
    assert joined.bound_source == ("a", "a")
    assert joined.lower_bound.tolist() == [10, 9]
    assert joined.stop == (Stop.TIME_LIMIT,) * 2
    assert joined.note == ("first; second",) * 2
    assert joined.runtime.tolist() == [1.5, 1.5]
    assert second.join(first).makespan.tolist() == joined.makespan.tolist()


def test_joining_nothing_changes_nothing_that_is_known():
    known = Solution(PROBLEM, GOOD, bounds.lower_bound(PROBLEM))
    for joined in (known.join(Solution(PROBLEM)), Solution(PROBLEM).join(known), known.join(known)):
        assert joined.placement == known.placement
        assert joined.bound == known.bound


def test_equally_good_placements_leave_the_earlier_one():
    first, second = Solution(PROBLEM, GOOD), Solution(PROBLEM, [[3, 0, 2, 1], [1, 0, 3, 2]])
    assert first.join(second).placement == first.placement


def test_a_bound_above_a_placement_is_a_contradiction():
    with pytest.raises(ContradictionError, match=r"layer 0 of loads: a placement reaches 11, below .* 12 of liar"):
        Solution(PROBLEM, GOOD).join(Solution(PROBLEM, bound=Bound([12, 1], ("liar", "liar"))))


def test_a_bound_above_by_a_floating_point_tolerance_is_lowered_to_the_placement():
    joined = Solution(PROBLEM, GOOD).join(Solution(PROBLEM, bound=Bound([11 * (1 + 5e-7), 1], ("milp", "milp"))))
    assert joined.lower_bound[0] == 11
    assert joined.gap[0] == 0


def test_infeasible_beside_a_placement_is_a_contradiction():
    with pytest.raises(ContradictionError, match="no placement exists"):
        Solution(PROBLEM, GOOD).join(Solution(PROBLEM, stop=Stop.INFEASIBLE))
    alone = Solution(PROBLEM).join(Solution(PROBLEM, stop=Stop.INFEASIBLE))
    assert alone.join(Solution(PROBLEM)).status == (SolveStatus.INFEASIBLE,) * 2


def test_an_infeasible_placement_cannot_be_held():
    with pytest.raises(PlacementError, match="layer 1: expert 3 has no slot"):
        Solution(PROBLEM, [NONE, [0, 1, 2, 2]])
    with pytest.raises(PlacementError, match="num_layers=1, not 2"):
        Solution(PROBLEM, [GOOD[0]])


@pytest.mark.parametrize(
    "arguments",
    [
        {"bound": Bound([1.0], ("a",))},
        {"stop": (Stop.DONE,) * 3},
        {"note": ("a", "b", "c")},
        {"runtime": [1.0, 2.0, 3.0]},
    ],
)
def test_everything_has_as_many_layers_as_the_problem(arguments):
    with pytest.raises(InputError, match="must name every layer"):
        Solution(PROBLEM, **arguments)


def test_a_bound_of_uneven_parts_is_refused():
    with pytest.raises(InputError, match="a value, a source and a certificate"):
        Bound([1.0, 2.0], ("a",))


def test_layers_are_taken_apart_and_put_together_again():
    known = Solution(PROBLEM, [GOOD[0], NONE], bounds.lower_bound(PROBLEM), (Stop.DONE, Stop.ERROR), ("", "x"), [1, 2])
    again = stack(PROBLEM, [known[0], known[1:]])
    assert again == known
    assert known[1].status == (SolveStatus.ERROR,)


def test_some_layers_can_be_replaced_by_what_is_known_later():
    known = Solution(PROBLEM, [POOR[0], GOOD[1]], bounds.lower_bound(PROBLEM), note=("a", "b"), runtime=[1.0, 2.0])
    later = Solution(PROBLEM[[0]], [GOOD[0]], Bound([10.5], ("later",)), Stop.TIME_LIMIT, "new", 5.0)
    both = known.updated(np.array([0]), later)
    assert both[0] == Solution(PROBLEM[0], [GOOD[0]], Bound([10.5], ("later",)), Stop.TIME_LIMIT, "new", 5.0)
    assert both[1] == known[1]


def test_it_travels_to_other_processes_whole_and_read_only():
    known = Solution(PROBLEM, GOOD, bounds.lower_bound(PROBLEM))
    copy = pickle.loads(pickle.dumps(known))
    assert copy == known
    assert hash(copy) == hash(known)
    with pytest.raises(ValueError, match="read-only"):
        copy.runtime[0] = 1.0


def test_it_prints_as_a_few_readable_lines():
    text = str(Solution(PROBLEM, [GOOD[0], NONE], bounds.lower_bound(PROBLEM), (Stop.DONE, Stop.SKIPPED), ("", "why")))
    assert len(text.splitlines()) <= 6
    for part in ("1 OPTIMAL, 1 SKIPPED", "hottest_with_companions (2)", "why", "skipped (1)"):
        assert part in text
    assert "2 layers of 4 experts" in str(PROBLEM)
    assert len(str(PROBLEM).splitlines()) <= 4


def test_how_far_is_mine_is_one_line():
    assert gap_to_bound(PROBLEM, POOR).tolist() == [pytest.approx(14 / 11 - 1), 0.0]
    with pytest.raises(PlacementError, match="expert 3 has no slot"):
        gap_to_bound(PROBLEM, [[0, 1, 2, 2]] * 2)


def test_the_ceiling_is_kept_by_every_placement_whose_float_makespan_it_is():
    rng = np.random.default_rng(0)
    for _ in range(200):
        load = rng.lognormal(0, 3, 7)
        plain = PlacementProblem([load], 3, 9, allow_empty_slots=True)
        slots = rng.permutation(np.append(np.arange(7), rng.integers(0, 7, 2)))
        reached = metrics.makespan(metrics.gpu_load(plain.load, Placement(slots, 7, 3)))
        capped = PlacementProblem(
            [load], 3, 9, allow_empty_slots=True, reference=[np.append(np.arange(7), [0, 0])], max_makespan=reached
        )
        capped.check(Placement(slots, 7, 3))
