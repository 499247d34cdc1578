"""Genuine solutions pass the independent check, and no certificate proves more than the optimum."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from moeopt import PlacementProblem, SolveStatus, bounds, verify
from moeopt.balancers import eplb
from moeopt.bounds import hottest_experts
from solvers import configuration_bound, solve_brute_force, solve_cpsat, solve_milp
from tests.solvers.problems import random_problem
from tests.verify.claims import accepts, branched, branched_pairs, certified, claim, forged, pairs, triples


@pytest.mark.parametrize("seed", range(50))
def test_what_brute_force_finds_on_any_variant_is_never_rejected(seed):
    problem = random_problem(seed)
    solution = solve_brute_force(problem, tolerance=0)
    verification = verify(problem, solution)
    assert verification.ok, str(verification)
    if solution.status[0] is SolveStatus.OPTIMAL:
        exact = verification.layers[0].makespan
        assert float(exact) == pytest.approx(solution.makespan[0], rel=1e-12)


@pytest.mark.parametrize("solver", [solve_cpsat, solve_milp], ids=["cpsat", "highs"])
@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_what_solvers_find_on_any_variant_is_never_rejected(seed, solver):
    problem = random_problem(seed)
    assert verify(problem, solver(problem, tolerance=0)).ok


@pytest.mark.parametrize("seed", range(80))
def test_every_combinatorial_bound_is_proven_exactly(seed):
    """Each bound by itself, with the certificate that goes with it."""
    problem = random_problem(seed)
    if problem.objective == "moves":
        functions = {"moves_needed": bounds.moves_needed}
    else:
        functions = {n: f for n, f in bounds.BOUNDS.items() if n not in bounds.ON_MOVES}
        functions["hottest_gpus"] = bounds.hottest_gpus
    for name, function in functions.items():
        value = function(problem)[0]
        if np.isnan(value):
            continue
        certificate = {"method": name}
        if name == "hot_on_few_gpus":
            certificate["hottest"] = hottest_experts(problem)[0]
        if name == "hottest_gpus":
            certificate = bounds.certified_hottest_gpus(problem)[1][0]
        verdict = verify(problem, claim(problem, value, certificate)).layers[0]
        assert verdict.bound == "proven", f"{name}: {verdict.reason}"


@pytest.mark.parametrize("seed", range(60))
def test_no_certificate_proves_more_than_the_optimum(seed):
    problem = random_problem(seed)
    best = verify(problem, solve_brute_force(problem, tolerance=0))
    if problem.objective == "moves" or best.layers[0].makespan is None:
        return
    optimum = best.layers[0].makespan
    above = math.nextafter(float(optimum), math.inf)
    assert Fraction(above) > optimum
    by_load = np.argsort(-problem.load.values[0], kind="stable").tolist()
    forged = [{"method": name} for name in ("mean_load", "hottest_replica", "hottest_with_companions", "node_load")]
    forged += [{"method": "hottest_replica", "group": group} for group in range(problem.num_groups)]
    for method in ("hot_on_few_gpus", "hottest_gpus"):
        forged += [{"method": method, "hottest": by_load[:j]} for j in range(1, problem.num_experts + 1)]
    for certificate in forged:
        assert not accepts(problem, above, certificate), certificate


@pytest.mark.parametrize("seed", range(40))
def test_no_pairing_or_configuration_certificate_proves_more_than_the_optimum(seed):
    """Whatever points, weights and prices: a proof that holds is one of a true bound."""
    rng = np.random.default_rng(seed)
    gpus, slots = [(1, 3), (1, 4), (2, 2), (2, 3), (2, 4), (3, 2), (4, 2)][rng.integers(7)]
    experts = int(rng.integers(2, min(gpus * slots, 8) + 1))
    problem = PlacementProblem(rng.integers(0, 30, (1, experts)), gpus, gpus * slots, allow_empty_slots=True)
    optimum = verify(problem, solve_brute_force(problem, tolerance=0)).layers[0].makespan
    above = math.nextafter(float(optimum), math.inf)
    proven = 0
    for _ in range(40):
        prices = rng.integers(0, 20, experts).tolist()
        needed = -(-sum(prices) // gpus)
        certificate = {"method": "configuration_lp", "prices": prices, "needed": needed, "threshold": above}
        assert not accepts(problem, above, certificate)
        proven += accepts(problem, 0.5, certificate | {"threshold": 0.5})
        other = rng.integers(0, 20, experts).tolist()
        tree = {
            "expert": int(rng.integers(experts)),
            "split": int(rng.integers(0, 4)),
            "fewer": {"prices": prices, "needed": needed},
            "more": {"prices": other, "needed": -(-sum(other) // gpus)},
        }
        assert not accepts(problem, above, {"method": "configuration_tree", "threshold": above, "tree": tree})
        points, weights = rng.uniform(0, above, 3).tolist(), rng.integers(0, 4, 3).tolist()
        step = {"points": points, "weights": weights}
        certificate = {"method": "pairing_lp", "threshold": above, "rounds": [step]}
        assert not accepts(problem, above, certificate)
        splits = zip(rng.integers(0, experts, 3).tolist(), rng.integers(1, 4, 3).tolist(), strict=True)
        nodes = [node for split in splits for node in ([1, *split], [1])] + [[1]]
        rounds = rng.integers(0, 20, (len(nodes), experts)).tolist()
        tree = {"method": "pairing_tree", "threshold": above, "slot": 5, "prices": rounds, "nodes": nodes}
        assert not accepts(problem, above, tree)
    assert proven or optimum < 1


def test_pairing_and_configuration_bounds_are_proven_again():
    for method in ("pairing_lp", "pairing_walks"):
        problem, solution = pairs(method)
        assert verify(problem, solution).proven
    for found in (triples, branched, branched_pairs):
        problem, certificate = found()
        assert accepts(problem, certificate["threshold"], certificate)


@pytest.mark.parametrize("slots", [2, 4])
def test_configuration_bounds_are_proven_again_with_two_and_four_slots(slots):
    for seed in range(5):
        load = np.ceil(np.random.default_rng(seed).lognormal(4, 1.0, 6 * slots - 3)).astype(np.int64)
        problem = PlacementProblem(load, 6, 6 * slots)
        certificate = json.loads(json.dumps(configuration_bound(load, 6, slots).certificate))
        assert accepts(problem, certificate["threshold"], certificate)


def test_bounds_of_a_search_are_reported_as_such():
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    solution = forged(solve_cpsat(problem, tolerance=0), bound_source=("cpsat",), certificate=(None,))
    verification = verify(problem, solution)
    assert verification.ok
    assert not verification.proven
    assert verification.layers[0].bound == "solver's claim"
    assert "rests on the search of cpsat" in verification.layers[0].reason


def test_an_unsolved_and_an_infeasible_layer_are_not_rejected():
    problem = PlacementProblem([[4, 4, 1, 1]], 2, reference=[[0, 1, 2, 3]], max_makespan=4.9)
    solution = solve_cpsat(problem)
    assert solution.status == (SolveStatus.INFEASIBLE,)
    verdict = verify(problem, solution).layers[0]
    assert verdict.ok
    assert (verdict.placement_ok, verdict.bound) == (None, "unknown")


def test_a_full_scale_recording_is_checked_whole(recording):
    for gpus, slots in ((8, 256), (64, 256), (144, 288)):
        problem = PlacementProblem(recording("deepseek-v3/prefill_in1024"), gpus, slots, allow_empty_slots=True)
        solution = certified(problem, eplb(problem))
        assert verify(problem, solution).proven


@pytest.mark.parametrize("seed", range(20))
def test_a_cover_certificate_proves_exactly_what_no_placement_stays_below(seed):
    """Every threshold up to the optimum is proven, every one above it rejected."""
    rng = np.random.default_rng(seed)
    gpus, slots = [(2, 4), (3, 3), (4, 2), (3, 2)][seed % 4]
    loads = [rng.integers(0, 20, (1, gpus * slots)), rng.lognormal(0, 1, (1, gpus * slots))][seed % 2]
    problem = PlacementProblem(loads, gpus)
    optimum = verify(problem, solve_brute_force(problem, tolerance=0)).layers[0].makespan
    highest = float(optimum) if Fraction(float(optimum)) <= optimum else math.nextafter(float(optimum), 0.0)
    for share in (0.1, 0.9, 0.99, 1.0):
        value = highest * share
        assert accepts(problem, value, {"method": "window_cover", "threshold": value})
    for above in (math.nextafter(highest, math.inf), highest * 1.01 + 1, highest * 2 + 1):
        assert not accepts(problem, above, {"method": "window_cover", "threshold": above})
