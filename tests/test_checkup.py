"""A placement from elsewhere is checked as any method's is."""

import numpy as np
import pytest

from moeopt import Placement, PlacementError, PlacementProblem, metrics
from moeopt.checkup import check
from moeopt.errors import InputError
from moeopt.traces import generate
from solvers import solve

LOADS = generate(num_layers=2, num_experts=12, seed=1).total()
APART = Placement([[*range(12), 0, 1, 2, 3]] * 2, 12, 4)


def test_it_tells_what_metrics_say():
    found = check(LOADS, APART)
    imbalance = metrics.imbalance(metrics.gpu_load(LOADS, APART))
    assert np.array_equal(found.imbalance, imbalance)
    assert (found.empty_slots, found.copies_beside_another) == (0, 0)
    text = str(found)
    assert text.startswith("valid: 2 layers of 12 experts on 4 GPUs: 16 slots, 4 per GPU, 4 redundant\n")
    assert f"imbalance {imbalance.mean():.4f}; worst layer {imbalance.max():.4f}" in text
    assert "empty" not in text
    assert "share a GPU" not in text


def test_what_no_engine_or_nobody_wants_is_counted():
    odd = Placement([[*range(12), 9, 9, -1, -1], APART.phy2log[1].tolist()], 12, 4)
    text = str(check(LOADS, odd))
    assert "2 slots are empty, which no engine knows" in text
    assert "1 copies share a GPU with another copy of the same expert" in text


def test_exact_methods_prove_the_gap():
    load = [[4, 4, 4, 1, 1]]
    placement = Placement([[0, 1, 2, 3, 4, -1]], 5, 2)
    cheap = check(load, placement)
    proven = check(load, placement, solver=solve)
    optimum = solve(PlacementProblem(load, 2, 6, allow_empty_slots=True)).makespan
    assert cheap.gap[0] >= proven.gap[0]
    assert proven.gap[0] == pytest.approx(12 / optimum[0] - 1)


@pytest.mark.parametrize(
    ("placement", "options", "error", "rule"),
    [
        (Placement([[*range(11), 0]] * 2, 12, 4), {}, PlacementError, "layer 0: expert 11 has no slot"),
        (Placement([[*range(12)]], 12, 4), {}, PlacementError, "num_layers=1, not 2"),
        (APART, {"num_nodes": 2, "num_groups": 4}, PlacementError, r"layer 0: group \d is spread over several nodes"),
        (Placement([[*range(12), -1, -1, -1, -1]] * 2, 12, 4), {"engine": "vllm"}, InputError, "layer 0: slot 12"),
        (Placement([[*range(12), 0, 1, 2, 2]] * 2, 12, 4), {"engine": "ascend"}, InputError, "GPU 3 holds expert 2"),
        (APART, {"engine": "magic"}, InputError, "engine 'magic' is unknown"),
    ],
)
def test_what_is_wrong_is_named(placement, options, error, rule):
    with pytest.raises(error, match=rule):
        check(LOADS, placement, **options)
