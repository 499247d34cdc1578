"""Tiny problems of every variant against every placement there is: values, bounds, statuses, and the check of them."""

import math
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings

from moeopt import SolveStatus, bounds, verify
from moeopt.methods import refusal
from solvers import SOLVERS
from tests.oracles import outcomes
from tests.strategies import problems

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def optimum(problem):
    """Least objective of all placements that keep the rules; None if there is none."""
    kept = outcomes(problem)
    if problem.max_moves is not None:
        kept = {(makespan, moves) for makespan, moves in kept if moves <= problem.max_moves}
    if problem.max_makespan is None:
        return min((makespan for makespan, _ in kept), default=None)
    ceiling = Fraction(problem.ceiling[0])
    return min((moves for makespan, moves in kept if makespan <= ceiling), default=None)


def check(problem, names):
    best = optimum(problem)
    cheap = bounds.lower_bound(problem).value[0]
    if best is not None and not math.isnan(cheap):
        assert Fraction(cheap) <= best
    for name in names:
        if refusal(SOLVERS[name], problem):
            continue
        found = SOLVERS[name](problem, tolerance=0)
        assert verify(problem, found, tolerance=1e-6).ok, (name, str(verify(problem, found, tolerance=1e-6)))
        if best is None:
            assert found.status == (SolveStatus.INFEASIBLE,), name
            continue
        assert found.lower_bound[0] <= float(best) * (1 + 1e-12), name
        assert found.objective[0] == pytest.approx(float(best), rel=2e-6, abs=1e-9), name
        assert found.is_optimal, name


@QUICK
@given(problems())
def test_values_bounds_and_statuses_are_those_of_all_placements(problem):
    check(problem, ["brute_force", "solve", "cpsat"])


@pytest.mark.slow
@LONG
@given(problems())
def test_the_same_on_many_more_and_by_highs(problem):
    check(problem, ["brute_force", "solve", "cpsat", "highs"])


@pytest.mark.slow
@settings(LONG, max_examples=60)
@given(problems())
def test_the_same_by_cbc(problem):
    check(problem, ["cbc"])
