"""Traces that come in piece by piece, and those too large to be held as they are."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moeopt.errors import TraceError
from moeopt.traces import Trace, npy, read_trace
from moeopt.traces import recording as recording_module
from moeopt.traces import trace as trace_module
from moeopt.traces.mapped import mapping_of
from moeopt.traces.recording import Recording, tidy

COUNTS = hnp.arrays(
    st.sampled_from([np.int8, np.uint16, np.int64, np.float32, np.float64]),
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
    elements=st.integers(0, 3),
)


@settings(deadline=None)
@given(COUNTS, st.lists(st.integers(1, 4), min_size=9, max_size=9), st.one_of(st.none(), st.integers(1, 4)))
def test_it_does_not_matter_in_what_pieces_a_recording_comes(counts, sizes, per_window):
    """Nor that windows are added up while it is read: as if the steps with load were added up afterwards."""
    if not counts.any():
        return
    recording, start = Recording(*counts.shape[1:], steps_per_window=per_window), 0
    for size in sizes:
        recording.add(counts[start : start + size])
        start += size
    trace = recording.trace("x", None)
    steps = tidy(counts, "x")
    size = per_window or 1
    expected = [steps.windows[first : first + size].sum(axis=0) for first in range(0, len(steps), size)]
    assert trace == Trace(expected, steps.layer_ids, "x")
    assert trace.windows.dtype == np.int64


@pytest.mark.parametrize(
    ("counts", "rule"),
    [
        ([[[1, 1]], [[1, -1]]], "window 3, layer 7, column 1: -1 is negative"),
        ([[[1, np.nan]]], "window 2, layer 7, column 1: nan is not finite"),
        ([[[2**53, 0]]], "layer 7: totals 9007199254740996 tokens by step 2, more than 2"),
        (np.full((1, 1, 2), 2**60), "window 2, layer 7, column 0: 1152921504606846976 is above"),
    ],
)
def test_a_fault_in_a_later_piece_is_named_by_its_place_in_the_whole(counts, rule):
    recording = Recording(1, 2, layer_ids=(7,))
    recording.add(np.array([[[1, 1]], [[1, 1]]]))
    with pytest.raises(TraceError, match=rule):
        recording.add(np.asarray(counts))


def test_sums_of_windows_cannot_wrap():
    recording = Recording(1, 1, steps_per_window=10**6)
    step = np.full((1, 1, 1), 2**53)
    recording.add(step)
    with pytest.raises(TraceError, match="layer 0: totals 18014398509481984 tokens by step 1"):
        recording.add(step)


LARGE = np.random.default_rng(0).integers(1, 100, (40, 5, 6))


@pytest.fixture
def small_limit(monkeypatch):
    """As if a thousand counts were too many to hold in 64 bits each."""
    monkeypatch.setattr(trace_module, "LARGE", 1000)
    monkeypatch.setattr(npy, "LARGE", 1000)
    monkeypatch.setattr(recording_module, "_BLOCK", 100)


@pytest.mark.parametrize(
    ("highest", "dtype"), [(127, np.int8), (128, np.int16), (2**15, np.int32), (2**31, np.int64), (0.5, np.float32)]
)
def test_a_large_trace_takes_as_few_bits_as_are_exact(highest, dtype, small_limit, tmp_path):
    counts = LARGE.astype(np.float32 if highest == 0.5 else np.int64)
    counts[37, 2, 3] = highest
    np.savez(tmp_path / "a.npz", load=counts)
    for trace in (Trace(counts), read_trace(tmp_path / "a.npz")):
        assert trace.windows.dtype == dtype
        assert trace.windows.tolist() == counts.tolist()
        assert trace.total().values.tolist() == counts.sum(axis=0, dtype=float).tolist()
        assert trace[37].values.dtype == trace.total().values.dtype == (np.float64 if highest == 0.5 else np.int64)
        assert trace[30:] == Trace(counts[30:], source=trace.source)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.float32, np.float64])
def test_a_large_npy_stays_in_its_file(dtype, small_limit, tmp_path):
    counts = LARGE.astype(dtype)
    counts[:2] = counts[-1] = 0  # unfilled rows at the ends
    counts[:, 0] = 0  # a dense layer
    np.save(tmp_path / "a.npy", counts)
    trace = read_trace(tmp_path / "a.npy")
    assert mapping_of(trace.windows) is not None
    assert not trace.windows.flags.writeable
    assert trace.windows.tolist() == counts[2:-1, 1:].tolist()
    assert trace.layer_ids == (1, 2, 3, 4)
    assert trace.windows.dtype.kind in "if"
    assert trace.total().values.tolist() == counts[:, 1:].sum(axis=0).tolist()
    assert trace.total().values.dtype == trace[0].values.dtype == np.int64
    assert mapping_of(trace[3:9].windows) is not None
    back = pickle.loads(pickle.dumps(trace))
    assert back == trace
    assert mapping_of(back.windows) is None


@pytest.mark.parametrize(
    "odd",
    ["rows without load", "layers without load", "big-endian", "too large unsigned", "Fortran", "added up", "packed"],
)
def test_a_large_npy_that_is_not_to_be_kept_as_it_is_comes_into_memory(odd, small_limit, tmp_path):
    counts, options = LARGE.astype(np.uint8), {}
    if odd == "rows without load":
        counts[7] = 0
    elif odd == "layers without load":
        counts[:, 2] = 0
    elif odd == "big-endian":
        counts = counts.astype(">i4")
    elif odd == "too large unsigned":
        counts[3, 3, 3] = 200
    elif odd == "Fortran":
        counts = np.asfortranarray(counts)
    elif odd == "added up":
        options = {"steps_per_window": 3}
    np.save(tmp_path / "a.npy", counts)
    if odd == "packed":
        np.savez_compressed(tmp_path / "a.npz", counts)
    trace = read_trace(tmp_path / ("a.npz" if odd == "packed" else "a.npy"), **options)
    assert mapping_of(trace.windows) is None
    expected = tidy(counts, "a", steps_per_window=options.get("steps_per_window"))
    assert trace == expected


@pytest.mark.parametrize(("row", "fault"), [(0, -1), (39, 2**60)])
def test_a_fault_in_a_large_npy_is_named(row, fault, small_limit, tmp_path):
    counts = LARGE.copy()
    counts[row, 1, 2] = fault
    np.save(tmp_path / "a.npy", counts)
    with pytest.raises(TraceError, match=f"a.npy: window {row}, layer 1, column 2: {fault} is"):
        read_trace(tmp_path / "a.npy")


MEMORY = """
import resource, sys
from moeopt.traces import read_trace
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = read_trace(sys.argv[1], **eval(sys.argv[2])).total().values.sum()
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def memory_of(file, **options):
    command = [sys.executable, "-c", MEMORY, str(file), repr(options)]
    total, taken = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(total), int(taken)


def write_npy(file, block, times):
    """``times`` blocks one after another, which need not be in memory together."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream,
            {
                "descr": np.lib.format.dtype_to_descr(block.dtype),
                "fortran_order": False,
                "shape": (times * len(block), *block.shape[1:]),
            },
        )
        for _ in range(times):
            stream.write(block.tobytes())


def test_a_large_file_takes_little_memory(tmp_path):
    """35 million counts of one byte, which would take 282 MB as int64."""
    block = np.random.default_rng(0).integers(1, 100, (238, 58, 256)).astype(np.int8)
    write_npy(tmp_path / "a.npy", block, 10)
    total, taken = memory_of(tmp_path / "a.npy")
    assert total == 10 * block.sum()
    assert taken < 60e6


@pytest.mark.slow
def test_two_gigabytes_are_read_within_a_quarter_of_one(tmp_path):
    block = np.random.default_rng(0).integers(1, 100, (1130, 58, 256)).astype(np.int32)
    write_npy(tmp_path / "a.npy", block, 32)
    assert (tmp_path / "a.npy").stat().st_size > 2.1e9
    total, taken = memory_of(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    assert total == 32 * block.sum()
    assert taken < 250e6
