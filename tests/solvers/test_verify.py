"""The independent check: genuine solutions pass, forged ones are rejected with a reason and never with a crash."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from moeopt import Placement, PlacementProblem, SolveStatus, bounds
from moeopt.balancers import contiguous, eplb
from moeopt.solution import LayerOutcome, conclude
from solvers import (
    configuration_bound,
    solve_brute_force,
    solve_cpsat,
    solve_milp,
    solve_pairing,
    verify,
    verify_bounds,
)
from tests.solvers.problems import random_problem


def certified(problem, phy2log=None, **outcome):
    """A solution as ``conclude`` makes it, its certificates carried through JSON."""
    solution = conclude(problem, [LayerOutcome(phy2log=phy2log, **outcome)])
    return replace(solution, certificate=tuple(json.loads(json.dumps(solution.certificate))))


def claim(problem, value, certificate, source="forged"):
    """A bound without a placement."""
    empty = conclude(problem, [LayerOutcome()] * problem.num_layers)
    return replace(
        empty,
        lower_bound=np.full(problem.num_layers, value),
        bound_source=(source,) * problem.num_layers,
        certificate=(certificate,) * problem.num_layers,
    )


def accepts(problem, value, certificate):
    verdict = verify(problem, claim(problem, value, certificate)).layers[0]
    assert verdict.bound in ("proven", "rejected")
    assert verdict.reason.startswith("REJECTED") == (verdict.bound == "rejected")
    return verdict.bound == "proven"


def largest_proven(problem, certificate, low, high):
    """The largest float that a check accepts, by bisection over floats."""
    assert accepts(problem, low, certificate)
    assert not accepts(problem, high, certificate)
    while math.nextafter(low, high) < high:
        middle = low + (high - low) / 2
        middle = middle if low < middle < high else math.nextafter(low, high)
        low, high = (middle, high) if accepts(problem, middle, certificate) else (low, middle)
    return low


# Genuine solutions


@pytest.mark.parametrize("seed", range(50))
def test_what_brute_force_finds_on_any_variant_is_never_rejected(seed):
    problem = random_problem(seed)
    solution = solve_brute_force(problem, gap=0)
    verification = verify(problem, solution)
    assert verification.ok, str(verification)
    if solution.status[0] is SolveStatus.OPTIMAL:
        exact = verification.layers[0].makespan
        assert float(exact) == pytest.approx(solution.makespan[0], rel=1e-12)


@pytest.mark.parametrize("solver", [solve_cpsat, solve_milp], ids=["cpsat", "highs"])
@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_what_solvers_find_on_any_variant_is_never_rejected(seed, solver):
    problem = random_problem(seed)
    assert verify(problem, solver(problem, gap=0)).ok


@pytest.mark.parametrize("seed", range(80))
def test_every_combinatorial_bound_is_proven_exactly(seed):
    """Each bound by itself, with the certificate that goes with it."""
    problem = random_problem(seed)
    if problem.objective == "moves":
        functions = {"moves_needed": bounds.moves_needed}
    else:
        functions = {**bounds.BOUNDS, "hottest_gpus": bounds.hottest_gpus}
    for name, function in functions.items():
        value = function(problem)[0]
        if np.isnan(value):
            continue
        certificate = {"method": name}
        if name == "hot_on_few_gpus":
            certificate["hottest"] = bounds.partition.hottest_experts(problem)[0]
        if name == "hottest_gpus":
            certificate = bounds.certified_hottest_gpus(problem)[1][0]
        verdict = verify(problem, claim(problem, value, certificate)).layers[0]
        assert verdict.bound == "proven", f"{name}: {verdict.reason}"


@pytest.mark.parametrize("seed", range(60))
def test_no_certificate_proves_more_than_the_optimum(seed):
    problem = random_problem(seed)
    best = verify(problem, solve_brute_force(problem, gap=0))
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
    optimum = verify(problem, solve_brute_force(problem, gap=0)).layers[0].makespan
    above = math.nextafter(float(optimum), math.inf)
    proven = 0
    for _ in range(40):
        prices = rng.integers(0, 20, experts).tolist()
        needed = -(-sum(prices) // gpus)
        certificate = {"method": "configuration_lp", "prices": prices, "needed": needed, "threshold": above}
        assert not accepts(problem, above, certificate)
        proven += accepts(problem, 0.5, certificate | {"threshold": 0.5})
        points, weights = rng.uniform(0, above, 3).tolist(), rng.integers(0, 4, 3).tolist()
        certificate = {"method": "pairing_lp", "threshold": above, "rounds": [{"points": points, "weights": weights}]}
        assert not accepts(problem, above, certificate)
    assert proven or optimum < 1


@cache
def pairs():
    """A problem of two slots a GPU, and a solution of it proven by the linear program."""
    for seed in range(40):
        load = np.ceil(np.random.default_rng(seed).lognormal(6, 0.8, 40)).astype(np.int64)
        problem = PlacementProblem(load, 24, 48, allow_empty_slots=True)
        solution = solve_pairing(problem)
        if solution.bound_source == ("pairing_lp",):
            return problem, replace(solution, certificate=tuple(json.loads(json.dumps(solution.certificate))))
    raise AssertionError("no instance")


@cache
def triples():
    """A problem of three slots a GPU, and a configuration-LP bound of it."""
    load = np.ceil(np.random.default_rng(4).lognormal(6, 1.3, 24)).astype(np.int64)
    problem = PlacementProblem(load, 10, 30, allow_empty_slots=True)
    found = configuration_bound(load, 10, 3)
    assert found.value > bounds.lower_bound(problem).value[0]
    return problem, json.loads(json.dumps(found.certificate))


def test_pairing_and_configuration_bounds_are_proven_again():
    problem, solution = pairs()
    assert verify(problem, solution).proven
    problem, certificate = triples()
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
    solution = replace(solve_cpsat(problem, gap=0), bound_source=("cpsat",), certificate=(None,))
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
        solution = conclude(problem, [LayerOutcome(phy2log=row) for row in eplb(problem).phy2log])
        assert verify(problem, solution).proven


# Forged bounds


PARTITION = PlacementProblem([[40, 39, 38, 20, 11, 10, 9, 5, 4, 3, 2, 1]], 3)
REPLICATED = PlacementProblem([[0.1, 0.7, 1.3, 5.9]], 3, 6)
HIERARCHICAL = PlacementProblem([[9, 8, 7, 1, 5, 1, 1, 1]], 4, 12, num_nodes=2, num_groups=4)
BOUNDS = [
    (PARTITION, {"method": "mean_load"}),
    (PARTITION, {"method": "hottest_replica"}),
    (PARTITION, {"method": "hottest_with_companions"}),
    (PARTITION, {"method": "hot_on_few_gpus", "hottest": [0, 1, 2, 3]}),
    (PARTITION, {"method": "hottest_gpus", "hottest": [0, 1, 2]}),
    (REPLICATED, {"method": "mean_load"}),
    (REPLICATED, {"method": "hottest_replica"}),
    (REPLICATED, {"method": "hottest_with_companions"}),
    (HIERARCHICAL, {"method": "hottest_replica", "group": 0}),
    (HIERARCHICAL, {"method": "node_load"}),
]


@pytest.mark.parametrize(("problem", "certificate"), BOUNDS)
def test_a_bound_one_ulp_above_what_its_certificate_proves_is_rejected(problem, certificate):
    highest = largest_proven(problem, certificate, 0.0, 1000.0)
    assert highest > 0
    assert not accepts(problem, math.nextafter(highest, math.inf), certificate)


def test_the_largest_value_proven_is_the_formulas_own():
    load = [Fraction(value) for value in REPLICATED.load.values[0].tolist()]
    mean = largest_proven(REPLICATED, {"method": "mean_load"}, 0.0, 1000.0)
    assert Fraction(mean) <= sum(load) / 3 < Fraction(math.nextafter(mean, math.inf))
    hottest = largest_proven(REPLICATED, {"method": "hottest_replica"}, 0.0, 1000.0)
    assert Fraction(hottest) <= load[3] / 3 < Fraction(math.nextafter(hottest, math.inf))
    assert largest_proven(PARTITION, {"method": "mean_load"}, 0.0, 1000.0) == math.ceil(182 / 3)
    assert largest_proven(PARTITION, {"method": "hottest_with_companions"}, 0.0, 1000.0) == 40 + 1 + 2 + 3


@pytest.mark.parametrize(
    "hottest",
    [
        [0, 1, 2, 4],
        [0, 0, 1, 2],
        [0, 1, 2, 12],
        [0, 1, 2, -1],
        [],
        [0.0, 1, 2, 3],
        "0123",
        None,
        [[0]],
    ],
)
@pytest.mark.parametrize("method", ["hot_on_few_gpus", "hottest_gpus"])
def test_a_wrong_list_of_hottest_experts_is_rejected(method, hottest):
    value = largest_proven(PARTITION, {"method": method, "hottest": [0, 1, 2, 3]}, 0.0, 1000.0)
    assert not accepts(PARTITION, value, {"method": method, "hottest": hottest})


def test_partition_certificates_prove_nothing_where_there_are_replicas():
    problem = PlacementProblem([[40, 39, 38, 20, 11, 10]], 4, 8)
    assert not accepts(problem, 1.0, {"method": "hot_on_few_gpus", "hottest": [0]})
    assert not accepts(problem, 1.0, {"method": "hottest_gpus", "hottest": [0, 1]})
    assert not accepts(problem, 1.0, {"method": "node_load"})


def test_hottest_gpus_too_large_to_search_is_left_undecided(monkeypatch):
    problem, certificate = (
        PlacementProblem([[26, 26, 26, 11, 10, 8, 6, 5, 1]], 3),
        {"method": "hottest_gpus", "hottest": [0, 1, 2]},
    )
    assert not accepts(problem, 41.0, certificate | {"method": "hot_on_few_gpus"})
    assert accepts(problem, 41.0, certificate)
    monkeypatch.setattr(verify_bounds, "MAX_DEALS", 3)
    verdict = verify(problem, claim(problem, 41.0, certificate)).layers[0]
    assert (verdict.ok, verdict.bound) == (True, "unknown")
    assert "takes too long" in verdict.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"threshold": c["threshold"] * 1.01},
        lambda c: {"needed": c["needed"] + 1},
        lambda c: {"needed": round(c["needed"] * 0.99)},
        lambda c: {"prices": [-1, *c["prices"][1:]]},
        lambda c: {"prices": c["prices"][1:]},
        lambda c: {"prices": [0] * len(c["prices"])},
        lambda c: {"prices": c["prices"][::-1]},
        lambda c: {"prices": [float(price) for price in c["prices"]]},
        lambda c: {"threshold": c["threshold"] * 0.99},
        lambda c: {"threshold": math.inf},
        lambda c: {"threshold": math.nan},
        lambda c: {"threshold": True},
        lambda c: {"needed": None},
    ],
)
def test_forged_configuration_certificates_are_rejected(change):
    problem, certificate = triples()
    forged = certificate | change(certificate)
    value = max(certificate["threshold"], forged["threshold"])
    assert not accepts(problem, value if math.isfinite(value) else certificate["threshold"], forged)


@pytest.mark.parametrize(
    "change",
    [
        lambda c, high: {"threshold": high},
        lambda c, high: {"rounds": []},
        lambda c, high: {"rounds": None},
        lambda c, high: {"rounds": [7]},
        lambda c, high: {"rounds": [{}]},
        lambda c, high: {"rounds": [step | {"weights": [-w for w in step["weights"]]} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"weights": step["weights"][1:]} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"points": ["x"] * len(step["points"])} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"points": [math.nan] * len(step["points"])} for step in c["rounds"]]},
        lambda c, high: {"threshold": c["threshold"] * 0.999},
    ],
)
def test_forged_pairing_certificates_are_rejected(change):
    problem, solution = pairs()
    certificate = solution.certificate[0]
    high = float(solution.makespan[0])
    forged = certificate | change(certificate, high)
    assert not accepts(problem, max(certificate["threshold"], forged["threshold"]), forged)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_pair_that_just_fits_is_not_refuted(rounds):
    """Sizes 3 and 2 make 5: at the point 3 they cost exactly what a GPU may cost."""
    problem = PlacementProblem([[3, 2]], 1)
    step = {"points": [3.0], "weights": [1]}
    assert not accepts(problem, 5.0, {"method": "pairing_lp", "threshold": 5.0, "rounds": [step] * rounds})
    assert accepts(problem, 4.5, {"method": "pairing_lp", "threshold": 4.5, "rounds": [step] * rounds})


def test_a_pairing_search_relabelled_as_a_linear_proof_is_rejected():
    problem, solution = pairs()
    searched = solution.certificate[0] | {"method": "pairing_cpsat", "rounds": []}
    claimed = replace(solution, bound_source=("pairing_cpsat",), certificate=(searched,))
    assert verify(problem, claimed).layers[0].bound == "solver's claim"
    assert not accepts(problem, solution.lower_bound[0], searched | {"method": "pairing_lp"})


def test_the_certificate_of_another_layer_is_rejected():
    first, second = [40, 39, 38, 20, 11, 10, 9, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 9, 10, 11, 20, 38, 39, 40]
    problem = PlacementProblem([first, second], 3)
    solution = claim(problem, 1.0, None)
    own = ({"method": "hot_on_few_gpus", "hottest": [0, 1, 2]}, {"method": "hot_on_few_gpus", "hottest": [11, 10, 9]})
    assert verify(problem, replace(solution, certificate=own)).proven
    assert not verify(problem, replace(solution, certificate=own[::-1])).ok


@pytest.mark.parametrize(
    "certificate",
    [
        {}, [], "mean_load", 7, {"method": None}, {"method": ["mean_load"]}, {"method": "trust_me"},
        {"Method": "mean_load"}, {"method": "cpsat"}, {"method": "moves_needed"}, {"method": "hottest_gpus"},
        {"method": "hottest_replica", "group": 99}, {"method": "hottest_replica", "group": -1},
        {"method": "hottest_replica", "group": 10**5000}, {"method": "hottest_replica", "group": "0"},
        {"method": "pairing_lp"}, {"method": "pairing_lp", "threshold": 10**400, "rounds": []},
        {"method": "pairing_cpsat", "threshold": 60.0}, {"method": "configuration_lp"},
        {"method": "configuration_lp", "threshold": 1e308},
    ],
)  # fmt: skip
def test_malformed_and_unknown_certificates_are_rejected_without_a_crash(certificate):
    assert not accepts(PARTITION, 60.0, certificate)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_bound_is_rejected(value):
    assert not accepts(PARTITION, value, {"method": "mean_load"})


# Forged placements, numbers and statuses


def genuine(**rules):
    rules = {"num_slots": 8, "allow_empty_slots": True} | rules
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, **rules)
    solution = solve_brute_force(problem, gap=0)
    assert verify(problem, solution).ok
    return problem, solution


def placed(solution, phy2log):
    return replace(solution, placement=Placement(phy2log, 6, 4))


def reason(problem, solution):
    verification = verify(problem, solution)
    assert not verification.ok
    assert verification.layers[0].reason.startswith("REJECTED")
    assert "REJECTED" in str(verification)
    return verification.layers[0].reason


@pytest.mark.parametrize(
    ("rules", "phy2log", "message"),
    [
        ({}, [0, 1, 2, 3, 4, 0, 1, 2], "expert 5 has no slot"),
        ({"allow_empty_slots": False}, [0, 1, 2, 3, 4, 5, -1, -1], "slot 6 is empty"),
        ({"allow_colocated": False}, [0, 0, 1, 2, 3, 4, 5, -1], "GPU 0 holds expert 0 twice"),
        ({"num_nodes": 2, "num_groups": 2}, [0, 3, 1, 2, 4, 5, -1, -1], "node 0 hosts 2 groups"),
        ({"reference": [[0, 1, 2, 3, 4, 5, 0, 4]], "max_moves": 2}, [5, 4, 3, 2, 1, 0, 0, 4], "exceed max_moves=2"),
        (
            {"reference": [[0, 1, 2, 3, 4, 5, 0, 4]], "max_makespan": 10.0},
            [0, 4, 1, 2, 3, 5, -1, -1],
            "max_makespan=10",
        ),
    ],
)
def test_a_placement_that_breaks_a_rule_is_rejected(rules, phy2log, message):
    problem, solution = genuine(**rules)
    forged = placed(solution, phy2log)
    load = problem.load.values[0]
    count = np.bincount([e for e in phy2log if e >= 0], minlength=6)
    share = np.append(load / np.maximum(count, 1), 0)
    makespan = share[np.array(phy2log)].reshape(4, 2).sum(axis=1).max(keepdims=True)
    moves = np.array([np.nan])
    if problem.reference is not None:
        gpus = zip(
            problem.reference.phy2log[0].reshape(4, 2).tolist(), np.reshape(phy2log, (4, 2)).tolist(), strict=True
        )
        moves = np.array([float(sum(e >= 0 and e not in old for old, new in gpus for e in new))])
    objective = makespan if problem.objective == "makespan" else moves
    assert message in reason(problem, replace(forged, makespan=makespan, moves=moves, objective=objective))


def test_a_removed_copy_is_noticed_in_the_makespan():
    problem, solution = genuine()
    row = solution.placement.phy2log[0].copy()
    copied = next(e for e in range(6) if (row == e).sum() > 1)
    row[np.flatnonzero(row == copied)[0]] = -1
    assert "makespan is" in reason(problem, placed(solution, row))


def test_understated_numbers_are_rejected():
    problem, solution = genuine(reference=[[0, 1, 2, 3, 4, 5, 0, 4]])
    less = solution.makespan * (1 - 1e-8)
    assert "makespan is" in reason(problem, replace(solution, makespan=less, objective=less))
    assert "objective is" in reason(problem, replace(solution, objective=less))
    assert "moves is" in reason(problem, replace(solution, moves=solution.moves - 1))
    assert "makespan is not a finite" in reason(problem, replace(solution, makespan=np.array([np.nan])))


def test_optimal_without_closing_the_gap_is_rejected():
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    solution = certified(problem, contiguous(problem).phy2log[0])
    assert solution.status == (SolveStatus.FEASIBLE,)
    assert verify(problem, solution).ok
    assert "status OPTIMAL" in reason(problem, replace(solution, status=(SolveStatus.OPTIMAL,)))
    unknown = replace(solution, status=(SolveStatus.OPTIMAL,), lower_bound=np.array([np.nan]))
    assert "status OPTIMAL" in reason(problem, unknown)
    assert verify(problem, replace(solution, status=(SolveStatus.OPTIMAL,)), gap=0.5).ok


def test_statuses_that_do_not_fit_the_placement_are_rejected():
    problem, solution = genuine()
    assert "INFEASIBLE with a placement" in reason(problem, replace(solution, status=(SolveStatus.INFEASIBLE,)))
    assert "OPTIMAL without a placement" in reason(problem, replace(solution, placement=None))
    assert "FEASIBLE without" in reason(problem, replace(placed(solution, [-1] * 8), status=(SolveStatus.FEASIBLE,)))


def test_a_bound_above_the_placement_is_rejected_whatever_its_source():
    problem, solution = genuine()
    forged = replace(solution, lower_bound=solution.makespan * 1.001, bound_source=("cpsat",), certificate=(None,))
    assert "the placement reaches" in reason(problem, forged)


def test_a_solution_of_another_shape_is_rejected():
    problem, solution = genuine()
    two = PlacementProblem([[9, 5, 4, 2, 8, 1]] * 2, 4, 8)
    assert not any(verdict.ok for verdict in verify(two, solution).layers)
    assert "the problem (1, 8)" in reason(problem, replace(solution, placement=Placement([[0, 1, 2, 3, 4, 5]], 6, 2)))
    assert "on 2 GPUs" in reason(problem, replace(solution, placement=Placement(solution.placement.phy2log, 6, 2)))
    more = Placement([[0, 1, 2, 3, 4, 5, 6, 7]], 8, 4)
    assert "names no expert" in reason(problem, replace(solution, placement=more))


def test_fewest_moves_are_proven_by_what_the_reference_lacks():
    problem = PlacementProblem([[4, 4, 1, 1]], 2, 6, reference=[[0, 1, 2, 3, -1, -1]], max_makespan=10.0)
    solution = solve_brute_force(problem, gap=0)
    assert verify(problem, solution).proven
    assert not accepts(problem, 3.0, {"method": "moves_needed"})
    assert not accepts(problem, 2.0, {"method": "mean_load"})
