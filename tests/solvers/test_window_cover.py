"""Covers by sets within a window of loads: exact optima of partitions with few slots, refutations that hold."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from moeopt import PlacementProblem, Solution, SolveStatus, Stop, UnsupportedError, bounds, verify
from moeopt.balancers import contiguous
from solvers import solve, solve_cpsat, solve_window_cover
from solvers.drive import Limits
from solvers.window_cover import method, solve_layer

SHAPES = [(2, 3), (3, 2), (2, 4), (4, 2), (3, 3), (2, 5), (4, 3), (3, 4), (6, 2), (2, 6)]
"""GPUs and slots on each whose partitions are few."""


def small(seed):
    """A partition of at most twelve experts: counts, counts with many ties, or fractions."""
    rng = np.random.default_rng(seed)
    gpus, slots = SHAPES[seed % len(SHAPES)]
    experts = gpus * slots
    loads = [rng.integers(0, 1000, experts), rng.integers(0, 5, experts), rng.lognormal(-3, 0.6, experts)][seed % 3]
    return PlacementProblem([loads], gpus)


def optimum(problem):
    """Least makespan of all partitions: the first expert left goes with any others, and so on."""
    unit = 2**80

    def least(loads):
        if not loads:
            return 0
        best = math.inf
        for others in combinations(range(1, len(loads)), problem.slots_per_gpu - 1):
            load = loads[0] + sum(loads[i] for i in others)
            rest = [load for i, load in enumerate(loads) if i and i not in others]
            best = min(best, max(load, least(rest)))
        return best

    return Fraction(least([int(Fraction(load) * unit) for load in problem.load.values[0].tolist()]), unit)


def mild(gpus, slots, seed, sigma=0.5):
    """A mildly skewed layer, the loads log-normal."""
    return PlacementProblem(np.random.default_rng(seed).lognormal(9, sigma, (1, gpus * slots)).astype(int), gpus)


@pytest.mark.parametrize("block", range(4))
def test_bound_status_and_placement_are_those_of_all_placements(block):
    """From the mean load alone, so that every step up is the search's own."""
    raised = 0
    for seed in range(block * 30, block * 30 + 30):
        problem = small(seed)
        best = optimum(problem)
        found = solve_layer(problem, Solution(problem), Limits(tolerance=0))
        assert found.makespan[0] == pytest.approx(float(best), rel=1e-6), seed
        if not math.isnan(found.lower_bound[0]):
            raised += 1
            assert Fraction(float(found.lower_bound[0])) <= best, seed
            assert verify(problem, found).proven, seed
            if problem.load.is_integer:
                assert best <= found.lower_bound[0] * (1 + 1e-6), seed
        known = solve_window_cover(problem, tolerance=0)
        assert known.status == (SolveStatus.OPTIMAL,), seed
        assert known.makespan[0] == pytest.approx(float(best), rel=1e-6), seed
    assert raised > 10


@pytest.mark.parametrize(("gpus", "slots"), [(6, 4), (7, 3), (5, 5)])
def test_it_agrees_with_cpsat_where_enumeration_ends(gpus, slots):
    problem = mild(gpus, slots, 3)
    found, other = solve_window_cover(problem, tolerance=0), solve_cpsat(problem, tolerance=0, time_limit=20)
    assert found.is_optimal
    assert found.lower_bound[0] <= other.makespan[0]
    assert other.lower_bound[0] <= found.makespan[0]


@pytest.mark.parametrize(("gpus", "slots"), [(8, 4), (12, 3), (10, 5), (24, 4)])
def test_layers_near_the_mean_are_closed_and_checked(gpus, slots):
    for seed in range(3):
        problem = mild(gpus, slots, seed)
        found = solve_window_cover(problem)
        assert found.is_optimal
        assert verify(problem, found).proven


def test_solve_closes_them_by_covers_and_hands_the_certificate_on():
    problem = mild(8, 4, 0)
    found = solve(problem)
    assert found.is_optimal
    assert found.bound_source == ("window_cover",)
    assert found.certificate == ({"method": "window_cover", "threshold": found.lower_bound[0]},)


def test_nothing_worse_than_the_hint_is_returned_and_its_bound_is_used():
    problem = mild(8, 4, 1)
    best = solve_window_cover(problem, tolerance=0)
    again = solve_window_cover(problem, tolerance=0, start=best, time_limit=1e-3)
    assert again.is_optimal
    assert again.makespan == best.makespan


def test_what_was_refuted_survives_the_time_limit():
    problem = mild(32, 3, 0, sigma=0.2)
    found = solve_window_cover(problem, tolerance=0, time_limit=0.3)
    problem.check(found.placement)
    assert found.stop == (Stop.TIME_LIMIT,)
    assert found.status == (SolveStatus.FEASIBLE,)
    assert found.bound_source == ("window_cover",)
    assert bounds.lower_bound(problem).value[0] < found.lower_bound[0] <= found.makespan[0]


def test_work_without_a_time_limit_ends_where_it_is_told_to():
    problem = mild(32, 3, 0, sigma=0.2)
    known = Solution(problem, contiguous(problem), bounds.lower_bound(problem))
    less, more = (solve_layer(problem, known, Limits(tolerance=0), work=work) for work in (1_000_000, 20_000_000))
    assert known.lower_bound[0] < less.lower_bound[0] <= more.lower_bound[0]
    assert verify(problem, less).proven
    again = solve_layer(problem, known, Limits(tolerance=0), work=1_000_000)
    assert again.lower_bound == less.lower_bound


def test_a_window_with_too_many_sets_is_left_alone(monkeypatch):
    problem = mild(8, 4, 2)
    monkeypatch.setattr(method, "MAX_SETS", 20)
    found = solve_window_cover(problem, tolerance=0)
    assert found.status == (SolveStatus.FEASIBLE,)
    assert found.lower_bound[0] <= found.makespan[0]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_slots": 8}, "is for partitions, got num_slots=8 for 4 experts"),
        ({"num_nodes": 2, "num_groups": 4}, "knows no nodes and groups, got num_nodes=2"),
        ({"reference": [0, 1, 2, 3], "max_moves": 1}, "neither limits nor minimises moves"),
        ({"reference": [0, 1, 2, 3], "max_makespan": 9.0}, "neither limits nor minimises moves"),
    ],
)
def test_what_it_does_not_take_is_refused(rules, message):
    with pytest.raises(UnsupportedError, match=f"solve_window_cover {message}"):
        solve_window_cover(PlacementProblem([[4, 3, 2, 1]], 2, **rules))
    with pytest.raises(UnsupportedError, match="takes at most 128 experts, got 132"):
        solve_window_cover(PlacementProblem([range(132)], 44))
