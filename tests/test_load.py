import pickle

import numpy as np
import pytest
import torch

from moeopt import InputError, LoadMatrix
from moeopt.load import as_load


@pytest.mark.parametrize("values", [[[3, 1]], np.array([[3, 1]]), torch.tensor([[3, 1]]), [3, 1], (3, 1)])
def test_lists_arrays_and_tensors_are_the_same_loads(values):
    assert LoadMatrix(values) == LoadMatrix([[3, 1]])
    assert LoadMatrix(values).is_integer


def test_bfloat16_and_gradients_are_taken():
    tensor = torch.tensor([[3.0, 1.5]], dtype=torch.bfloat16, requires_grad=True)
    assert LoadMatrix(tensor).values.tolist() == [[3.0, 1.5]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, -2]], "load must be >= 0, got -2 at layer 0, expert 1"),
        ([[1.0, float("nan")]], "load must be finite, got nan at layer 0, expert 1"),
        ([[1.0], [float("inf")]], "load must be finite, got inf at layer 1, expert 0"),
        ([[1, 2], [3]], "rectangular"),
        ([], "not empty"),
        ([[]], "not empty"),
        ([[[1]]], r"\[layers, experts\]"),
        ([["a", "b"]], "numbers"),
        (None, "numbers"),
        ([[1 + 2j]], "numbers"),
        ([[2**53, 2**53]], "2\\*\\*53"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "64 bits"),
    ],
)
def test_bad_loads_are_named(values, message):
    with pytest.raises(InputError, match=message):
        LoadMatrix(values)


def test_layer_ids_must_match_the_layers():
    with pytest.raises(InputError, match="2 ids for 1 layers"):
        LoadMatrix([[1, 2]], layer_ids=(3, 4))


def test_layers_can_be_selected_and_keep_their_ids():
    load = LoadMatrix([[1, 2], [3, 4], [5, 6]], layer_ids=(3, 4, 5))
    assert load[1].layer_ids == (4,)
    assert load[-1].values.tolist() == [[5, 6]]
    assert load[1:].layer_ids == (4, 5)
    assert load[[2, 0]].values.tolist() == [[5, 6], [1, 2]]
    with pytest.raises(IndexError):
        load[3]


def test_loads_are_read_only_and_not_shared():
    mine = np.array([[1, 2]])
    load = LoadMatrix(mine)
    mine[0, 0] = 9
    assert load.values[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        load.values[0, 0] = 9


def test_loads_survive_pickling_equal_hashable_and_read_only():
    load = LoadMatrix([[1.5, 2]], layer_ids=(7,), source="x")
    copy = pickle.loads(pickle.dumps(load))
    assert copy == load
    assert hash(copy) == hash(load)
    assert not copy.values.flags.writeable
    assert load != LoadMatrix([[1.5, 3]], layer_ids=(7,), source="x")
    assert load != "x"


def test_a_trace_is_summed_over_its_windows():
    class Trace:
        def total(self):
            return LoadMatrix([[4, 6]])

    assert as_load(Trace()) == LoadMatrix([[4, 6]])
