import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeopt import InputError, LoadMatrix, Placement, metrics


def test_a_replica_carries_its_share_and_an_empty_slot_nothing():
    placement = Placement([[0, 1, 0, -1]], 2, 2)
    assert metrics.gpu_load([[8, 3]], placement).tolist() == [[7.0, 4.0]]


def test_the_numbers_of_a_small_layer():
    gpu_load = np.array([[6.0, 2.0], [0.0, 0.0]])
    assert metrics.makespan(gpu_load).tolist() == [6, 0]
    assert metrics.mean_load(gpu_load).tolist() == [4, 0]
    assert metrics.imbalance(gpu_load).tolist() == [1.5, 1.0]
    assert metrics.balancedness(gpu_load).tolist() == [1 / 1.5, 1.0]
    assert metrics.normalised(gpu_load).tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert metrics.sigma(gpu_load) == pytest.approx(np.std([0.75, 0.25, 0.5, 0.5]))


def test_moves_count_copies_that_are_new_on_their_gpu():
    home = Placement([[0, 1, 2, 3]], 4, 2)
    assert metrics.moves(home, Placement([[1, 0, 3, 2]], 4, 2)).tolist() == [0]
    assert metrics.moves(home, Placement([[0, 2, 1, 3]], 4, 2)).tolist() == [2]
    assert metrics.moves(home, Placement([[0, 0, 1, 2, 3, 3]], 4, 2)).tolist() == [2]
    with pytest.raises(InputError, match="must agree"):
        metrics.moves(home, Placement([[0, 1, 2, 3]], 4, 4))


def test_moves_between_placements_of_different_slot_counts():
    small, large = Placement([[0, 1, 2, 3]], 4, 2), Placement([[0, 1, 2, 2, 3, 0]], 4, 2)
    assert metrics.moves(small, large).tolist() == [2]
    assert metrics.moves(large, small).tolist() == [0]


def test_gap_is_zero_at_the_bound_and_unknown_without_one():
    assert metrics.gap([12.0, 10.0, 0.0], [10.0, 10.0, 0.0]).tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert np.isnan(metrics.gap([1.0], [np.nan]))[0]
    assert np.isinf(metrics.gap([1.0], [0.0]))[0]
    assert metrics.gap([1.0 + 1e-15], [1.0])[0] == 0
    assert metrics.step_gap([12, 8], [10, 8]) == pytest.approx(2 / 18)


def test_loads_and_placement_must_match():
    with pytest.raises(InputError, match="1 layers x 3 experts, placement is 1 x 2"):
        metrics.gpu_load([[1, 2, 3]], Placement([[0, 1]], 2, 2))


@given(st.data())
def test_gpu_loads_agree_with_a_plain_sum_and_conserve_tokens(data):
    experts, gpus, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    slots = data.draw(st.lists(st.integers(-1, experts - 1), min_size=gpus * size, max_size=gpus * size))
    loads = data.draw(st.lists(st.integers(0, 100), min_size=experts, max_size=experts))
    expected = [0.0] * gpus
    for slot, expert in enumerate(slots):
        if expert >= 0:
            expected[slot // size] += loads[expert] / slots.count(expert)
    found = metrics.gpu_load(LoadMatrix([loads]), Placement([slots], experts, gpus))[0]
    assert found == pytest.approx(expected)
    assert found.sum() == pytest.approx(sum(loads[e] for e in set(slots) - {-1}))


def test_transfers_count_experts_that_a_gpu_must_receive_once_each():
    home = Placement([[0, 1, 2, 3, 4, 5, 6, 7]], 8, 4)
    doubled = Placement([[0, 0, 2, 1, 1, 1, 6, 3]], 8, 4)
    assert metrics.moves(home, doubled).tolist() == [5]
    assert metrics.transfers(home, doubled).tolist() == [3]
    assert metrics.transfers_between_nodes(home, doubled, 2).tolist() == [2]
    assert metrics.transfers_between_nodes(home, doubled, 1).tolist() == [0]
    assert metrics.transfers_between_nodes(home, doubled, 4).tolist() == [3]
    assert metrics.transfer_bytes(home, doubled, 1000).tolist() == [3000]
    with pytest.raises(InputError, match="num_gpus=4 is not a multiple of num_nodes=3"):
        metrics.transfers_between_nodes(home, doubled, 3)
    with pytest.raises(InputError, match="expert_bytes must be >= 1, got 0"):
        metrics.transfer_bytes(home, doubled, 0)


def test_steps_cost_what_their_fullest_gpus_take():
    steps = [[[8, 0, 4]], [[0, 6, 0]]]  # two steps of one layer
    placement = Placement([[0, 1, 0, 2]], 3, 2)
    makespans, means = metrics.step_makespans(steps, placement), metrics.step_means(steps, 2)
    assert makespans.tolist() == [[8.0], [6.0]]  # expert 0 is shared, expert 1 alone
    assert means.tolist() == [[6.0], [3.0]]
    assert metrics.step_ratio(makespans, means) == pytest.approx(14 / 9)
    assert metrics.step_ratio(makespans[1:], means[1:]) == 2
    assert metrics.step_ratio(np.zeros((1, 1)), np.zeros((1, 1))) == 1
    with pytest.raises(InputError, match=r"steps must be \[steps, 1, 3\], got shape \(1, 3\)"):
        metrics.step_makespans([[1, 2, 3]], placement)
