"""The notebook's folder of per-layer CSVs."""

import hashlib

import numpy as np
import pytest

from moeopt.errors import TraceError
from moeopt.traces import read_trace
from moeopt.traces.csv_folder import layer_ids


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_rows_become_windows_and_names_sort_naturally(tmp_path):
    folder = write(tmp_path / "run", layer_10="9,9\n1,2\n", layer_9="1,0\n0,5\n", layer_3="7,7\r\n8,8\r\n")
    trace = read_trace(folder)
    assert trace.layer_ids == (3, 9, 10)
    assert trace.windows.tolist() == [[[7, 7], [1, 0], [9, 9]], [[8, 8], [0, 5], [1, 2]]]
    assert trace.source == "run"
    assert trace.total().values.tolist() == [[15, 15], [1, 5], [10, 11]]


def test_rows_that_cannot_be_matched_up_are_summed(tmp_path):
    folder = write(tmp_path / "run", layer_0="1,2\n3,4\n", layer_1="5,6\n")
    assert read_trace(folder).windows.tolist() == [[[4, 6], [5, 6]]]


def test_layers_without_load_are_dropped_and_other_files_ignored(tmp_path):
    folder = write(tmp_path / "run", layer_0="0,0\n", layer_1="5,6\n")
    (folder / "README.md").write_text("hello")
    (folder / "._layer_1.csv").write_bytes(b"\x00\x05\x16\x07")
    assert read_trace(str(folder) + "/").layer_ids == (1,)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["layer_3", "layer_10"], (3, 10)),
        (["rank0_layer_3", "rank0_layer_4"], (3, 4)),
        (["L3_of_58"], (0,)),
        (["layer_7"], (7,)),
        (["a", "b"], (0, 1)),
        (["layer_1", "other"], (0, 1)),
        (["layer_1_2", "layer_3_4"], (0, 1)),
        (["a_1", "b_1"], (0, 1)),
        (["20260101093000123", "20260101093000124"], (0, 1)),
    ],
)
def test_layer_ids_are_the_one_number_that_tells_the_files_apart(names, ids):
    assert layer_ids(names) == ids


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        ("1,2,3\n", r"layer_5.csv: 3 columns, but layer_4.csv has 2"),
        ("", r"layer_5.csv: the file is empty"),
        ("1,2\n3,-4\n", r"layer_5.csv: layer 5: line 2 \(forward pass 1\), column 1: -4 is below 0"),
        ("1,2\n3,x\n", r"layer_5.csv: layer 5: line 2 \(forward pass 1\), column 1: 'x' is not a number"),
        ("1,2\n3\n", r"layer_5.csv: layer 5: line 2 \(forward pass 1\) has 1 columns"),
        ("a,b\n1,2\n", r"layer_5.csv: layer 5: line 1 .* a header row"),
        ("1,9007199254740993\n", r"layer_5.csv: layer 5: .*column 1: .* above 2\*\*53"),
        ("9007199254740992,9007199254740992\n", r"layer_5.csv: layer 5: totals"),
    ],
)
def test_the_fault_is_named_with_file_line_and_column(second, rule, tmp_path):
    folder = write(tmp_path / "run", layer_4="1,2\n", layer_5=second)
    with pytest.raises(TraceError, match=rule):
        read_trace(folder)


def test_the_hash_of_a_folder_is_that_of_its_csv_files_in_the_order_of_their_names(tmp_path):
    folder = write(tmp_path / "run", layer_10="9,9\n", layer_9="1,0\n", b="7,7\n")
    (folder / "README.md").write_text("not read, so not hashed")
    assert read_trace(folder).sha256 == hashlib.sha256(b"7,7\n9,9\n1,0\n").hexdigest()


def test_a_folder_without_csv_or_load_is_an_error(tmp_path):
    with pytest.raises(TraceError, match=r"the folder holds no \.csv file"):
        read_trace(tmp_path)
    (tmp_path / "odd.csv").mkdir()
    with pytest.raises(TraceError, match=r"odd.csv: not a regular file"):
        read_trace(tmp_path)
    (tmp_path / "odd.csv").rmdir()
    write(tmp_path, layer_0="0,0\n")
    with pytest.raises(TraceError, match="every count is zero"):
        read_trace(tmp_path)


def test_a_big_folder_gives_back_what_was_written(tmp_path):
    values = np.random.default_rng(0).poisson(30, size=(40, 6, 256))
    for layer in range(6):
        np.savetxt(tmp_path / f"{layer}.csv", values[:, layer], fmt="%d", delimiter=",")
    assert np.array_equal(read_trace(tmp_path).windows, values)
