import copy
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

from moeopt.balancers.pairing import paired_makespan
from moeopt.errors import UnsupportedError
from moeopt.problem import PlacementProblem
from moeopt.solution import SolveStatus
from moeopt.verify import verify, verify_bound
from solvers.brute_force import solve_brute_force
from solvers.drive import Limits, known_before
from solvers.pairing.branch import STEPS, Left, Tree, squeeze
from solvers.pairing.decide import decide
from solvers.pairing.dives import parts
from solvers.pairing.method import _LayerSearch, solve_layer, solve_pairing
from solvers.pairing.model import columns_at, largest_refuted, witness
from solvers.pairing.relaxation import relax
from solvers.pairing.walks import SLOT, Walks
from tests.pairing_certificate import refutes


def small_load(rng, experts):
    """Loads as they hurt: flat with ties, zeros, a dominating expert, or skewed."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 4, experts)
    if kind == 1:
        return np.concatenate([[rng.integers(50, 200)], rng.integers(0, 30, experts - 1)])
    if kind == 2:
        return rng.integers(1, 60, experts)
    return np.ceil(rng.lognormal(3, 1, experts)).astype(int)


def small_problem(rng, **rules):
    gpus = int(rng.integers(1, 5))
    experts = int(rng.integers(2, 2 * gpus + 1))
    return PlacementProblem(small_load(rng, experts), gpus, 2 * gpus, **rules)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("allow_empty_slots", [True, False])
def test_optimum_agrees_with_brute_force(seed, allow_empty_slots):
    problem = small_problem(np.random.default_rng(seed), allow_empty_slots=allow_empty_slots)
    oracle = solve_brute_force(problem).makespan[0]
    solution = solve_pairing(problem, tolerance=0.0)
    assert solution.is_optimal
    assert solution.makespan[0] == pytest.approx(oracle, rel=2e-6)
    assert solution.lower_bound[0] <= oracle * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("allow_empty_slots", [True, False])
def test_without_colocation_the_bound_holds_and_optimal_is_optimal(seed, allow_empty_slots):
    rng = np.random.default_rng(1000 + seed)
    problem = small_problem(rng, allow_empty_slots=allow_empty_slots, allow_colocated=False)
    oracle = solve_brute_force(problem).makespan[0]
    solution = solve_pairing(problem, tolerance=0.0)
    assert solution.lower_bound[0] <= oracle * (1 + 1e-12)
    assert solution.makespan[0] >= oracle * (1 - 1e-12)
    if solution.is_optimal:
        assert solution.makespan[0] == pytest.approx(oracle, rel=2e-6)


def medium_problem(seed, experts=40, gpus=24):
    load = np.ceil(np.random.default_rng(seed).lognormal(6, 0.8, experts)).astype(np.int64)
    return PlacementProblem(load, gpus, 2 * gpus, allow_empty_slots=True)


def proofs(method, wanted=5):
    """Layers whose bound rests on ``method``: (problem, solution), certificates through JSON."""
    found = []
    for seed in range(40):
        problem = medium_problem(seed)
        solution = solve_pairing(problem)
        if solution.bound_source[0] == method:
            found.append((problem, solution, json.loads(json.dumps(solution.certificate[0]))))
        if len(found) == wanted:
            break
    assert len(found) == wanted
    return found


def check(problem, certificate):
    return refutes(problem.load.values[0].tolist(), problem.slots, problem.max_replicas, certificate)


def test_linear_bounds_are_refuted_again_in_exact_arithmetic():
    for problem, solution, certificate in proofs("pairing_lp"):
        assert certificate["threshold"] == solution.lower_bound[0]
        assert check(problem, certificate)


def test_forged_certificates_are_rejected():
    for problem, solution, certificate in proofs("pairing_lp", wanted=2):
        higher = copy.deepcopy(certificate) | {"threshold": float(solution.makespan[0])}
        assert not check(problem, higher)
        assert not check(problem, certificate | {"rounds": []})
        empty = copy.deepcopy(certificate)
        for weighted in empty["rounds"]:
            weighted["weights"] = [0] * len(weighted["weights"])
        assert not check(problem, empty)
        negative = copy.deepcopy(certificate)
        for weighted in negative["rounds"]:
            weighted["weights"] = [-weight for weight in weighted["weights"]]
        assert not check(problem, negative)


def choice_exists(load, num_slots, threshold, choices):
    """Ask HiGHS, with one dense row for every size above half the threshold, for a count per expert."""
    expert = np.array([e for e, counts in enumerate(choices) for _ in counts])
    count = np.array([c for counts in choices for c in counts])
    size = load[expert] / count
    points = [2 * threshold, *np.unique(size[size > threshold / 2])]
    rows = [count * (1.0 * (size >= v) + (size > threshold - v)) for v in points]
    one_each = LinearConstraint((expert == np.arange(len(load))[:, None]).astype(float), 1, 1)
    fits = LinearConstraint(np.array(rows), -np.inf, num_slots)
    result = milp(np.zeros(len(count)), constraints=[one_each, fits], integrality=np.ones(len(count)), bounds=(0, 1))
    assert result.status in (0, 2)
    return result.status == 0


def fitting(problem, threshold):
    load = problem.load.values[0].astype(float)
    return [[c for c in range(1, problem.max_replicas + 1) if w / c <= threshold] for w in load]


def before_any_price(problem, threshold):
    """All counts at a threshold, with price 0 for every expert."""
    load = problem.load.values[0].astype(float)
    columns = columns_at(load, threshold * (1 + 1e-9), problem.slots, problem.max_replicas)
    return Left(Walks.over(columns, float(load.sum())), np.zeros(len(load)), np.ones(len(load)))


def test_what_prices_refute_two_other_solvers_cannot_reach_either():
    for problem, solution, certificate in proofs("pairing_walks"):
        assert verify(problem, solution).proven
        load, threshold = problem.load.values[0].astype(float), certificate["threshold"]
        assert not choice_exists(load, problem.slots, threshold, fitting(problem, threshold))
        columns = columns_at(load, threshold * (1 + 1e-9), problem.slots, problem.max_replicas)
        assert decide(columns, solution.placement.replica_count[0], 10.0, 5.0, Limits()).infeasible


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_grown_where_a_choice_exists_ends_at_counts_that_reach_the_threshold(seed):
    problem = medium_problem(seed)
    load = problem.load.values[0].astype(float)
    threshold = float(solve_pairing(problem).makespan[0]) * (1 + 1e-9)
    met = []

    def reaches(counts):
        met.append(counts)
        return counts.sum() <= problem.slots and paired_makespan(load, counts, problem.slots) <= threshold

    left = squeeze(before_any_price(problem, threshold), STEPS, Limits())
    assert not left.nothing
    assert Tree(left, Limits()).grow(reaches, 1e9)
    assert reaches(met[-1])


def best_stock(columns, prices, slots_in_all):
    """Value of the most valuable set of columns whose copies fit on the GPUs two by two, by trying all sets."""
    best = -math.inf
    for chosen in itertools.product((False, True), repeat=len(columns.expert)):
        taken = np.flatnonzero(chosen)
        sizes = np.repeat(columns.size[taken], columns.count[taken])
        for empty in range(slots_in_all - len(sizes) + 1):
            lone = [columns.threshold / 2] * ((len(sizes) + empty) % 2)  # beside a small copy that has a GPU to itself
            pairs = np.sort(np.concatenate([sizes, np.zeros(empty), lone]))
            if (pairs + pairs[::-1] <= columns.threshold * (1 + 1e-12)).all():
                best = max(best, prices[columns.expert[taken]].sum() - SLOT * (len(sizes) + empty))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_best_walk_is_worth_the_most_valuable_stock_of_copies_that_fits_on_the_gpus(seed):
    rng = np.random.default_rng(seed)
    load = small_load(rng, 4).astype(float) + 1
    columns = columns_at(load, float(load.max()) * rng.uniform(0.6, 1.1), 8, 3)
    if columns is None or len(columns.expert) > 9:
        columns = columns_at(load, float(load.max()), 8, 2)
    prices = rng.integers(0, 4 * SLOT, 4)
    roomy = Walks.over(columns, -1e9)  # with as much slack, no walk is ruled out for what it wastes
    lacking = roomy.weigh(prices)[1]
    worth = int(prices.sum()) - (columns.num_slots + lacking) * SLOT
    assert worth == best_stock(columns, prices, 2 * 12)


@pytest.mark.parametrize("seed", range(30))
def test_any_prices_whatsoever_strike_out_no_placement_that_exists(seed):
    rng = np.random.default_rng(seed)
    problem = small_problem(rng, allow_empty_slots=True)
    best = solve_brute_force(problem)
    threshold = (float(best.makespan[0]) or 1.0) * (1 + 1e-12)  # the true makespan may be rounded off
    counts = best.placement.replica_count[0]
    left = before_any_price(problem, threshold)
    for _ in range(20):
        left = left.strike(rng.integers(0, 3 * SLOT, problem.num_experts))
        assert not left.nothing
        assert left.lacking <= 0
    held = {(e, c) for e, c in zip(left.walks.expert.tolist(), left.walks.count.tolist(), strict=True)}
    smaller = [max(c for c in range(1, n + 1) if (e, c) in held or c == 1) for e, n in enumerate(counts.tolist())]
    assert paired_makespan(problem.load.values[0].astype(float), np.array(smaller), problem.slots) <= threshold


def test_the_solver_asked_in_these_tests_finds_a_choice_where_there_is_one():
    problem = medium_problem(0)
    makespan = float(solve_pairing(problem).makespan[0]) * (1 + 1e-9)
    load = problem.load.values[0].astype(float)
    assert choice_exists(load, problem.slots, makespan, fitting(problem, makespan))


def test_partition_is_exact_however_large():
    load = np.random.default_rng(0).integers(1, 10**6, 20_000)
    solution = solve_pairing(PlacementProblem(load, 10_000))
    ordered = np.sort(load)
    assert solution.is_optimal
    assert solution.makespan[0] == (ordered + ordered[::-1]).max()
    assert solution.gap[0] <= 1e-6


def test_time_limit_leaves_a_placement_and_an_honest_bound():
    problem = medium_problem(3, experts=200, gpus=130)
    solution = solve_pairing(problem, time_limit=0.05)
    problem.check(solution.placement)
    assert solution.status[0] in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE)
    assert solution.lower_bound[0] <= solve_pairing(problem, time_limit=3).makespan[0]


def test_a_hint_is_not_worsened():
    problem = medium_problem(5)
    best = solve_pairing(problem)
    again = solve_pairing(problem, start=best.placement, time_limit=0.01)
    assert again.makespan[0] <= best.makespan[0] * (1 + 1e-12)


def test_all_loads_zero_cost_nothing():
    solution = solve_pairing(PlacementProblem(np.zeros(5, dtype=int), 4, 8))
    assert solution.is_optimal
    assert solution.makespan[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 2, "num_slots": 6}, "needs slots_per_gpu=2, got 3"),
        ({"num_gpus": 2, "num_nodes": 2, "num_groups": 2}, "num_nodes=2"),
        ({"num_gpus": 2, "reference": [[0, 1, 2, 3]], "max_moves": 1}, "max_moves"),
    ],
)
def test_other_problems_are_refused_with_the_reason(arguments, message):
    with pytest.raises(UnsupportedError, match=message):
        solve_pairing(PlacementProblem([4, 3, 2, 1], **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decode_in1000out1000", "prefill_in1024"])
def test_recorded_layers_on_144_gpus_are_proven_optimal(recording, name):
    load = recording(f"deepseek-v3/{name}")[::12]
    solution = solve_pairing(PlacementProblem(load, 144, 288, allow_empty_slots=True))
    assert solution.is_optimal
    assert (solution.gap <= 1e-4).all()


def test_dives_come_within_two_percent_of_the_optimum():
    for seed in range(5):
        problem = medium_problem(seed)
        load = problem.load.values[0].astype(float)
        optimum = solve_pairing(problem)
        left = squeeze(before_any_price(problem, float(optimum.makespan[0]) * 1.02), STEPS, Limits())
        found = []

        def reaches(counts, load=load, problem=problem, found=found, threshold=optimum.makespan[0] * 1.02):
            if counts.sum() <= problem.slots:
                found.append(paired_makespan(load, counts, problem.slots))
            return bool(found) and min(found) <= threshold

        start = optimum.placement.replica_count[0]
        for part in parts(left, start, 0, np.random.default_rng(seed), Limits()):
            Tree(part, Limits()).grow(reaches, 1e6)
        assert min(found) <= optimum.makespan[0] * 1.02


@pytest.mark.parametrize("seed", range(10))
def test_weights_from_any_threshold_bound_as_far_as_they_refute(seed):
    problem = medium_problem(seed)
    load = problem.load.values[0].astype(float)
    size = problem.slots, problem.max_replicas
    optimum = float(solve_pairing(problem).makespan[0])
    refuted = set()
    for share in (0.9, 0.97, 1.001, 1.03):
        columns = columns_at(load, optimum * share, *size)
        weights = relax(columns)
        at_once = check(problem, {"threshold": optimum * share, "rounds": [witness(columns, weights)]})
        bound = largest_refuted(load, *size, witness(columns, weights), optimum * 0.5, optimum * 1.1)
        assert bound < optimum
        assert bound >= optimum * share * (1 - 1e-6) or not at_once
        assert bound == optimum * 0.5 or check(problem, {"threshold": bound, "rounds": [witness(columns, weights)]})
        refuted.add(at_once)
    assert refuted == {True, False}


def refuted_by_relaxation(search, threshold):
    columns = columns_at(search.load, threshold, search.problem.slots, search.problem.max_replicas)
    return columns is None or check(
        search.problem, {"threshold": threshold, "rounds": [witness(columns, relax(columns))]}
    )


# From seed 20 on, the least excess is 0 at the first makespan and over a wide range below it.
@pytest.mark.parametrize("seed", [0, 1, 2, 20, 28, 35, 53, 88, 104])
def test_prices_bring_the_bound_to_where_the_relaxation_no_longer_refutes(seed):
    search = _LayerSearch(known_before(medium_problem(seed), None, 1e-4), Limits(None, 1e-4))
    start = search.bound
    search._tighten()
    problem = search.problem
    assert verify_bound(problem, search.proven).proven
    further = search.bound + (search._ceiling() - start) / 8
    assert further > search._ceiling() or not refuted_by_relaxation(search, further)


@dataclass(frozen=True)
class StopAtLook(Limits):
    """The time is over from the look at the clock with this number on."""

    looks: Iterator[int] = field(default_factory=itertools.count)
    last: int = 0

    @property
    def left(self):
        return math.inf if next(self.looks) < self.last else 0.0


@pytest.mark.parametrize("seed", [2, 3, 35, 104])
def test_a_stop_at_any_moment_keeps_the_best_bound_and_its_certificate(seed):
    problem = medium_problem(seed)
    known = known_before(problem, None, 1e-6)
    found = []
    for look in range(14):
        solution = known.join(solve_layer(problem, known, StopAtLook(tolerance=1e-6, last=look)))
        found.append(solution.lower_bound[0])
        verdict = verify(problem, solution).layers[0]
        assert verdict.bound == ("solver's claim" if solution.bound_source == ("pairing_cpsat",) else "proven")
    assert found == sorted(found)
    assert found[-1] > found[0]
