import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeopt import InputError, Placement


def test_views_of_a_small_placement():
    placement = Placement([[0, 1, 1, -1, 2, 0]], num_experts=3, num_gpus=3)
    assert placement.replica_count.tolist() == [[2, 2, 1]]
    assert placement.log2phy.tolist() == [[[0, 5], [1, 2], [4, -1]]]
    assert placement.copies.tolist() == [[[1, 1, 0], [0, 1, 0], [1, 0, 1]]]
    assert placement.by_gpu.tolist() == [[[0, 1], [1, -1], [2, 0]]]


@st.composite
def placements(draw):
    layers, gpus, size, experts = (draw(st.integers(1, 4)) for _ in range(4))
    slots = st.lists(st.integers(-1, experts - 1), min_size=gpus * size, max_size=gpus * size)
    rows = draw(st.lists(slots, min_size=layers, max_size=layers))
    return Placement(rows, experts, gpus)


@given(placements())
def test_log2phy_inverts_phy2log(placement):
    for layer in range(placement.num_layers):
        for expert in range(placement.num_experts):
            slots = placement.log2phy[layer, expert]
            expected = np.flatnonzero(placement.phy2log[layer] == expert)
            assert slots[slots >= 0].tolist() == expected.tolist()
            assert placement.replica_count[layer, expert] == len(expected)
            assert placement.copies[layer, :, expert].sum() == len(expected)


@given(placements())
def test_placements_survive_pickling(placement):
    copy = pickle.loads(pickle.dumps(placement))
    assert copy == placement
    assert hash(copy) == hash(placement)
    assert not copy.phy2log.flags.writeable


@pytest.mark.parametrize(
    ("phy2log", "experts", "gpus", "message"),
    [
        ([[0, 3]], 3, 2, "got 3 at layer 0, slot 1"),
        ([[0, -2]], 3, 2, "got -2"),
        ([[0, 1, 2]], 3, 2, "num_slots=3 is not a multiple of num_gpus=2"),
        ([[0.5, 1]], 3, 2, "integers"),
        ([], 3, 2, "not empty"),
        ([[0, 1]], 0, 2, "num_experts must be >= 1"),
        ([[0, 1]], 2, 0, "num_gpus must be >= 1"),
    ],
)
def test_bad_maps_are_named(phy2log, experts, gpus, message):
    with pytest.raises(InputError, match=message):
        Placement(phy2log, experts, gpus)
