"""The configuration LP never exceeds the optimum, and its witnesses stand up to exact arithmetic."""

import itertools
import json
import math
import time
from fractions import Fraction

import numpy as np
import pytest

from moeopt import Bound, metrics, verify, verify_bound
from moeopt.balancers import eplb
from moeopt.errors import InputError, UnsupportedError
from moeopt.problem import PlacementProblem
from moeopt.solution import SolveStatus
from solvers.configuration.dual import Dual
from solvers.configuration.master import fill_contents
from solvers.configuration.method import configuration_bound, solve_configuration
from solvers.configuration.tree import Tree


def optimum(loads, num_gpus, slots_per_gpu):
    """Least makespan over all replica counts and packings, colocation and empty slots allowed, by enumeration."""
    slots, experts = num_gpus * slots_per_gpu, len(loads)
    best = Fraction(sum(loads))
    for counts in itertools.product(range(1, slots - experts + 2), repeat=experts):
        if sum(counts) > slots:
            continue
        replicas = sorted((Fraction(w, c) for w, c in zip(loads, counts, strict=True) for _ in range(c)), reverse=True)
        best = pack(replicas, [Fraction(0)] * num_gpus, [slots_per_gpu] * num_gpus, best)
    return best


def pack(replicas, load, free, best):
    if not replicas:
        return min(best, max(load))
    tried = set()
    for gpu in range(len(load)):
        state = (load[gpu], free[gpu])
        if not free[gpu] or state in tried or load[gpu] + replicas[0] >= best:
            continue
        tried.add(state)
        load[gpu] += replicas[0]
        free[gpu] -= 1
        best = pack(replicas[1:], load, free, best)
        load[gpu] -= replicas[0]
        free[gpu] += 1
    return best


def holds(certificate, loads, num_gpus, slots_per_gpu):
    """Check a certificate in fractions, by every multiset of replicas that no other one dominates."""
    prices, needed = certificate["prices"], certificate["needed"]
    threshold = Fraction(certificate["threshold"])
    if len(prices) != len(loads) or any(not isinstance(p, int) or p < 0 for p in prices):
        return False
    if not isinstance(needed, int) or needed * num_gpus > sum(prices) + num_gpus - 1:
        return False
    most = num_gpus * slots_per_gpu - len(loads) + 1
    items = sorted(
        (Fraction(w) / c, -(-price // c)) for w, price in zip(loads, prices, strict=True) for c in range(1, most + 1)
    )
    front = [(Fraction(0), 0)]
    for size, price in items:
        if price > front[-1][1]:
            front.append((size, price))
    return not any(
        sum(price for _, price in content) >= needed and sum(size for size, _ in content) < threshold
        for content in itertools.combinations_with_replacement(front, slots_per_gpu)
    )


def small_instances(count):
    """Loads with ties, zeros and dominating experts on 1 to 3 GPUs of 2 to 4 slots, with and without replicas."""
    rng = np.random.default_rng(5)
    for index in range(count):
        num_gpus, slots_per_gpu = [(2, 2), (3, 2), (2, 3), (3, 2), (2, 4), (3, 3), (1, 3)][index % 7]
        slots = num_gpus * slots_per_gpu
        redundant = int(rng.integers(0, min(slots - 1, 3 if slots > 6 else 4)))
        loads = rng.integers(0, [3, 30, 1000][index % 3], slots - redundant)
        if index % 4 == 0:
            loads[0] = 5 * loads.sum() + 1
        yield [int(w) for w in loads], num_gpus, slots_per_gpu


def test_bound_never_exceeds_the_optimum_and_its_certificate_holds_exactly():
    sharp = 0
    for loads, num_gpus, slots_per_gpu in small_instances(350):
        bound = configuration_bound(loads, num_gpus, slots_per_gpu)
        best = optimum(loads, num_gpus, slots_per_gpu)
        case = (loads, num_gpus, slots_per_gpu, bound)
        assert Fraction(bound.value) <= best, case
        assert bound.value >= sum(loads) / num_gpus * (1 - 1e-9), case
        if best:
            assert bound.certificate["threshold"] == bound.value, case
            assert holds(json.loads(json.dumps(bound.certificate)), loads, num_gpus, slots_per_gpu), case
        sharp += bound.value >= float(best) * (1 - 1e-5)
    assert sharp > 100


def forge_higher_threshold(certificate):
    return certificate | {"threshold": certificate["threshold"] * 1.01}


def forge_lower_need(certificate):
    return certificate | {"needed": certificate["needed"] * 2}


def forge_one_price(certificate):
    prices = list(certificate["prices"])
    prices[int(np.argmin(prices))] = max(prices)
    return certificate | {"prices": prices, "needed": -(-sum(prices) // 3)}


@pytest.mark.parametrize("forge", [forge_higher_threshold, forge_lower_need, forge_one_price])
def test_a_forged_certificate_is_refused(forge):
    loads = [90, 40, 33, 21, 14, 9, 3]
    certificate = configuration_bound(loads, 3, 3).certificate
    assert holds(certificate, loads, 3, 3)
    assert not holds(forge(certificate), loads, 3, 3)


def test_a_dominating_expert_lifts_the_bound_above_the_mean_to_the_optimum():
    loads = [100, 10, 10, 10]
    assert configuration_bound(loads, 2, 2).value == pytest.approx(110)


def test_zero_loads_give_a_zero_bound():
    assert configuration_bound([0, 0, 0], 1, 3).value == 0


@pytest.mark.parametrize("slots_per_gpu", [1, 5])
def test_other_numbers_of_slots_are_refused(slots_per_gpu):
    with pytest.raises(UnsupportedError, match="2 to 4 slots"):
        configuration_bound([3, 2, 1], 3, slots_per_gpu)


def test_a_target_stops_the_climb_once_it_is_proven():
    loads = np.random.default_rng(3).pareto(1.2, 24)
    full = configuration_bound(loads, 10, 3)
    early = configuration_bound(loads, 10, 3, target=float(loads.sum()) / 10)
    assert early.value <= full.value
    assert full.ceiling >= full.value


def tree_of(loads, num_gpus, seconds=math.inf):
    dual = Dual(np.array(loads, dtype=float), num_gpus, 3)
    root = dual.climb(None, None).value
    tree = Tree(dual)
    tree.grow(math.inf, time.perf_counter() + seconds)
    return root, tree


def proven(tree, loads, num_gpus):
    problem = PlacementProblem([loads], num_gpus, 3 * num_gpus, allow_empty_slots=True)
    return verify_bound(problem, Bound.of_layer(tree.bound, "configuration_tree", tree.certificate)).proven


def test_branching_on_hot_counts_raises_the_bound_but_never_above_the_optimum():
    raised = 0
    skewed = [np.ceil(np.random.default_rng(s).lognormal(3, 1.2, 6)).astype(int).tolist() for s in range(24)]
    others = [(loads, gpus) for loads, gpus, slots in small_instances(60) if slots == 3 and any(loads)]
    for loads, num_gpus in others + [(loads, 3) for loads in skewed]:
        root, tree = tree_of(loads, num_gpus)
        assert root <= tree.bound
        assert Fraction(tree.bound) <= optimum(loads, num_gpus, 3), (loads, num_gpus)
        assert proven(tree, loads, num_gpus), (loads, num_gpus)
        raised += tree.bound > root * (1 + 1e-4)
    assert raised > 3


def test_a_solution_whose_bound_comes_from_branching_is_proven():
    loads = np.ceil(np.random.default_rng(26).lognormal(5, 1.2, (1, 12)))
    problem = PlacementProblem(loads, 6, 18, allow_empty_slots=True)
    solution = solve_configuration(problem)
    assert solution.is_optimal
    assert solution.bound_source == ("configuration_tree",)
    assert verify(problem, solution).proven


def test_a_part_of_the_tree_holds_the_counts_it_allows_and_leaves_the_whole_as_it_was():
    loads = np.round(np.exp(np.random.default_rng(3).normal(size=64)) * 1e5)
    whole = Dual(loads, 24, 3)
    before = whole.climb(None, None)
    shares = whole.relax(before.ceiling * 1.0001, math.inf).shares
    expert = int(np.argmax(loads))
    count = 1 + int(np.argmax(shares[expert]))
    part = whole.within(expert, count + 1, shares.shape[1])
    part.climb(None, None)
    assert part.bound >= before.value
    allowed = part.relax(part.ceiling * 1.0001, math.inf).shares[expert] > 1e-6
    assert allowed.any()
    assert not allowed[:count].any()
    assert (whole.bound, whole.ceiling) == (before.value, before.ceiling)
    np.testing.assert_allclose(whole.relax(before.ceiling * 1.0001, math.inf).shares.sum(), shares.sum(), rtol=1e-3)


def test_a_layer_far_above_its_mean_load_is_closed_by_branching_and_walks_by_price():
    loads = np.round(np.exp(np.random.default_rng(3).normal(size=64)) * 1e5)
    found = solve_configuration(PlacementProblem([loads], 24, num_slots=72))
    assert found.is_optimal
    assert found.lower_bound[0] > 1.01 * loads.sum() / 24


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.02, 0.05])
def test_a_tree_cut_off_at_any_moment_keeps_a_bound_that_holds(seconds):
    loads = np.ceil(np.random.default_rng(22).lognormal(5, 1.2, 12)).astype(int).tolist()
    root, tree = tree_of(loads, 6, seconds)
    assert root <= tree.bound <= tree_of(loads, 6)[1].bound
    assert proven(tree, loads, 6)


def decode_like(seed, num_experts=48):
    return np.random.default_rng(seed).lognormal(8, 0.7, (1, num_experts)).astype(np.int64)


@pytest.mark.parametrize("time_limit", [0.0, 0.001, 0.002, 0.005, 0.01, 0.02])
def test_a_climb_cut_off_at_any_moment_keeps_a_bound_that_holds(time_limit):
    loads = np.ceil(np.random.default_rng(1).lognormal(8, 1.5, 20)).astype(int).tolist()
    found = configuration_bound(loads, 8, 3, time_limit=time_limit)
    assert sum(loads) / 8 * (1 - 1e-8) <= found.value == found.certificate["threshold"]
    assert found.value <= configuration_bound(loads, 8, 3).value * (1 + 1e-5)
    assert holds(found.certificate, loads, 8, 3)


@pytest.mark.parametrize("seed", range(3))
def test_three_slots_a_gpu_end_with_an_honest_status_and_a_bound_below_the_makespan(seed):
    problem = PlacementProblem(decode_like(seed), num_gpus=18, num_slots=54)
    solution = solve_configuration(problem, tolerance=2e-3, time_limit=1, seed=seed)
    problem.check(solution.placement)
    assert solution.lower_bound[0] <= solution.makespan[0]
    assert solution.makespan[0] <= metrics.makespan(metrics.gpu_load(problem.load, eplb(problem)))[0]
    assert (solution.status[0] is SolveStatus.OPTIMAL) == (solution.gap[0] <= 2e-3)


def test_small_optima_are_reached_and_never_undercut():
    for loads, num_gpus, slots_per_gpu in small_instances(60):
        if slots_per_gpu == 3 and num_gpus > 1 and any(loads):
            problem = PlacementProblem([loads], num_gpus, num_gpus * 3, allow_empty_slots=True)
            solution = solve_configuration(problem, time_limit=0.2)
            best = float(optimum(loads, num_gpus, 3))
            assert solution.lower_bound[0] <= best * (1 + 1e-12)
            assert best * (1 - 1e-12) <= solution.makespan[0]


def test_a_layer_without_load_is_optimal():
    solution = solve_configuration(PlacementProblem(np.zeros((1, 5)), num_gpus=2, num_slots=6), time_limit=1)
    assert solution.makespan[0] == solution.lower_bound[0] == 0
    assert solution.is_optimal


def test_colocation_is_respected():
    problem = PlacementProblem(decode_like(7, 30), num_gpus=12, num_slots=36, allow_colocated=False)
    solution = solve_configuration(problem, time_limit=1, tolerance=5e-3)
    assert solution.placement.copies.max() == 1


def test_problems_outside_its_reach_are_refused_with_the_reason():
    with pytest.raises(UnsupportedError, match="solve_configuration needs slots_per_gpu=3, got 2"):
        solve_configuration(PlacementProblem([[4, 3, 2, 1]], num_gpus=2))
    loads = np.ones((1, 12))
    with pytest.raises(UnsupportedError, match="num_nodes=2"):
        solve_configuration(PlacementProblem(loads, num_gpus=4, num_nodes=2, num_groups=4))
    with pytest.raises(UnsupportedError, match="moves"):
        solve_configuration(PlacementProblem(loads, num_gpus=4, reference=np.arange(12), max_moves=2))


def test_an_expert_above_the_mean_load_is_priced_with_its_cheapest_companions():
    loads = [1000, 90, 80, 70, 60, 50, 40, 30]
    assert configuration_bound(loads, 4, 2).value == pytest.approx(1030)


def test_unusable_loads_are_refused():
    with pytest.raises(InputError, match="one layer"):
        configuration_bound(np.ones((2, 6)), 2, 3)
    with pytest.raises(InputError, match="num_slots=6 is below num_experts=7"):
        configuration_bound(np.ones(7), 2, 3)


def heaviest(phy2log, loads):
    counts = np.bincount(phy2log[phy2log >= 0], minlength=len(loads))
    assert counts.min() >= 1
    return np.append(np.array(loads) / counts, 0.0)[phy2log].reshape(-1, 3).sum(axis=1).max()


def test_contents_near_the_prices_hold_a_placement_exactly_from_the_optimum_on():
    tried = 0
    for loads, num_gpus, slots_per_gpu in small_instances(150):
        if slots_per_gpu != 3 or not any(loads):
            continue
        best = float(optimum(loads, num_gpus, 3))
        for ceiling, feasible in ((best * (1 + 1e-9), True), (best * (1 - 1e-6), False)):
            relaxation = Dual(np.array(loads, dtype=float), num_gpus, 3).relax(ceiling, np.inf)
            if relaxation is None:
                assert not feasible
                continue
            phy2log = fill_contents(
                np.array(loads, dtype=float), num_gpus, ceiling, relaxation.prices, full=False, seconds=10
            )
            assert (phy2log is not None) == feasible, (loads, num_gpus, ceiling)
            if phy2log is not None:
                assert heaviest(phy2log, loads) <= ceiling * (1 + 1e-12)
                tried += 1
    assert tried > 30


def test_no_slot_stays_empty_where_none_may():
    loads = np.array([100.0, 10, 10, 10, 10])
    relaxation = Dual(loads, 3, 3).relax(60.0, np.inf)
    phy2log = fill_contents(loads, 3, 60.0, relaxation.prices, full=True, seconds=10)
    assert (phy2log >= 0).all()
    assert heaviest(phy2log, loads) <= 60
