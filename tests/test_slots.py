"""How many slots per layer: dynamic programming held against all ways to deal them out."""

import itertools

import numpy as np
import pytest

from moeopt import InputError, PlacementProblem, balancers
from moeopt.slots import slot_budget, slots_curve, usual_slots
from moeopt.traces import generate
from solvers import solve, solve_brute_force


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(5)
    load = rng.integers(1, 12, (3, 4))
    load[0] = [60, 2, 1, 1]  # one layer that needs copies
    return PlacementProblem(load, num_gpus=2)


def every_dealing(values, units):
    options, layers = values.shape
    for dealing in itertools.product(range(options), repeat=layers):
        if sum(dealing) <= units:
            yield sum(values[option, layer] for layer, option in enumerate(dealing))


def test_no_way_to_deal_slots_out_is_better(problem):
    found = slot_budget(problem, total=18, method=solve_brute_force)
    assert found.slots.sum() <= 18
    best = min(every_dealing(found.makespans, units=3))
    assert found.makespan(found.slots).sum() == pytest.approx(best)
    assert found.least == pytest.approx(best)
    assert found.gap == pytest.approx(0)
    assert found.slots[0] > 4


def test_the_bound_holds_for_every_dealing_of_any_method(problem):
    exact = slot_budget(problem, total=18, method=solve_brute_force)
    rough = slot_budget(problem, total=18, method=balancers.eplb)
    assert rough.least <= exact.least * (1 + 1e-12)
    assert rough.makespan(rough.slots).sum() >= exact.makespan(exact.slots).sum()


def test_dealing_is_never_worse_than_equal_numbers(problem):
    for total in (12, 14, 18, 24):
        found = slot_budget(problem, total, method=balancers.eplb)
        assert found.equal == total // 6 * 2
        assert found.saving >= 0
        assert found.makespan(found.slots).sum() <= found.makespan(found.equal).sum()
        table = found.table()
        assert table.num_slots.sum() <= total
        assert (table.imbalance >= 1 - 1e-12).all()
        assert "less than with" in str(found)


def test_a_solution_brings_its_bound_along(problem):
    loads = PlacementProblem([[20, 11, 11, 11, 9, 9], [5, 5, 5, 5, 5, 5]], num_gpus=3)
    cheap, proven = (slot_budget(loads, total=15, method=method) for method in (balancers.search, solve))
    assert proven.least >= cheap.least
    assert proven.gap == pytest.approx(0, abs=1e-4)


def test_what_slots_bring_later_is_counted_on_the_placements(problem):
    found = slot_budget(problem, total=18, method=solve_brute_force)
    dealt, equal = found.step_ratios(problem.load.values[None])
    mean = problem.load.values.sum() / 2
    assert dealt == pytest.approx(found.makespan(found.slots).sum() / mean)
    assert equal == pytest.approx(found.makespan(found.equal).sum() / mean)


@pytest.mark.parametrize(
    ("total", "message"), [(11, "total must be >= 12, got 11"), ("many", "total must be an integer, got 'many'")]
)
def test_a_budget_that_does_not_hold_every_expert_is_refused(problem, total, message):
    with pytest.raises(InputError, match=message):
        slot_budget(problem, total)


def test_limits_on_moves_are_refused_as_slots_change(problem):
    limited = PlacementProblem(problem.load, 2, reference=balancers.contiguous(problem))
    with pytest.raises(InputError, match="leave reference and limits on moves out"):
        slot_budget(limited, 18)


def test_the_slots_curve_is_planned_on_the_warm_up_and_judged_later():
    trace = generate("decode", num_layers=2, num_experts=16, tokens=40, num_windows=10, seed=1)
    curve = slots_curve(trace, 4, [16, 20], dispatches=("even", "optimal"), method=balancers.eplb, warmup=4)
    assert curve.num_slots.tolist() == [16, 16, 20, 20]
    assert curve.redundant.tolist() == [0, 0, 4, 4]
    even, best = (curve[curve.dispatch == rule].reset_index() for rule in ("even", "optimal"))
    assert (best.step_ratio <= even.step_ratio + 1e-12).all()
    assert even.step_ratio[0] == best.step_ratio[0]  # one copy each: nothing to split
    later = trace.windows.copy()
    later[4:] = later[4:] // 3 + 5
    other = slots_curve(type(trace)(later), 4, [16, 20], method=balancers.eplb, warmup=4)
    assert other.in_sample.tolist() == even.in_sample.tolist()
    assert other.step_ratio.tolist() != even.step_ratio.tolist()


def test_usual_numbers_of_slots_run_from_the_fewest_to_twice_as_many():
    assert usual_slots(32, 8) == [32, 40, 48, 56, 64]
    assert usual_slots(10, 4) == [12, 16, 20, 24]
    assert usual_slots(256, 32)[:2] == [256, 288]
    assert usual_slots(256, 8)[-1] == 512
