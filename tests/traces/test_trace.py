"""Trace: windows of loads."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moeopt import PlacementProblem
from moeopt.errors import TraceError
from moeopt.traces import Trace
from moeopt.traces import trace as trace_module
from moeopt.traces.recording import tidy

COUNTS = hnp.arrays(np.int64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.integers(0, 10**6))


@settings(deadline=None)
@given(COUNTS)
def test_total_is_the_sum_of_the_windows_and_slices_keep_it(windows):
    trace = Trace(windows)
    parts = [trace[i].values for i in range(len(trace))]
    assert np.array_equal(trace.total().values, sum(parts))
    assert trace[:] == trace
    assert np.array_equal(trace[-1:].total().values, trace[-1].values)


@settings(deadline=None)
@given(COUNTS)
def test_tidy_drops_exactly_the_layers_and_windows_without_load(windows):
    if not windows.any():
        with pytest.raises(TraceError, match="every count is zero"):
            tidy(windows, "x")
        return
    trace = tidy(windows, "x")
    assert trace.total().values.sum(axis=1).min() > 0
    assert all(trace[i].values.any() for i in range(len(trace)))
    assert trace.windows.sum() == windows.sum()
    for row, layer in enumerate(trace.layer_ids):
        assert np.array_equal(trace.total().values[row], windows[:, layer].sum(axis=0))


def test_whole_numbers_are_int64_and_others_float64():
    assert Trace(np.array([[1.0, 2.0]], dtype=np.float32)).windows.dtype == np.int64
    assert Trace(torch.tensor([[1, 2]], dtype=torch.int32)).windows.dtype == np.int64
    assert Trace([[[0.5, 2.0]]]).windows.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, ">i4"])
def test_every_dtype_is_checked_piece_by_piece_as_a_whole(dtype, monkeypatch):
    """Pieces of every shape: of a row, of rows, of windows; the first fault is found in each."""
    values = np.random.default_rng(0).integers(0, 100, (5, 4, 6)).astype(dtype)
    for piece in (1, 4, 6, 13, 24, 50, 1000):
        monkeypatch.setattr(trace_module, "_PIECE", piece)
        assert Trace(values).windows.tolist() == values.tolist()
        assert Trace(values).windows.dtype == np.int64
        if np.dtype(dtype).kind != "u":
            for place in np.ndindex(values.shape):
                bad = values.copy()
                bad[place] = -1
                with pytest.raises(TraceError, match="window {}, layer {}, column {}: -1".format(*place)):
                    Trace(bad)
        if np.dtype(dtype).kind == "f":
            halves = values.copy()
            halves[4, 3, 5] = 0.5
            assert Trace(halves).windows.dtype == np.float64


def test_windows_are_a_copy_of_their_own():
    mine = np.array([[[3, 1]]])
    trace = Trace(mine)
    mine[:] = 7
    assert trace.windows.tolist() == [[[3, 1]]]
    assert not np.signbit(Trace([[[0.5, -0.0]]]).windows).any()


def test_traces_are_equal_whatever_bytes_they_were_read_from():
    trace, other = (Trace([[[3, 1]], [[0, 4]]], sha256=digest) for digest in ("ab", None))
    assert trace == other
    assert hash(trace) == hash(other)
    assert trace[:1].sha256 == pickle.loads(pickle.dumps(trace)).sha256 == "ab"


def test_a_problem_takes_a_trace_as_its_sum():
    trace = Trace([[[3, 1]], [[0, 4]]], layer_ids=(7,))
    load = PlacementProblem(trace, num_gpus=2).load
    assert load.values.tolist() == [[3, 5]]
    assert load.layer_ids == (7,)


def test_traces_compare_hash_and_travel_by_value_and_cannot_be_written_to():
    trace = Trace([[[3, 1]], [[0, 4]]], layer_ids=(7,), source="s")
    back = pickle.loads(pickle.dumps(trace))
    assert back == trace
    assert hash(back) == hash(trace)
    assert back != trace[:1]
    with pytest.raises(ValueError, match="read-only"):
        back.windows[0] = 0


def test_windows_out_of_range_are_index_errors():
    trace = Trace([[[3, 1]], [[0, 4]]])
    for index in (2, -3, slice(2, 9), slice(1, 1)):
        with pytest.raises(IndexError):
            trace[index]


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([[[1, 2]], [[3, -4]]], "window 1, layer 9, column 1: -4 is negative"),
        ([[[1, np.nan]]], "layer 9, column 1: nan is not finite"),
        ([[[np.inf, 1]]], "layer 9, column 0: inf is not finite"),
        ([[[2**53, 2]]], r"layer 9: totals 9007199254740994 tokens, more than 2\*\*53"),
        ([[[2**53, 1, 1, 1]]], r"layer 9: totals 9007199254740995 tokens, more than 2\*\*53"),
        ([[[2**53, 0]], [[0, 1]]], r"layer 9: totals 9007199254740993 tokens, more than 2\*\*53"),
        (np.full((1, 1, 2**10 + 1), 2**53), r"layer 9: totals 9232379236109516800 tokens, more than 2\*\*53"),
        ([[[2.0**53, 0.5]]], r"layer 9: totals .* tokens, more than 2\*\*53"),
        ([[[1.5, 1e-310]]], "layer 9, column 1: 1e-310 is below 1e-300 and not 0"),
        (np.full((1, 1, 2), np.inf, dtype=np.float16), "layer 9, column 0: inf is not finite"),
        (np.broadcast_to(np.int8(1), (2**20 + 1, 1)), r"at most 1048576 layers, got shape \(1, 1048577, 1\)"),
        (torch.eye(2).to_sparse(), "counts must be a dense tensor"),
        ([[[2**60, 1]]], r"layer 9, column 0: .* is above 2\*\*53"),
        (np.array([[[2**64 - 1, 1]]], dtype=np.uint64), r"is above 2\*\*53"),
        ([[[True, False]]], "booleans"),
        ([[[[1]]]], r"got shape \(1, 1, 1, 1\)"),
        ([[]], "not empty"),
        (3, r"got shape \(\)"),
        ([[1, 2], [3, 4]], "layer_ids must name every layer"),
    ],
)
def test_what_is_not_a_count_is_named_with_window_layer_and_column(values, rule):
    with pytest.raises(TraceError, match=rule):
        Trace(values, layer_ids=(9,))
