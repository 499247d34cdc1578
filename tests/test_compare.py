import numpy as np
import pytest

from moeopt import metrics
from moeopt.balancers import contiguous, eplb
from moeopt.bounds import Bound
from moeopt.compare import COLUMNS, compare
from moeopt.errors import ContradictionError, InputError, NoPlacementError, UnsupportedError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution, Stop

LOAD = [[9, 5, 4, 2], [8, 1, 1, 1]]


@pytest.fixture
def problem():
    return PlacementProblem(LOAD, num_gpus=2)


def best(problem):
    return Placement([[0, 3, 1, 2], [0, 1, 2, 3]], problem.num_experts, problem.num_gpus)


def exact(problem):
    return Solution(problem, best(problem), Bound([11, 9], ("mine", "mine")), runtime=0.5)


def test_placements_are_scored_by_the_problems_split():
    methods = {"mine": lambda problem: Placement([[0, 1, 0, 2]], problem.num_experts, problem.num_gpus)}
    rows = [
        compare(PlacementProblem([[10, 8, 7]], 2, 4, split=split), methods).iloc[0] for split in ("even", "optimal")
    ]
    assert [(row.makespan, row.imbalance) for row in rows] == [(13, 1.04), (12.5, 1)]
    assert [row.status for row in rows] == ["FEASIBLE", "OPTIMAL"]


def test_has_a_row_per_method_and_layer_with_the_promised_columns(problem):
    table = compare(problem, {"contiguous": contiguous, "mine": best})
    assert tuple(table.columns) == COLUMNS
    assert table.method.tolist() == ["contiguous"] * 2 + ["mine"] * 2
    assert table.layer.tolist() == [0, 1, 0, 1]


def test_numbers_are_those_a_person_computes_by_hand(problem):
    """Loads 9 5 4 2 on two GPUs: contiguous 14 against 6, best 11 against 9."""
    table = compare(problem, {"contiguous": contiguous, "exact": exact}).query("layer == 0").set_index("method")
    assert table.makespan.to_dict() == {"contiguous": 14.0, "exact": 11.0}
    assert (table.mean_load == 10).all()
    assert (table.lower_bound == 11).all()
    assert table.gap.contiguous == pytest.approx(14 / 11 - 1)
    assert table.imbalance.contiguous == pytest.approx(1.4)
    assert table.balancedness.contiguous == pytest.approx(1 / 1.4)
    assert table.moves.to_dict() == {"contiguous": 0, "exact": 2}


def test_one_bound_speaks_for_all_methods_and_decides_every_status(problem):
    table = compare(problem, {"mine": best, "exact": exact})
    assert table.groupby("layer").lower_bound.nunique().eq(1).all()
    assert table.status.eq("OPTIMAL").all()


def test_a_given_bound_joins_and_names_its_source(problem):
    strong = Bound(np.array([11.0, 9.0]), ("elsewhere", "elsewhere"))
    weak = Bound(np.array([1.0, np.nan]), ("elsewhere", "elsewhere"))
    assert (compare(problem, {"mine": best}, bound=strong).lower_bound == [11, 9]).all()
    assert "elsewhere" not in compare(problem, {"mine": best}, bound=weak).bound_source.tolist()


def test_a_bound_above_a_feasible_makespan_is_refused_loudly(problem):
    with pytest.raises(ContradictionError, match=r"mine: layer 0 .* reaches 11, below the lower bound 12 of liar"):
        compare(problem, {"mine": best}, bound=Bound(np.array([12.0, 9.0]), ("liar", "liar")))


def test_a_bound_above_by_a_solvers_tolerance_counts_as_met(problem):
    table = compare(problem, {"mine": best}, bound=Bound(np.array([11 + 1e-7, 9.0]), ("milp", "milp")))
    assert (table.gap == 0).all()
    assert table.lower_bound.tolist() == [11.0, 9.0]


def test_infeasible_beside_a_feasible_placement_is_refused_loudly(problem):
    def wrong(problem):
        return Solution(problem, stop=Stop.INFEASIBLE)

    with pytest.raises(ContradictionError, match="wrong: layer 0 of loads: one method says that no placement exists"):
        compare(problem, {"mine": best, "wrong": wrong})


def raises(error):
    def method(problem):
        raise error

    return method


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        (raises(UnsupportedError("needs 3 GPUs")), "SKIPPED", "needs 3 GPUs"),
        (raises(NoPlacementError("layer 0: stuck at 12")), "NO_SOLUTION", "layer 0: stuck at 12"),
        (raises(InputError("loads too small")), "ERROR", "loads too small"),
        (raises(ZeroDivisionError("by zero")), "ERROR", "ZeroDivisionError: by zero"),
        (raises(RuntimeError()), "ERROR", "RuntimeError"),
        (lambda problem: None, "ERROR", "returned NoneType, not a Placement"),
        (lambda problem: [[0, 1, 2, 3]] * 2, "ERROR", "returned list, not a Placement"),
        (lambda problem: contiguous(problem[0]), "ERROR", "num_layers=1, not 2"),
        (lambda problem: Placement([[0, 1, 2, 2]] * 2, 4, 2), "ERROR", "expert 3 has no slot"),
        (lambda problem: Placement([[0, 1, 2, 3]] * 2, 4, 4), "ERROR", "num_gpus=4, not 2"),
        (lambda problem: exact(problem)[0], "ERROR", "Solution of 1 layers for 2"),
    ],
)
def test_a_method_at_fault_is_a_row_with_the_reason(problem, method, status, reason):
    table = compare(problem, {"wrong": method, "contiguous": contiguous})
    wrong = table[table.method == "wrong"]
    assert wrong.status.eq(status).all()
    assert wrong.note.str.contains(reason, regex=False).all()
    assert wrong[["makespan", "gap", "imbalance", "moves", "runtime_ms"]].isna().all(axis=None)
    assert table[table.method == "contiguous"].makespan.notna().all()


def test_a_method_that_says_beforehand_what_it_does_not_take_is_not_called(problem):
    @refuses(lambda problem: f"needs three GPUs, not {problem.num_gpus}")
    def choosy(problem):
        raise AssertionError("called all the same")

    table = compare(problem, {"mine": choosy})
    assert table.status.eq("SKIPPED").all()
    assert table.note.eq("choosy needs three GPUs, not 2").all()


def test_an_answer_to_another_problem_is_held_against_this_one():
    loose = PlacementProblem([[9, 1]], num_gpus=2, num_slots=4)
    strict = PlacementProblem([[9, 1]], num_gpus=2, num_slots=4, allow_colocated=False)
    table = compare(strict, {"loose": lambda problem: Solution(loose, [[0, 0, 1, 1]])})
    assert table.status.tolist() == ["ERROR"]
    assert "holds expert 0 twice" in table.note[0]


def test_an_interruption_passes_through(problem):
    with pytest.raises(KeyboardInterrupt):
        compare(problem, {"mine": raises(KeyboardInterrupt())})


@pytest.mark.parametrize(("repeats", "warmup"), [(1, 0), (3, 0), (1, 1), (4, 2)])
def test_heuristics_are_called_warmup_plus_repeats_times_and_only_repeats_count(problem, repeats, warmup):
    calls = []

    def counted(problem):
        calls.append(problem)
        return best(problem)

    table = compare(problem, {"counted": counted}, repeats=repeats, warmup=warmup)
    assert len(calls) == repeats + warmup
    assert len(table.attrs["runtime"]["counted"]) == repeats


def test_exact_methods_are_called_once_and_report_their_own_time_per_layer(problem):
    calls = []

    def counted(problem):
        calls.append(problem)
        return exact(problem)

    assert compare(problem, {"exact": counted}, repeats=5).runtime_ms.tolist() == [500.0, 500.0]
    assert len(calls) == 1


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1)])
def test_impossible_numbers_of_calls_are_refused(problem, repeats, warmup):
    with pytest.raises(InputError, match=r"(repeats|warmup) must be >="):
        compare(problem, {"mine": best}, repeats=repeats, warmup=warmup)


def test_layers_without_a_placement_keep_the_solutions_status(problem):
    def half(problem):
        rows = best(problem).phy2log.copy()
        rows[1] = -1
        return Solution(problem, rows, note=("", "time ran out"))

    table = compare(problem, {"half": half})
    assert table.status.tolist() == ["OPTIMAL", "NO_SOLUTION"]
    assert table.makespan.isna().tolist() == [False, True]
    assert table.note.tolist() == ["", "time ran out"]


def test_moves_count_from_the_reference_where_there_is_one():
    problem = PlacementProblem(LOAD, num_gpus=2, reference=[[0, 3, 1, 2], [0, 1, 2, 3]])
    assert compare(problem, {"mine": best}).moves.tolist() == [0, 0]


def test_where_moves_are_minimised_bound_and_gap_are_of_moves():
    reference = [[0, 1, 2, 3], [0, 1, 2, 3]]
    problem = PlacementProblem(LOAD, num_gpus=2, reference=reference, max_makespan=[11, 9])
    table = compare(problem, {"mine": best})
    assert table.lower_bound.tolist() == [2.0, 0.0]
    assert table.gap.tolist() == [0.0, 0.0]
    assert table.status.tolist() == ["OPTIMAL", "OPTIMAL"]


def test_a_tolerance_turns_feasible_into_optimal(problem):
    assert compare(problem, {"contiguous": contiguous}, tolerance=0.5).status.tolist() == ["OPTIMAL", "OPTIMAL"]


def test_no_methods_is_an_empty_table(problem):
    assert tuple(compare(problem, {}).columns) == COLUMNS


def test_layers_carry_the_traces_own_ids_and_name():
    from moeopt.load import LoadMatrix

    problem = PlacementProblem(LoadMatrix(LOAD, (3, 7), "recorded"), num_gpus=2)
    table = compare(problem, {"eplb": eplb})
    assert table.layer.tolist() == [3, 7]
    assert table.trace.eq("recorded").all()


def test_the_makespan_is_the_evaluators_not_the_methods_claim():
    rng = np.random.default_rng(5)
    problem = PlacementProblem(rng.integers(0, 1000, (6, 16)), num_gpus=4, num_slots=20)
    table = compare(problem, {"eplb": eplb})
    expected = metrics.makespan(metrics.gpu_load(problem.load, eplb(problem)))
    assert np.array_equal(table.makespan, expected)
