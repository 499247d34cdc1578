"""A plan keeps the engine's rules, tells the truth about itself, and moves no more than it must."""

from functools import partial

import numpy as np
import pytest

from moeopt import Placement, PlacementError, PlacementProblem, balancers, metrics
from moeopt.errors import InputError, UnsupportedError
from moeopt.planning import plan
from moeopt.traces import generate
from solvers import solve
from tests.oracles import outcomes

OLD = generate(num_layers=3, num_experts=32, seed=1).total()
NEW = generate(num_layers=3, num_experts=32, seed=2).total()


@pytest.fixture(scope="module")
def reference():
    return plan(OLD, 4, 40).placement


def test_it_tells_what_metrics_say(reference):
    made = plan(NEW, 4, 40, reference=reference)
    made.problem.check(made.placement)
    after = metrics.imbalance(metrics.gpu_load(NEW, made.placement))
    before = metrics.imbalance(metrics.gpu_load(NEW, reference))
    assert np.array_equal(made.imbalance, after)
    assert np.array_equal(made.imbalance_before, before)
    assert np.array_equal(made.moves, metrics.moves(reference, made.placement))
    text = str(made)
    assert "3 layers of 32 experts on 4 GPUs: 40 slots, 10 per GPU, 8 redundant" in text
    assert f"imbalance {before.mean():.4f} with the reference, {after.mean():.4f} with the plan" in text
    assert f"moves {made.moves.sum()} of 120 copies, at most {made.moves.max()} in a layer" in text
    assert (made.gap < 0.01).all()


def test_without_a_reference_it_compares_with_the_contiguous_layout():
    made = plan(NEW, 4)
    assert made.before == balancers.contiguous(made.problem)
    assert "in the contiguous layout" in str(made)
    assert "moves" not in str(made)


def test_renaming_gpus_saves_moves(reference):
    problem = PlacementProblem(NEW, 4, 40, reference=reference)
    assert plan(NEW, 4, 40, reference=reference).moves.sum() < metrics.moves(reference, balancers.search(problem)).sum()


def test_fewer_moves_are_taken_where_some_imbalance_is_allowed(reference):
    best = plan(NEW, 4, 40, reference=reference)
    counts = []
    for share in (0.0, 0.01, 0.1, 10):
        made = plan(NEW, 4, 40, reference=reference, within=share)
        reached = metrics.makespan(metrics.gpu_load(NEW, made.placement))
        allowed = metrics.makespan(metrics.gpu_load(NEW, best.placement)) * (1 + share)
        assert (reached <= allowed * (1 + 1e-8)).all()
        assert (made.moves >= made.moves_bound.value).all()
        counts.append(made.moves.sum())
    assert counts == sorted(counts, reverse=True)
    assert counts[1] < counts[0] <= best.moves.sum()
    assert counts[-1] == 0


def test_moves_stay_within_a_budget_and_more_of_them_balance_better(reference):
    made = {most: plan(NEW, 4, 40, reference=reference, max_moves=most) for most in (0, 2, 8)}
    assert all((made[most].moves <= most).all() for most in made)
    assert made[0].placement == reference
    assert made[8].imbalance.mean() < made[2].imbalance.mean() < made[0].imbalance.mean()


@pytest.mark.parametrize("options", [{}, {"within": 0.02}])
def test_a_reference_with_fewer_slots_or_empty_ones_is_planned_from(options):
    smaller = plan(OLD, 4).placement
    lacking = plan(OLD, 4, 40).placement.phy2log.copy()
    lacking[:, 0] = np.where(np.sum(lacking == lacking[:, :1], axis=1) > 1, -1, lacking[:, 0])
    for there in (smaller, Placement(lacking, 32, 4)):
        made = plan(NEW, 4, 40, reference=there, **options)
        assert (made.placement.phy2log >= 0).all()
        assert (made.moves >= (40 - (there.phy2log >= 0).sum(axis=1))).all()
        assert (made.imbalance < 1.03).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_on_a_small_layer_no_placement_within_the_share_has_fewer_moves(share):
    problem = PlacementProblem([[9, 7, 5, 4, 2]], 2, 6, reference=Placement([[0, 1, 2, 3, 4, 0]], 5, 2))
    made = plan(problem.load, 2, 6, reference=problem.reference, within=share)
    everything = list(outcomes(problem))
    best = min(makespan for makespan, _ in everything)
    assert made.moves[0] == min(moves for makespan, moves in everything if makespan <= best * (1 + share) * (1 + 1e-9))


@pytest.mark.parametrize("gpus", [3, 5, 6, 7, 12])
@pytest.mark.parametrize("engine", ["sglang", "ascend"])
def test_shapes_that_do_not_divide_get_the_fewest_slots_that_fit(gpus, engine):
    load = generate(num_layers=1, num_experts=256, seed=3).total()
    made = plan(load, gpus, engine=engine)
    assert made.problem.slots == min(n for n in range(256, 256 + gpus) if n % gpus == 0)
    assert f"256 experts do not divide by {gpus} GPUs: {made.problem.slots} is the least" in str(made)
    assert (made.placement.phy2log >= 0).all()
    assert (made.placement.replica_count >= 1).all()
    if engine == "ascend":
        assert made.placement.copies.max() == 1


@pytest.mark.parametrize(
    ("slots", "raised", "told"),
    [(33, 36, "33 slots do not divide by 4 GPUs: 36 do"), (20, 32, "20 slots do not hold 32 experts: 32 do")],
)
def test_slots_that_cannot_be_are_raised_and_that_is_said(slots, raised, told):
    made = plan(NEW, 4, slots)
    assert made.problem.slots == raised
    assert told in str(made)


def test_groups_stay_on_nodes():
    made = plan(NEW, 4, 40, num_nodes=2, num_groups=4)
    made.problem.check(made.placement)
    assert made.problem.hierarchical
    assert "4 groups on 2 nodes" in str(made)


def test_any_method_can_plan_and_what_it_leaves_empty_is_filled():
    made = plan(NEW, 4, 40, method=balancers.hot_replication)
    assert (made.placement.phy2log >= 0).all()
    assert "6 empty slots were filled with copies" in str(made)
    assert plan(NEW, 4, 40, method=balancers.eplb).placement == balancers.eplb(PlacementProblem(NEW, 4, 40))


def test_an_exact_method_brings_its_own_bound():
    load = [[9, 7, 5, 4, 2, 1]]
    made = plan(load, 2, 6, method=partial(solve, time_limit=5))
    assert made.gap[0] <= 1e-4
    assert made.bound.source == solve(PlacementProblem(load, 2)).bound_source


REFUSED = {
    "both limits": ({"within": 0.1, "max_moves": 3}, InputError, "within and max_moves exclude each other"),
    "a share of nothing": ({"within": 0.1}, InputError, "within needs a reference"),
    "moves from nowhere": ({"max_moves": 3}, InputError, "max_moves needs a reference"),
    "a negative share": ({"within": -0.1, "reference": True}, InputError, "within must be >= 0"),
    "an unknown engine": ({"engine": "magic"}, InputError, "engine 'magic' is unknown"),
    "no GPUs": ({"num_gpus": 0}, InputError, "num_gpus must be >= 1"),
    "no slots": ({"num_slots": 0}, InputError, "num_slots must be >= 1"),
    "odd nodes": ({"num_nodes": 3, "num_groups": 4}, InputError, "num_gpus=4 is not a multiple of num_nodes=3"),
    "a method that counts no moves": (
        {"reference": True, "max_moves": 1, "method": balancers.eplb},
        UnsupportedError,
        "eplb counts no moves",
    ),
    "more slots than a device can tell apart": (
        {"engine": "ascend", "num_slots": 160},
        InputError,
        "allow_colocated=False with 40 slots per GPU",
    ),
    "a method that breaks the rules": (
        {"method": lambda problem: Placement(np.zeros((3, 32), int), 32, 4)},
        PlacementError,
        "layer 0: expert 1 has no slot",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_named(case, reference):
    options, error, rule = REFUSED[case]
    options = {"num_gpus": 4} | options | ({"reference": reference} if options.get("reference") else {})
    with pytest.raises(error, match=rule):
        plan(NEW, **options)


def test_a_limit_that_no_placement_keeps_is_named():
    """The reference lacks experts, which a move each must bring."""
    with pytest.raises(InputError, match="reference"):
        plan([[3, 2, 1, 1]], 2, reference=Placement([[0, 0, 1, 1]], 4, 2), max_moves=1)
