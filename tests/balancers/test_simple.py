"""The vanilla layout and simple replication."""

import numpy as np
import pytest

from moeopt import PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import contiguous, hot_replication


def test_the_vanilla_layout_puts_experts_in_order_and_repeats_them():
    assert contiguous(PlacementProblem([[1, 2, 3, 4]], 2)).phy2log.tolist() == [[0, 1, 2, 3]]
    assert contiguous(PlacementProblem([[1, 2, 3, 4]], 2, 6)).phy2log.tolist() == [[0, 1, 2, 3, 0, 1]]


def test_with_groups_the_vanilla_layout_repeats_inside_each_node():
    problem = PlacementProblem([[1, 2, 3, 4]], 2, 6, num_nodes=2, num_groups=2)
    assert contiguous(problem).phy2log.tolist() == [[0, 1, 0, 2, 3, 2]]


def test_the_hottest_experts_go_everywhere_and_home_keeps_a_slot_empty():
    problem = PlacementProblem([[1, 9, 2, 8]], 2, 8, allow_empty_slots=True)
    placement = hot_replication(problem)
    assert placement.phy2log.tolist() == [[0, 1, -1, 3, 2, 3, 1, -1]]
    assert metrics.gpu_load(problem.load, placement).tolist() == [[9.5, 10.5]]


@pytest.mark.parametrize(("slots", "extra"), [(320, 8), (384, 16)])
def test_the_notebooks_settings_replicate_8_and_16_experts(recording, slots, extra):
    load = recording("deepseek-v3/decode_in1000out1000")
    problem = PlacementProblem(load, 8, slots, allow_empty_slots=True)
    placement = hot_replication(problem)
    problem.check(placement)
    hot = np.sort(np.argsort(-load.values, axis=1, kind="stable")[:, :extra], axis=1)
    for layer in range(load.num_layers):
        assert np.flatnonzero(placement.replica_count[layer] == 8).tolist() == hot[layer].tolist()
        assert (placement.phy2log[layer] < 0).sum() == extra
    assert (metrics.moves(contiguous(PlacementProblem(load, 8)), placement) == 7 * extra).all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_gpus": 3, "num_slots": 6}, "num_experts=4 to be a multiple of num_gpus=3"),
        ({"num_gpus": 2, "num_slots": 6}, "allow_empty_slots=False"),
        ({"num_gpus": 2, "num_slots": 6, "num_nodes": 2, "num_groups": 2}, "stay on one"),
        ({"num_gpus": 2, "num_slots": 14, "allow_empty_slots": True}, "5 spare slots per GPU for only 4"),
    ],
)
def test_what_it_cannot_do_is_said(rules, message):
    with pytest.raises(UnsupportedError, match=message):
        hot_replication(PlacementProblem([[1, 2, 3, 4]], **rules))
