from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from moeopt import PlacementProblem, metrics
from moeopt.balancers import search
from moeopt.bounds.moves import arrivals_needed, copies_needed, makespan_within_moves, regrouping_needed
from moeopt.verify import moves as verify_moves
from moeopt.verify.layer import Rejected
from moeopt.verify.solution import exact_layer
from solvers import solve_brute_force
from tests.instances import INSTANCES
from tests.moves_oracle import REPLICATED, SHAPES, ceilings, random_problem
from tests.oracles import outcomes

NODES = {"num_nodes": 2, "num_groups": 2}

KINDS = {
    "partition": (SHAPES, {}),
    "groups on nodes": ([(4, 2, 2), (8, 4, 2), (8, 2, 4), (4, 4, 1)], NODES),
    "more groups on nodes": ([(4, 2, 2), (8, 4, 2), (8, 2, 4)], {"num_nodes": 2, "num_groups": 4}),
    "replicas": (REPLICATED, {}),
    "replicas on different GPUs": ([s for s in REPLICATED if s[2] <= s[0]], {"allow_colocated": False}),
    "replicas, slots may stay empty": (REPLICATED[:7], {"allow_empty_slots": True}),
    "replicas, groups on nodes": ([(4, 2, 3), (2, 2, 2), (2, 4, 1), (4, 4, 2)], NODES),
}


def fewest(found, ceiling):
    """Fewest moves of the placements that the exact check lets pass at a ceiling; None = there are none."""
    limit = Fraction(ceiling) * (1 + Fraction(1, 10**9))
    return min((moves for makespan, moves in found if makespan <= limit), default=None)


def is_rejected(check, problem, value):
    layer = exact_layer(problem, 0)
    try:
        check(layer, Fraction(value) * (layer.scale if check is verify_moves.makespan_within_moves else 1), {})
    except Rejected:
        return True
    return False


def check_instance(problem, rng):
    """Every bound of one layer, at many ceilings and limits, against all its placements; how many were reached."""
    found = outcomes(problem)
    reached = 0
    for ceiling in ceilings(problem, found, rng):
        posed = replace(problem, max_makespan=ceiling)
        truth = fewest(found, ceiling)
        for bound in (arrivals_needed, copies_needed, regrouping_needed):
            value, check = bound(posed)[0], getattr(verify_moves, bound.__name__)
            if np.isnan(value):
                continue
            assert truth is None or value <= truth, (bound.__name__, posed, ceiling)
            assert not is_rejected(check, posed, value), (bound.__name__, posed, ceiling)
            if truth is not None:
                assert is_rejected(check, posed, truth + 1), (bound.__name__, posed, ceiling)
                reached += value == truth > 0
    for most in {0, 1, 2, int(rng.integers(problem.slots))}:
        posed = replace(problem, max_moves=most)
        value = makespan_within_moves(posed)[0]
        truth = min((makespan for makespan, moves in found if moves <= most), default=None)
        if np.isnan(value):
            continue
        assert truth is None or value <= truth, (posed, most)
        assert not is_rejected(verify_moves.makespan_within_moves, posed, value), (posed, most, value)
        if truth is not None:
            above = truth * (1 + Fraction(1, 10**6)) + Fraction(1, 10**6)
            assert is_rejected(verify_moves.makespan_within_moves, posed, above), (posed, most)
            reached += value == truth
    return reached


@pytest.mark.parametrize("kind", KINDS)
def test_no_bound_on_moves_exceeds_what_a_placement_reaches(kind):
    rng = np.random.default_rng(len(kind))
    shapes, rules = KINDS[kind]
    assert sum(check_instance(random_problem(rng, shapes, **rules), rng) for _ in range(40)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_bound_on_moves_exceeds_what_any_of_many_placements_reaches(kind):
    rng = np.random.default_rng(100 + len(kind))
    shapes, rules = KINDS[kind]
    for _ in range(300):
        check_instance(random_problem(rng, shapes, **rules), rng)


@pytest.mark.parametrize("kind", ["partition", "replicas", "groups on nodes"])
def test_the_list_of_all_placements_has_the_optimum_of_brute_force(kind):
    rng = np.random.default_rng(7)
    shapes, rules = KINDS[kind]
    for _ in range(8):
        problem = random_problem(rng, shapes[:4], **rules)
        found = outcomes(problem)
        least = min(makespan for makespan, _ in found)
        assert solve_brute_force(replace(problem), tolerance=0).makespan[0] == pytest.approx(float(least), abs=1e-12)
        ceiling = float(least) * (1 + 1e-8)
        solved = solve_brute_force(replace(problem, max_makespan=ceiling), tolerance=0)
        assert solved.moves[0] == fewest(found, ceiling)


@pytest.mark.parametrize("name", [name for name in INSTANCES if INSTANCES[name].problem.max_makespan is not None])
def test_arrivals_needed_on_named_instances(name):
    problem, optimum = INSTANCES[name].problem, INSTANCES[name].optimum
    value = arrivals_needed(problem)[0]
    assert np.isnan(value) if optimum is None else value == optimum


def test_one_full_gpu_costs_two_moves_and_needs_no_more():
    problem = PlacementProblem([[4, 4, 1, 1, 3, 2]], 3, reference=[[0, 1, 2, 3, 4, 5]], max_makespan=5.0)
    assert arrivals_needed(problem).tolist() == [2]
    assert arrivals_needed(replace(problem, max_makespan=8.0)).tolist() == [0]
    assert np.isnan(arrivals_needed(replace(problem, max_makespan=4.0)))[0]


def test_a_hot_expert_needs_the_copies_that_it_lacks():
    problem = PlacementProblem([[90, 1, 1, 1]], 3, 6, reference=[[0, 1, 0, 2, 3, 3]], max_makespan=45.0)
    assert copies_needed(problem).tolist() == [0]
    assert copies_needed(replace(problem, max_makespan=30.0)).tolist() == [1]
    assert np.isnan(copies_needed(replace(problem, max_makespan=29.0)))[0]
    assert np.isnan(copies_needed(replace(problem, max_makespan=0.0)))[0]


def test_a_full_node_gives_up_a_group_and_takes_another():
    reference = [[0, 1, 2, 3, 4, 5, 6, 7]]
    problem = PlacementProblem(
        [[5, 5, 5, 5, 1, 1, 1, 1]], 4, num_nodes=2, num_groups=4, reference=reference, max_makespan=6.0
    )
    assert regrouping_needed(problem).tolist() == [4]
    assert regrouping_needed(replace(problem, max_makespan=10.0)).tolist() == [0]
    assert arrivals_needed(problem).tolist() == [4]
    assert makespan_within_moves(replace(problem, max_makespan=None, max_moves=3)).tolist() == [10]


@pytest.mark.parametrize("whole", [True, False])
def test_the_makespan_within_moves_is_where_the_bound_on_moves_falls(whole):
    rng = np.random.default_rng(3)
    loads = rng.integers(1, 1000, (5, 24))
    problem = PlacementProblem(loads if whole else loads / 7, 4, reference=[list(range(24))] * 5)
    for most in range(8):
        least = makespan_within_moves(replace(problem, max_moves=most))
        assert (arrivals_needed(replace(problem, max_makespan=least * (1 + 1e-9))) <= most).all()
        below = least - 1 if whole else least * (1 - 3e-9)
        assert not (arrivals_needed(replace(problem, max_makespan=below)) <= most).any()


def test_with_no_move_at_all_the_reference_stays():
    problem = PlacementProblem([[9, 5, 4, 2]], 2, reference=[[0, 1, 2, 3]], max_moves=0)
    assert makespan_within_moves(problem).tolist() == [14]
    assert makespan_within_moves(replace(problem, max_moves=4)).tolist() == [10]


def test_extra_copies_go_to_the_hottest_expert():
    problem = PlacementProblem([[90, 30, 1, 1]], 2, 6, reference=[[0, 1, 2, 3, 3, 3]], max_moves=2)
    assert makespan_within_moves(problem)[0] == pytest.approx(30)
    assert makespan_within_moves(replace(problem, max_moves=0))[0] == pytest.approx(90)


def test_bounds_on_moves_say_nothing_where_they_do_not_apply():
    free = PlacementProblem([[9, 5, 4, 2]], 2)
    for bound in (arrivals_needed, copies_needed, regrouping_needed, makespan_within_moves):
        assert np.isnan(bound(free)).all()
    missing = PlacementProblem([[9, 5, 4, 2]], 2, reference=[[0, 1, 2, 2]], max_makespan=11.0)
    assert np.isnan(arrivals_needed(missing))[0]
    assert copies_needed(missing).tolist() == [1]
    assert np.isnan(makespan_within_moves(replace(missing, max_makespan=None, max_moves=0)))[0]
    replicated = PlacementProblem([[9, 5]], 2, 4, reference=[[0, 1, 0, 1]], max_makespan=11.0)
    assert np.isnan(arrivals_needed(replicated))[0]


@pytest.mark.parametrize("gpus", [8, 32])
def test_no_repaired_recording_has_fewer_moves_than_needed(recording, gpus):
    before = PlacementProblem(recording("deepseek-v3/decode_in1000out1000"), gpus)
    problem = replace(before, load=recording("deepseek-v3/decode_in1800out100"), reference=search(before))
    kept = search(replace(problem, max_moves=10))
    makespan = metrics.makespan(metrics.gpu_load(problem.load, kept))
    needed = arrivals_needed(replace(problem, max_makespan=makespan))
    assert (needed <= metrics.moves(problem.reference, kept)).all()
    assert needed.sum() > 0
    assert (makespan_within_moves(replace(problem, max_moves=10)) <= makespan).all()
