"""Repair: fewest moves under a ceiling, least makespan within a budget of moves."""

from dataclasses import replace

import numpy as np
import pytest

from moeopt import InputError, Placement, PlacementError, PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import eplb, minimize_moves, relabel, search
from moeopt.balancers.repair import bring_home, repair, repaired
from moeopt.errors import NoPlacementError
from moeopt.traces.synthetic import generate
from solvers import solve_brute_force
from tests.instances import SMALL_RULES

RULES = SMALL_RULES | {"groups of one": (2, 4, 6, {"num_nodes": 2, "num_groups": 4})}


def _makespan(problem, placement):
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def _drifted(rules, seed, **limits):
    """A small problem whose loads have changed since its reference was near-optimal."""
    gpus, experts, slots, switches = RULES[rules]
    rng = np.random.default_rng(seed)
    old, new = rng.integers(1, 50, (2, 1, experts))
    reference = search(PlacementProblem(old, gpus, slots, **switches))
    return PlacementProblem(new, gpus, slots, reference=reference, **switches, **limits)


@pytest.fixture(scope="module")
def generated():
    """Two windows of six layers at full scale: loads, and EPLB's placement on the loads before."""
    trace = generate("decode", num_layers=6, num_windows=2, seed=1)
    before, after = trace[0], trace[1]
    return after, eplb(PlacementProblem(before, 32, 288))


@pytest.mark.parametrize("rules", RULES)
def test_fewest_moves_of_small_layers_are_feasible_never_below_the_optimum_and_mostly_equal_to_it(rules):
    equal = 0
    for seed in range(10):
        problem = _drifted(rules, seed)
        least = solve_brute_force(replace(problem, reference=None)).makespan[0]
        # a hair above the optimum, since brute force compares exactly
        problem = replace(problem, max_makespan=least * (1, 1.02, 1.1, 1.3)[seed % 4] * (1 + 1e-10))
        optimum = solve_brute_force(problem).objective[0]
        placement, reached = repaired(problem)
        if reached[0]:
            problem.check(placement)
            moves = metrics.moves(problem.reference, placement)[0]
            assert moves >= optimum
            equal += moves == optimum
    assert equal >= 9


@pytest.mark.parametrize("rules", RULES)
def test_least_makespans_of_small_layers_keep_the_budget_and_are_mostly_optimal(rules):
    equal = 0
    for seed in range(10):
        problem = _drifted(rules, seed, max_moves=seed % 4)
        optimum = solve_brute_force(problem).objective[0]
        placement = repair(problem)
        problem.check(placement)
        makespan = _makespan(problem, placement)[0]
        assert makespan >= optimum * (1 - 1e-9)
        equal += makespan <= optimum * (1 + 1e-9)
    assert equal >= 8


def test_at_full_scale_far_fewer_copies_move_than_after_relabel_or_minimize_moves(generated):
    load, reference = generated
    problem = PlacementProblem(load, 32, 288, reference=reference)
    near = search(replace(problem, reference=None))
    relabelled = relabel(problem, start=near)
    tidied = minimize_moves(problem, start=relabelled)
    under = replace(problem, max_makespan=_makespan(problem, tidied))
    placement = repair(under)
    under.check(placement)
    moves = [metrics.moves(reference, p) for p in (placement, tidied, relabelled)]
    assert (3 * moves[0] < moves[1]).all()
    assert (moves[1] <= moves[2]).all()


def test_a_looser_ceiling_costs_fewer_moves_in_all(generated):
    load, reference = generated
    problem = PlacementProblem(load, 32, 288, reference=reference)
    best = _makespan(problem, search(replace(problem, reference=None)))
    moves = []
    for share in (0.001, 0.01, 0.05, 0.2):
        under = replace(problem, max_makespan=best * (1 + share))
        moves.append(metrics.moves(reference, repair(under)).sum())
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 2 * moves[2]


@pytest.mark.parametrize("max_moves", [0, 1, 2, 5, 20])
def test_a_budget_of_moves_is_kept_and_never_hurts(generated, max_moves):
    load, reference = generated
    problem = PlacementProblem(load, 32, 288, reference=reference, max_moves=max_moves)
    placement = repair(problem)
    problem.check(placement)
    before, after = _makespan(problem, reference), _makespan(problem, placement)
    assert (after <= before).all()
    if max_moves:
        assert after.sum() < before.sum()
    else:
        assert after == pytest.approx(before)


def test_groups_that_can_stay_stay_and_the_others_change_nodes_only_where_they_must():
    old = np.array([[5, 5, 5, 5, 5, 5, 5, 5], [9, 9, 1, 1, 5, 5, 5, 5]])
    new = np.array([[6, 4, 5, 5, 5, 5, 6, 4], [9, 9, 1, 1, 9, 9, 1, 1]])
    rules = {"num_nodes": 2, "num_groups": 4}
    reference = Placement([[0, 2, 1, 3, 4, 6, 5, 7], [0, 2, 1, 3, 4, 6, 5, 7]], 8, 4)
    PlacementProblem(old, 4, 8, **rules).check(reference)
    problem = PlacementProblem(new, 4, 8, reference=reference, max_makespan=[10, 10], **rules)
    placement = repair(problem)
    problem.check(placement)
    assert metrics.moves(reference, placement).tolist() == [4, 0]
    # both hot groups on one node: only another deal of the groups helps
    stuck = PlacementProblem(new[1:], 4, 8, reference=[[0, 4, 1, 5, 2, 3, 6, 7]], max_makespan=10, **rules)
    dealt = repair(stuck)
    stuck.check(dealt)
    assert metrics.moves(stuck.reference, dealt)[0] == solve_brute_force(stuck).objective[0]


@pytest.mark.parametrize("rules", ["partition", "two slots each", "nodes and groups"])
@pytest.mark.parametrize("factor", [3, 1024])
def test_scaled_loads_and_ceiling_give_the_same_moves(rules, factor):
    for seed in range(5):
        problem = _drifted(rules, seed)
        ceiling = 1.05 * _makespan(problem, search(replace(problem, reference=None)))
        small = replace(problem, max_makespan=ceiling)
        large = replace(problem, load=problem.load.values * factor, max_makespan=ceiling * factor)
        moves = [metrics.moves(p.reference, repaired(p)[0]).tolist() for p in (small, large)]
        assert moves[0] == moves[1]


def test_the_answer_depends_on_the_arguments_only_and_not_on_other_layers(generated):
    load, reference = generated
    problem = PlacementProblem(load, 32, 288, reference=reference)
    problem = replace(problem, max_makespan=1.02 * _makespan(problem, search(replace(problem, reference=None))))
    together = repair(problem)
    assert repair(problem) == together
    for layer in range(3):
        assert repair(problem[layer]) == together[layer]


@pytest.mark.parametrize("limits", [{"max_moves": 6}, {"max_makespan": None}])
def test_a_budget_of_seconds_never_makes_it_worse(generated, limits):
    load, reference = generated
    problem = PlacementProblem(load[:2], 32, 288, reference=reference[:2])
    if "max_makespan" in limits:
        limits = {"max_makespan": 1.01 * _makespan(problem, search(replace(problem, reference=None)))}
    problem = replace(problem, **limits)
    for seed in range(2):
        costs = []
        for budget in (None, 0.1, 0.3):
            placement = repair(problem, budget=budget, seed=seed)
            problem.check(placement)
            by_moves = problem.objective == "moves"
            costs.append(metrics.moves(problem.reference, placement) if by_moves else _makespan(problem, placement))
        assert (costs[1] <= costs[0]).all()
        assert costs[2].sum() <= costs[0].sum()


def test_a_ceiling_that_nothing_keeps_is_refused_with_its_layers():
    problem = PlacementProblem([[4, 4, 1, 1], [5, 5, 5, 5]], 2, reference=[[0, 1, 2, 3]] * 2, max_makespan=[4.9, 10])
    with pytest.raises(NoPlacementError, match=r"within max_makespan for layers 0; the worst is 2\.041% above"):
        repair(problem)
    placement, reached = repaired(problem)
    assert reached.tolist() == [False, True]
    assert _makespan(problem, placement).tolist() == [5, 10]


def test_a_budget_that_cannot_be_kept_is_refused_with_the_moves_needed():
    problem = PlacementProblem([[4, 4, 1, 1]], 2, 6, reference=[[0, 1, 2, 3]], max_moves=1)
    with pytest.raises(NoPlacementError, match="within max_moves=1 for layers 0; the worst takes 2"):
        repair(problem)


@pytest.mark.parametrize("reference", [[[0, 1, 2, 3]], [[0, 1, 1, 2, 3, 3, 0, 2]], [[0, 0, 1, 1, 2, 2]]])
def test_a_reference_that_breaks_the_rules_is_still_home(reference):
    problem = PlacementProblem([[4, 4, 1, 1]], 2, 6, reference=reference, max_makespan=6)
    placement = repair(problem)
    problem.check(placement)
    assert metrics.moves(problem.reference, placement)[0] == solve_brute_force(problem).objective[0]


def test_a_start_near_the_optimum_is_gone_back_from_where_forwards_fails():
    load, reference = [[4, 4, 1, 1]], [[0, 1, 2, 3]]
    problem = PlacementProblem(load, 2, reference=reference, max_makespan=5)
    start = Placement([[2, 0, 1, 3]], 4, 2)
    problem.check(repair(problem, start=start))
    with pytest.raises(PlacementError, match="expert 3 has no slot"):
        repair(problem, start=[[0, 0, 1, 2]])


def test_without_a_limit_there_is_nothing_to_repair():
    with pytest.raises(UnsupportedError, match="needs max_makespan or max_moves"):
        repair(PlacementProblem([[1, 2]], 2, reference=[[0, 1]]))


@pytest.mark.parametrize(("argument", "value"), [("budget", -1), ("budget", float("nan")), ("seed", -1)])
def test_bad_arguments_are_refused_by_name(argument, value):
    problem = PlacementProblem([[1, 2]], 2, reference=[[0, 1]], max_moves=1)
    with pytest.raises(InputError, match=argument):
        repair(problem, **{argument: value})


@pytest.mark.parametrize("rules", RULES)
def test_bringing_home_keeps_the_ceiling_and_saves_moves(rules):
    saved = 0
    for seed in range(10):
        problem = _drifted(rules, seed)
        start = search(replace(problem, reference=None))
        ceiling = 1.1 * _makespan(problem, start)
        home = bring_home(problem, start, ceiling)
        problem.check(home)
        assert (_makespan(problem, home) <= ceiling * (1 + 1e-9)).all()
        moves = [metrics.moves(problem.reference, p)[0] for p in (start, home)]
        assert moves[1] <= moves[0]
        saved += moves[0] - moves[1]
    assert saved > 0


def test_nothing_moves_where_the_reference_is_good_enough(generated):
    load, reference = generated
    problem = PlacementProblem(load, 32, 288, reference=reference)
    problem = replace(problem, max_makespan=_makespan(problem, reference))
    assert metrics.moves(reference, repair(problem)).sum() == 0


def test_layers_without_load_or_with_one_slot_are_no_trouble():
    problem = PlacementProblem([[0, 0, 0, 0]], 2, reference=[[0, 1, 2, 3]], max_makespan=0)
    assert repair(problem).phy2log.tolist() == [[0, 1, 2, 3]]
    single = PlacementProblem([[3]], 1, reference=[[0]], max_makespan=3)
    assert repair(single).phy2log.tolist() == [[0]]
    with pytest.raises(NoPlacementError):
        repair(replace(single, max_makespan=2))
