import numpy as np
import pytest

from moeopt.balancers import contiguous, eplb, local_search
from moeopt.bounds import Bound, mean_load
from moeopt.errors import ContradictionError, NoPlacementError, UnsupportedError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.study import Effort, study
from moeopt.solution import Solution, SolveStatus, Stop
from solvers import solve_cpsat

HEURISTICS = {"contiguous": contiguous, "eplb": eplb, "local_search": local_search}
ONCE = Effort(repeats=1, time_limit=2.0)


@pytest.fixture
def hierarchical():
    rng = np.random.default_rng(1)
    return PlacementProblem(rng.integers(1, 100, (3, 16)), 4, 16, num_nodes=2, num_groups=4, allow_empty_slots=True)


class Spy:
    """An exact method that remembers its calls and returns the start it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, problem, *, start, **options):
        self.calls.append((problem, start, options))
        placement = contiguous(problem) if start is None else start.placement
        return Solution(problem, placement, runtime=0.001)


def rows_of(done, name):
    return done.layers[done.layers.method == name]


def test_exact_methods_start_from_the_best_heuristic_row_and_the_best_bound_of_every_layer(problem):
    spy = Spy()
    done = study(problem, HEURISTICS, {"exact": spy}, ONCE)
    best = done.layers[done.layers.method.isin(HEURISTICS)].groupby("layer").makespan.min()
    assert np.array_equal(rows_of(done, "exact").makespan, best)
    _, start, _ = spy.calls[-1]
    assert np.array_equal(start.bound.value, done.known.bound.value)


def test_without_hint_they_start_from_nothing(problem):
    spy = Spy()
    study(problem, HEURISTICS, {"exact": spy}, Effort(repeats=1, warm=False))
    assert [start for _, start, _ in spy.calls] == [None, None]


@pytest.mark.parametrize(("jobs", "warm"), [(None, 1), (1, 1), (2, 2), (9, 5)])
def test_after_a_warm_up_on_the_first_layers_all_are_handed_over_in_one_call(problem, jobs, warm):
    spy = Spy()
    study(problem, HEURISTICS, {"exact": spy}, Effort(repeats=1, jobs=jobs))
    assert [part.load.layer_ids for part, _, _ in spy.calls] == [tuple(range(warm)), tuple(range(5))]


def test_all_limits_reach_the_exact_method_and_the_budget_is_for_the_call_that_counts(problem):
    spy = Spy()
    effort = Effort(repeats=1, tolerance=1e-3, time_limit=3.0, budget=7.0, jobs=2, seed=5)
    study(problem, HEURISTICS, {"exact": spy}, effort)
    expected = {"time_limit": 3.0, "tolerance": 1e-3, "seed": 5, "jobs": 2}
    assert spy.calls[0][2] == expected
    assert {name: value for name, value in spy.calls[1][2].items() if name != "progress"} == {**expected, "budget": 7.0}


def test_layers_beyond_the_budget_keep_what_was_known_and_say_so(problem):
    rows = rows_of(
        study(problem, {"contiguous": contiguous}, {"cpsat": solve_cpsat}, Effort(time_limit=2.0, budget=1e-9)), "cpsat"
    )
    late = rows[rows.note != ""]
    assert len(late)
    assert set(late.note) == {"not tried: the 1e-09 s for all layers were used up"}
    assert set(rows.status) <= {"FEASIBLE", "OPTIMAL"}


def test_an_exact_method_that_refuses_is_skipped_with_the_reason_and_never_called(problem):
    spy = Spy()

    @refuses(lambda problem: "is for other problems")
    def picky(problem, **options):
        return spy(problem, **options)

    done = study(problem, HEURISTICS, {"picky": picky}, ONCE)
    assert set(rows_of(done, "picky").status) == {"SKIPPED"}
    assert set(rows_of(done, "picky").note) == {"picky is for other problems"}
    assert not spy.calls


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnsupportedError("not this one"), "SKIPPED"),
        (NoPlacementError("not this one"), "NO_SOLUTION"),
        (RuntimeError("not this one"), "ERROR"),
    ],
)
def test_what_an_exact_method_raises_is_a_status_with_the_reason(problem, error, status):
    def failing(problem, **options):
        raise error

    rows = rows_of(study(problem, HEURISTICS, {"failing": failing}, ONCE), "failing")
    assert set(rows.status) == {status}
    assert all(note.endswith("not this one") for note in rows.note)


def test_statuses_and_notes_of_single_layers_survive_to_the_table(problem):
    def mixed(problem, **options):
        stops = [Stop.TIME_LIMIT, Stop.ERROR, Stop.SKIPPED, Stop.DONE, Stop.DONE]
        notes = ["too slow", "broke", "too large", "", ""]
        rows = contiguous(problem).phy2log.copy()
        rows[:3] = -1
        return Solution(problem, rows, stop=stops[: len(rows)], note=notes[: len(rows)])

    rows = rows_of(study(problem, HEURISTICS, {"mixed": mixed}, ONCE), "mixed")
    assert rows.status.tolist()[:3] == ["NO_SOLUTION", "ERROR", "SKIPPED"]
    assert rows.note.tolist() == ["too slow", "broke", "too large", "", ""]
    assert rows.makespan.isna().tolist() == [True, True, True, False, False]


def test_known_holds_the_best_placement_and_the_best_bound_of_all_methods(problem):
    def proves(problem, **options):
        return Solution(problem, bound=Bound(0.999 * mean_load(problem), ("here",) * len(problem.load.values)))

    done = study(problem, HEURISTICS, {"proves": proves, "cpsat": solve_cpsat}, ONCE)
    best = done.layers.groupby("layer", sort=False).makespan.min().to_numpy()
    assert np.array_equal(done.known.makespan, best)
    assert np.array_equal(done.known.bound.value, done.layers.lower_bound[:5])
    assert (done.known.bound.value >= done.runs["cpsat"].found.bound.value).all()
    assert done.known.status == (SolveStatus.OPTIMAL,) * 5


def test_a_bound_above_a_placement_is_a_contradiction_that_names_the_method(problem):
    def liar(problem, **options):
        return Solution(problem, bound=Bound(3 * mean_load(problem), ("lie",) * len(problem.load.values)))

    with pytest.raises(ContradictionError, match="liar: layer 0"):
        study(problem, HEURISTICS, {"liar": liar}, ONCE)


def test_progress_counts_every_layer_of_every_method_once(problem):
    counted = {}

    def failing(problem, **options):
        raise RuntimeError("broken")

    def half(problem, *, progress=None, **options):
        if progress:
            progress(2)
        return Solution(problem, contiguous(problem))

    def count(method, layers):
        counted[method] = counted.get(method, 0) + layers

    study(problem, HEURISTICS, {"failing": failing, "half": half, "cpsat": solve_cpsat}, ONCE, count)
    assert counted == dict.fromkeys([*HEURISTICS, "failing", "half", "cpsat"], 5)


def test_hierarchical_bounds_are_at_least_the_global_ones_and_the_price_is_their_ratio(hierarchical):
    done = study(hierarchical, HEURISTICS, {}, ONCE)
    assert (done.layers.lower_bound >= done.layers.global_bound).all()
    assert np.allclose(done.layers.policy_price, done.layers.lower_bound / done.layers.global_bound)
    assert np.array_equal(done.without_groups.known.bound.value, done.layers.global_bound[:3])
    assert not done.without_groups.problem.hierarchical


def test_what_is_proven_without_groups_is_handed_to_the_exact_methods_with_groups():
    alike = np.tile([1, 2, 3, 94], (3, 4))  # so that groups raise no bound
    hierarchical = PlacementProblem(alike, 4, 16, num_nodes=2, num_groups=4, allow_empty_slots=True)
    starts = []

    def poor(problem):
        """Leave room between placement and bound: two groups share two GPUs, light experts on one of them."""
        rows = np.tile([0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 12, 11, 13, 14, 15], (3, 1))
        return Placement(rows, problem.num_experts, problem.num_gpus)

    def prover(problem, *, start, **options):
        """Proves a little more without groups, and nothing with them."""
        starts.append(start)
        proven = None if problem.hierarchical else Bound(start.bound.value * (1 + 1e-7), ("prover",) * len(start))
        return Solution(problem, start.placement, proven)

    done = study(hierarchical, {"poor": poor}, {"prover": prover}, ONCE)
    assert "prover" in done.without_groups.known.bound.source
    assert np.array_equal(starts[-1].bound.value, done.without_groups.known.bound.value)
    assert starts[-1].bound.source == done.without_groups.known.bound.source
