"""One driver owns layers, time, progress and running side by side; what is proven by the end is kept."""

import importlib
import math
import time

import joblib
import numpy as np
import pytest

from moeopt import Bound, Placement, PlacementProblem, Solution, SolveStatus, Stop, bounds
from moeopt.balancers import contiguous
from solvers import solve
from solvers.drive import Limits, drive, known_before, work
from tests.solvers.spies import Spy

LOADS = [[9, 5, 4, 2, 8, 1], [1, 4, 6, 6, 2, 11], [1, 2, 3, 4, 5, 6]]


@pytest.fixture
def problem():
    return PlacementProblem(LOADS, 2)


def nothing(problem, known, limits):
    return Solution(problem, note="looked at")


def fails(problem, known, limits):
    return Solution(problem, bound=Bound([1e6], ("liar",)))


def test_a_layer_that_cheap_bounds_and_the_hint_close_is_not_worked_on(problem):
    best = solve(problem, tolerance=0).placement
    done = drive(problem, nothing, Limits(tolerance=0), start=best)
    closed = bounds.lower_bound(problem).value == done.makespan
    assert closed.any()
    assert not closed.all()
    assert [note == "" for note in done.note] == closed.tolist()


def test_progress_names_every_layer_once(problem):
    seen = []
    drive(problem, nothing, Limits(tolerance=0), start=contiguous(problem), progress=seen.append)
    assert sum(seen) == problem.num_layers


def test_layers_beyond_the_budget_keep_what_is_known_and_say_so(problem):
    def slow(problem, known, limits):
        time.sleep(0.06)
        return Solution(problem)

    done = drive(problem, slow, Limits(tolerance=0), start=contiguous(problem), budget=0.05)
    assert Stop.SKIPPED in done.stop
    assert all("not tried" in note for note, stop in zip(done.note, done.stop, strict=True) if stop is Stop.SKIPPED)
    assert done.solved.size == problem.num_layers


def test_a_method_that_contradicts_what_is_known_is_an_error_of_that_layer_alone(problem):
    done = drive(problem, fails, Limits(tolerance=0), start=contiguous(problem))
    wrong = [stop is Stop.ERROR for stop in done.stop]
    assert any(wrong)
    assert all(("one of the two is wrong" in note) == bad for note, bad in zip(done.note, wrong, strict=True))
    assert (done.lower_bound <= done.makespan).all()


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblibs_own_configuration_is_obeyed(problem, backend):
    spy = Spy()
    with joblib.parallel_config(backend=backend, n_jobs=2):
        drive(problem, spy if backend == "threading" else nothing, Limits(tolerance=0), start=contiguous(problem))
    if backend == "threading":
        assert len(set(spy.threads)) >= 1
        assert spy.main not in spy.threads


def test_a_fault_in_one_layer_does_not_touch_the_others(problem):
    def faulty(problem, known, limits):
        if problem.load.values[0, 0] == 9:
            raise ZeroDivisionError("by nothing")
        return Solution(problem, note="looked at")

    done = drive(problem, faulty, Limits(tolerance=0), start=contiguous(problem))
    assert done.stop[0] is Stop.ERROR
    assert done.note[0] == "ZeroDivisionError: by nothing"
    assert done.solved.size == problem.num_layers
    assert "looked at" in done.note[1:]


def test_seconds_are_counted_once(problem):
    def slow(problem, known, limits):
        time.sleep(0.05)
        return known

    known = Solution(problem, contiguous(problem), runtime=100.0)
    done = work(known, slow, Limits(tolerance=0))
    assert (np.abs(done.runtime - 100.05) < 0.04).all()


def test_time_runs_from_when_a_layer_is_begun():
    limits = Limits(time_limit=5.0)
    assert limits.left == math.inf
    assert not limits.late
    begun = limits.started(spent=4.0)
    assert 0.5 < begun.left <= 1.0
    assert begun.stop is Stop.DONE
    assert limits.started(spent=6.0).late
    assert limits.started(spent=6.0).stop is Stop.TIME_LIMIT


def test_every_rung_is_given_all_that_is_known_and_a_time_out_keeps_it(monkeypatch):
    """A rung proves a bound, and the next one sees it; the time ends, and both are in the answer."""
    problem = PlacementProblem(np.random.default_rng(9).integers(1, 100, (1, 40)), 10)
    cheap = bounds.lower_bound(problem).value[0]
    told = Bound([cheap * (1 + 1e-3)], ("spy",), ({"method": "spy"},))
    seen = []

    def proves(problem, known, limits):
        return Solution(problem, bound=told)

    def looks(problem, known, limits):
        seen.append(known)
        while not limits.late:
            time.sleep(0.01)
        return Solution(problem, stop=limits.stop)

    def never(problem, known, limits):
        raise AssertionError("tried although the time was over")

    ladder = importlib.import_module("solvers.solve")
    monkeypatch.setattr(ladder, "RUNGS", (proves, looks, never))
    monkeypatch.setattr(ladder, "quick_search", lambda problem, **options: contiguous(problem))
    known = solve(problem, time_limit=0.3)
    assert seen[0].bound_source == ("spy",)
    assert seen[0].placement is not None
    assert known.bound_source == ("spy",)
    assert known.certificate == ({"method": "spy"},)
    assert known.lower_bound[0] == told.value[0]
    assert known.stop == (Stop.TIME_LIMIT,)
    assert known.note == ("",)
    assert known.status == (SolveStatus.FEASIBLE,)


def test_the_last_rung_begins_with_the_bound_of_the_hottest_gpus():
    """Found by hand: the hottest experts' GPUs prove 2558 where the cheap bounds say 2550."""
    from solvers.formulation import layer_model
    from solvers.solve import hottest_gpus

    for seed in range(200):
        load = np.ceil(np.random.default_rng(seed).lognormal(6, 1, 27)).astype(int)
        problem = PlacementProblem([load], 9)
        known = Solution(problem, contiguous(problem), bounds.lower_bound(problem))
        found = known.join(hottest_gpus(problem, known, Limits()))
        if found.bound_source == ("hottest_gpus",):
            assert layer_model(found).lower == found.lower_bound[0] > known.lower_bound[0]
            return
    raise AssertionError("no instance")


def test_what_a_rung_says_of_a_smaller_placement_is_relabelled_to_move_little():
    home = Placement([[1, 3, 0, 2]], 4, 2)
    problem = PlacementProblem([[1, 8, 9, 2]], 2, reference=home)

    def turned(problem, known, limits):
        return Solution(problem, [[0, 2, 1, 3]])

    assert work(known_before(problem, None, 0), turned, Limits(tolerance=0)).moves.tolist() == [0]
