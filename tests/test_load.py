import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt import InputError, LoadMatrix, PlacementProblem
from moeopt.load import as_load
from moeopt.traces import Trace


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
        ([[2**53, 2**53]], r"2\*\*53 tokens in every layer, got 18014398509481984 in layer 0"),
        ([[1, 1, 1, 1], [2**53, 1, 1, 1]], r"got 9007199254740995 in layer 1"),
        ([[1, 2**53]], "got 9007199254740993 in layer 0"),
        ([[2**62] * 4], "got 18446744073709551616 in layer 0"),
        ([[2.0**53, 0.5]], r"at most 2\*\*53 tokens"),
        ([[1e308] * 4], r"at most 2\*\*53 tokens"),
        ([[1.0, 5e-324]], "load must be 0 or at least 1e-300, got 5e-324 at layer 0, expert 1"),
        ([[0.0, 1.0], [9e-301, 1.0]], "at layer 1, expert 0"),
        (torch.eye(2).to_sparse(), "dense"),
        (np.array([[np.longdouble("1e4000")]]), "finite"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "64 bits"),
    ],
)
def test_bad_loads_are_named(values, message):
    with pytest.raises(InputError, match=message):
        LoadMatrix(values)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, float])
@pytest.mark.parametrize("rows", [[[2**53, 0, 0]], [[2**53 - 3, 1, 1, 1]], [[2**43] * 1024]])
def test_a_layer_may_total_exactly_the_most_that_floats_can_count(rows, dtype):
    load = LoadMatrix(np.array(rows, dtype=dtype))
    assert sum(map(int, load.values[0])) == 2**53


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=30), st.integers(-3, 3))
def test_totals_are_compared_exactly(values, distance):
    """The last load fills the layer up to the limit, and ``distance`` beyond it."""
    values = [value // len(values) for value in values]
    values.append(max(0, 2**53 - sum(values) + distance))
    if sum(values) > 2**53:
        with pytest.raises(InputError, match=f"got {sum(values)} in layer 0"):
            LoadMatrix([values])
    else:
        assert LoadMatrix([values]).values.tolist() == [values]


def test_the_least_loads_are_taken_and_a_negative_zero_is_a_zero():
    load = LoadMatrix([[1e-300, -0.0, 0.0]])
    assert load.values.tolist() == [[1e-300, 0.0, 0.0]]
    assert not np.signbit(load.values).any()


@pytest.mark.parametrize("ids", [5, None, ["a"], [1.5], [True], [2**70], [None], {1}])
def test_layer_ids_are_integers(ids):
    with pytest.raises(InputError, match="layer_ids"):
        LoadMatrix([[1, 2]], layer_ids=ids)


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


def test_a_trace_is_summed_and_its_windows_stay_known_as_steps():
    trace = Trace([[[3, 1], [0, 4]], [[2, 2], [4, 0]]])
    load = as_load(trace)
    assert load.values.tolist() == [[5, 3], [4, 4]]
    assert load.steps is trace.windows
    assert load[1].steps.tolist() == [[[0, 4]], [[4, 0]]]
    assert trace.total().steps is None
    assert PlacementProblem(trace, 2)[[1]].steps.shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([[[3, 1]], [[2, 3]]], "steps must add up to the load, got 4 for 3 at layer 0, expert 1"),
        ([[3, 1]], r"steps must be \[steps, 1, 2\], got shape \(1, 2\)"),
        ([[[-1, 1]], [[6, 2]]], "steps must be finite and >= 0"),
    ],
)
def test_steps_that_are_not_parts_of_the_load_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        LoadMatrix([[5, 3]], steps=steps)


def test_steps_keep_their_few_bits_and_lose_none():
    trace = Trace(np.full((300, 1, 2), 120, dtype=np.int8))
    load = as_load(trace)
    assert load.values.tolist() == [[36000, 36000]]
    assert load.steps.dtype == trace.windows.dtype
    halves = Trace(np.full((3, 1, 2), 0.1, dtype=np.float32))
    assert as_load(halves).steps is halves.windows
