"""Partition bounds: below every optimum found by enumeration, and at least as good as what they contain."""

from itertools import combinations

import numpy as np
import pytest

from moeopt import PlacementProblem, bounds
from moeopt.bounds.partition import certified_hottest_gpus, hot_on_few_gpus, hottest_experts, hottest_gpus

SHAPES = [(2, 2), (2, 3), (2, 4), (2, 5), (3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2)]
KINDS = {
    "ties and zeros": lambda rng, n: rng.integers(0, 5, n),
    "uniform": lambda rng, n: rng.integers(0, 1000, n),
    "heavy tail": lambda rng, n: np.floor(10 * rng.pareto(1.0, n)).astype(np.int64),
    "floats": lambda rng, n: rng.random(n) ** 3,
}


def optimum(weights, per_gpu):
    """Least makespan of a partition by enumerating the GPU of the heaviest expert left."""
    if len(weights) == per_gpu:
        return sum(weights)
    first, rest = weights[0], weights[1:]
    best = float("inf")
    for chosen in combinations(range(len(rest)), per_gpu - 1):
        here = first + sum(rest[i] for i in chosen)
        if here < best:
            others = [w for i, w in enumerate(rest) if i not in chosen]
            best = min(best, max(here, optimum(others, per_gpu)))
    return best


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("gpus", "per_gpu"), SHAPES)
def test_never_above_the_optimum_and_never_below_the_bounds_they_contain(gpus, per_gpu, kind):
    rng = np.random.default_rng(gpus * 10 + per_gpu)
    values = np.array([KINDS[kind](rng, gpus * per_gpu) for _ in range(12 if gpus * per_gpu >= 12 else 60)])
    problem = PlacementProblem(values, gpus)
    best = np.array([optimum(sorted(row.tolist(), reverse=True), per_gpu) for row in values], dtype=float)
    few, exact = hot_on_few_gpus(problem), hottest_gpus(problem)
    assert np.all(few <= best * (1 + 1e-15))
    assert not np.any(exact > best * (1 + 1e-15))
    assert not np.any(exact < few)
    for contained in (bounds.mean_load, bounds.hottest_with_companions):
        assert np.all(few >= contained(problem) * (1 - 1e-12))


def test_the_hottest_experts_gpus_prove_what_averages_cannot():
    """Hot 10 and 10 on two GPUs share the four lightest, 0 0 0 3: one of them gets the 3."""
    problem = PlacementProblem([[10, 10, 3, 0, 0, 0, 3, 3, 3]], num_gpus=3)
    assert hot_on_few_gpus(problem) == [12]
    assert hottest_gpus(problem) == [13]


def test_both_say_nothing_where_experts_are_copied():
    problem = PlacementProblem([[5, 4, 3, 2]], num_gpus=2, num_slots=6)
    assert np.isnan(hot_on_few_gpus(problem)).all()
    assert np.isnan(hottest_gpus(problem)).all()


def test_certificates_name_the_hottest_experts():
    values = np.floor(100 * np.random.default_rng(1).pareto(1.0, (20, 16)))
    problem = PlacementProblem(values, num_gpus=4)
    named = hottest_experts(problem) + [certificate["hottest"] for certificate in certified_hottest_gpus(problem)[1]]
    for row, hottest in zip(np.concatenate([values, values]), named, strict=True):
        assert sorted(row[hottest]) == sorted(row)[len(row) - len(hottest) :]


def test_a_hundred_thousand_experts_are_bounded_by_their_mean():
    values = np.random.default_rng(0).integers(1, 1000, 100_000)
    problem = PlacementProblem(values, num_gpus=10_000)
    assert hot_on_few_gpus(problem) == np.ceil(values.sum() / 10_000)
