from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt import LoadMatrix, PlacementProblem, bounds, metrics
from moeopt.balancers import BALANCERS
from solvers import solve_brute_force
from tests.instances import EPLB_README, INSTANCES


@st.composite
def small_problems(draw):
    """Any variant with an objective in tokens, small enough for brute force."""
    experts = draw(st.sampled_from([2, 4, 6]))
    gpus = draw(st.sampled_from([1, 2, 3]))
    size = -(-experts // gpus) + draw(st.integers(0, 1))
    load = st.integers(0, 12) if draw(st.booleans()) else st.floats(0, 10, width=32)
    rules = {"allow_empty_slots": draw(st.booleans())}
    if gpus == 2 and experts % 4 == 0 and draw(st.booleans()):
        rules |= {"num_nodes": 2, "num_groups": draw(st.sampled_from([2, 4]))}
    if rules.get("num_nodes", 1) == 1 and size <= experts:
        rules["allow_colocated"] = draw(st.booleans())
    loads = draw(st.lists(load, min_size=experts, max_size=experts))
    return PlacementProblem([loads], gpus, gpus * size, **rules)


@settings(max_examples=150, deadline=None)
@given(small_problems())
def test_no_bound_exceeds_the_optimum(problem):
    optimum = solve_brute_force(problem).makespan[0]
    for name, bound in (bounds.BOUNDS | {"hottest_gpus": bounds.hottest_gpus}).items():
        value = bound(problem)[0]
        assert np.isnan(value) or value <= optimum, name


@pytest.mark.parametrize("name", INSTANCES)
def test_bounds_hold_on_named_instances(name):
    instance = INSTANCES[name]
    bound = bounds.lower_bound(instance.problem).value[0]
    assert instance.optimum is None or bound <= instance.optimum


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("one hot expert", "hottest_with_companions"),
        ("BLDM is 3/2 off", "mean_load"),
        ("groups stay on their node", "node_load"),
        ("one slot each", "hottest_replica"),
    ],
)
def test_bounds_are_tight_where_their_argument_is_the_reason(name, source):
    bound = bounds.lower_bound(INSTANCES[name].problem)
    assert bound.value[0] == pytest.approx(INSTANCES[name].optimum)
    assert bound.source == (source,)


def test_the_pigeonhole_bound_sees_what_the_mean_does_not():
    problem = PlacementProblem([[5, 5, 5, 0, 0, 0]], 2)
    assert bounds.mean_load(problem)[0] == 8
    assert bounds.hot_on_few_gpus(problem)[0] == 10


def test_the_hottest_experts_bound_sees_two_hot_experts():
    problem = PlacementProblem([[10, 10, 4, 4, 4, 4, 1, 1, 1]], 3)
    assert bounds.mean_load(problem)[0] == 13
    assert bounds.hot_on_few_gpus(problem)[0] == 14
    assert solve_brute_force(problem).makespan[0] == 15


def test_partition_bounds_say_nothing_about_replicated_experts():
    problem = PlacementProblem(EPLB_README, 8, 16)
    assert np.isnan(bounds.hot_on_few_gpus(problem)).all()
    assert np.isnan(bounds.hottest_gpus(problem)).all()
    assert np.isnan(bounds.node_load(problem)).all()


def test_hottest_replica_is_the_best_over_all_counts():
    loads = [90, 132, 40, 61]
    counts = [(a, b, c, d) for a in range(1, 5) for b in range(1, 5) for c in range(1, 5) for d in range(1, 5)]
    best = min(max(Fraction(w, c) for w, c in zip(loads, row, strict=True)) for row in counts if sum(row) <= 7)
    bound = bounds.hottest_replica(PlacementProblem([loads], 1, 7))[0]
    assert bound <= best
    assert bound == pytest.approx(float(best), rel=1e-12)


def test_mean_load_never_rounds_up_where_experts_are_split():
    for total in range(1, 200):
        for gpus in (3, 7, 9):
            problem = PlacementProblem(LoadMatrix([[total, 0]]), gpus, gpus)
            assert Fraction(bounds.mean_load(problem)[0]) <= Fraction(total, gpus)


def test_counts_in_partitions_have_integer_makespans():
    assert bounds.mean_load(PlacementProblem([[3, 3, 3, 1]], 4)).tolist() == [3.0]
    assert bounds.mean_load(PlacementProblem([[3.0, 3.0, 3.0, 1.0]], 4))[0] == pytest.approx(2.5)


@pytest.mark.parametrize(("groups", "nodes"), [(8, 4), (8, 2), (6, 3), (4, 4)])
def test_the_node_bound_is_the_best_deal_of_groups_to_nodes(groups, nodes):
    rng = np.random.default_rng(groups * nodes)
    loads = rng.integers(1, 100, (20, groups))
    found = bounds.node_load(PlacementProblem(loads, nodes, num_nodes=nodes, num_groups=groups))
    for row, value in zip(loads, found, strict=True):
        deals = (np.array(order).reshape(nodes, -1) for order in permutations(range(groups)))
        if groups == 8:  # 40,320 orders are many: brute force knows the same problem as a partition
            assert value == solve_brute_force(PlacementProblem([row], nodes)).makespan[0]
        else:
            assert value == min(row[deal].sum(axis=1).max() for deal in deals)


def test_moves_needed_counts_missing_experts_and_slots_to_fill():
    problem = PlacementProblem([[4, 3, 2, 1]], 2, 6, reference=[[0, 1, 2, 2]], max_makespan=9.0)
    assert bounds.moves_needed(problem).tolist() == [2]
    assert bounds.lower_bound(problem).source == ("moves_needed",)


@pytest.mark.parametrize("gpus", [8, 16, 32, 64, 128, 256])
def test_no_balancer_beats_the_bound_on_recorded_partitions(recording, gpus):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024"), gpus)
    bound = bounds.lower_bound(problem).value
    for balancer in BALANCERS.values():
        makespan = metrics.makespan(metrics.gpu_load(problem.load, balancer(problem)))
        assert (makespan >= bound).all()
