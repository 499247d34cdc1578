import numpy as np
import pytest

from moeopt import PlacementProblem, metrics
from moeopt.balancers import bldm
from moeopt.balancers.bldm import balanced_differencing
from tests.oracles import plain_bldm


@pytest.mark.parametrize(("loads", "gpus", "makespan"), [([3, 1, 1, 1, 0, 0], 2, 4), ([12] + [3] * 8 + [0] * 3, 3, 18)])
def test_the_worst_cases_of_the_literature(loads, gpus, makespan):
    problem = PlacementProblem([loads], gpus)
    assert metrics.makespan(metrics.gpu_load(problem.load, bldm(problem))).tolist() == [makespan]


@pytest.mark.parametrize("seed", range(60))
def test_packs_are_those_of_the_plain_method(seed):
    rng = np.random.default_rng(seed)
    packs, size = int(rng.integers(2, 40)), int(rng.integers(2, 12))
    weight = rng.lognormal(0, 1.5, packs * size)
    slot = balanced_differencing(weight[None, :], packs)[0]
    ours = sorted(sorted(np.flatnonzero(slot // size == pack).tolist()) for pack in range(packs))
    assert ours == sorted(plain_bldm(weight.tolist(), packs))


@pytest.mark.parametrize("k", [3, 4, 5])
def test_the_proven_ratio_holds(k):
    ratio = {3: 4 / 3, 4: 19 / 12, 5: 103 / 60}[k]
    rng = np.random.default_rng(k)
    for _ in range(200):
        parts = rng.integers(0, 20, (2, k))
        parts[0, 0] += max(parts[1].sum() - parts[0].sum(), 0)  # the optimum is at most the larger part
        problem = PlacementProblem([rng.permutation(parts.ravel())], 2)
        makespan = metrics.makespan(metrics.gpu_load(problem.load, bldm(problem)))[0]
        assert makespan <= ratio * parts.sum(axis=1).max() + 1e-9


def test_a_hundred_thousand_items_are_packed_evenly():
    weight = np.random.default_rng(0).integers(1, 10**6, 100_000).astype(float)[None, :]
    slot = balanced_differencing(weight, 10_000)[0]
    totals = np.bincount(slot // 10, weights=weight[0])
    assert np.array_equal(np.sort(slot), np.arange(100_000))
    assert totals.max() / totals.mean() < 1.05
