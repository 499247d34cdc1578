"""Every trace format goes in, found by its content, and everything wrong is one clear error."""

import gzip
import hashlib
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from backports import zstd

from moeopt.errors import TraceError
from moeopt.traces import read_trace

COUNTS = np.array([[[0, 0, 0], [5, 0, 1], [2, 2, 2]], [[0, 0, 0], [1, 1, 4], [0, 3, 3]]])
"""Two windows, three layers of which the first is dense, three experts."""


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pt_bytes(document, **options):
    buffer = io.BytesIO()
    torch.save(document, buffer, **options)
    return buffer.getvalue()


def json_bytes(document):
    return json.dumps(document).encode()


STAT = {"rank": 0, "logical_count": torch.tensor(COUNTS, dtype=torch.int32), "average_utilization_rate": None}

GOOD = {
    "stat": pt_bytes(STAT),
    "stat_legacy": pt_bytes(STAT, _use_new_zipfile_serialization=False),
    "tensor": pt_bytes(torch.tensor(COUNTS)),
    "json": json_bytes({"logical_count": COUNTS.tolist()}),
    "json_floats": json_bytes({"logical_count": COUNTS.astype(float).tolist(), "note": "x"}),
    "json_list": json_bytes(COUNTS.tolist()),
    "json_bom": b"\xef\xbb\xbf \n" + json_bytes(COUNTS.tolist()),
    "npy": npy_bytes(COUNTS),
    "npy_fortran_float32": npy_bytes(np.asfortranarray(COUNTS.astype(np.float32))),
    "npz_single": npz_bytes(whatever=COUNTS),
    "npz_named": npz_bytes(logical_count=COUNTS, other=np.ones(3)),
    "load_history": json_bytes({"load_history": [{"logical_expert_load": step.tolist()} for step in COUNTS]}),
}
GOOD |= {
    f"{kind}.{packed}": pack(GOOD[kind])
    for kind in ("stat", "stat_legacy", "json", "npy", "npz_single")
    for packed, pack in (("gz", gzip.compress), ("zst", zstd.compress))
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_format_gives_the_same_windows_whatever_the_file_is_called(kind, tmp_path):
    file = tmp_path / "loads.dat"
    file.write_bytes(GOOD[kind])
    trace = read_trace(file)
    assert trace.windows.tolist() == COUNTS[:, 1:].tolist()
    assert trace.windows.dtype == np.int64
    assert trace.layer_ids == (1, 2)
    assert trace.source == "loads"


@pytest.mark.parametrize("kind", ["stat", "json", "npy"])
def test_unfilled_buffer_rows_are_dropped(kind, tmp_path):
    padded = np.concatenate([COUNTS, np.zeros_like(COUNTS)])
    content = {
        "stat": lambda: pt_bytes({"logical_count": torch.tensor(padded)}),
        "json": lambda: json_bytes({"logical_count": padded.tolist()}),
        "npy": lambda: npy_bytes(padded),
    }
    file = tmp_path / "loads"
    file.write_bytes(content[kind]())
    assert read_trace(str(file)).windows.tolist() == COUNTS[:, 1:].tolist()


CSV = ["0,0,0\n6,1,5\n2,5,5\n", "0, 0 ,0\r\n 6,1,5\r\n2,5,5", "\ufeff0,0,0\n6.0,1e0,5\n2,5,5\n\n\r\n"]


@pytest.mark.parametrize("text", CSV)
def test_a_csv_matrix_is_one_window_with_a_layer_a_row(text, tmp_path):
    file = tmp_path / "loads.csv"
    file.write_bytes(text.encode())
    trace = read_trace(file)
    assert trace.windows.tolist() == [[[6, 1, 5], [2, 5, 5]]]
    assert trace.windows.dtype == np.int64
    assert trace.layer_ids == (1, 2)


def test_fractions_stay_float64_bit_by_bit(tmp_path):
    values = np.random.default_rng(0).random((4, 5))
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(repr, row)) for row in values.tolist()))
    (tmp_path / "a.json").write_bytes(json_bytes(values.tolist()))
    for name in ("a.csv", "a.json"):
        assert np.array_equal(read_trace(tmp_path / name).windows[0], values)


def test_one_of_several_arrays_is_picked_as_file_colon_name(tmp_path):
    file = tmp_path / "many.npz"
    file.write_bytes(npz_bytes(a=COUNTS, b=COUNTS * 2, names=np.array(["x"])))
    trace = read_trace(f"{file}:b")
    assert trace.windows.tolist() == (COUNTS * 2)[:, 1:].tolist()
    assert trace.source == "many_b"
    with pytest.raises(TraceError, match=r"many.npz: which array .* FILE:NAME; there are: a \[2, 3, 3\], b .*, names"):
        read_trace(file)
    with pytest.raises(TraceError, match="no array called 'c'; there are: a"):
        read_trace(f"{file}:c")
    file.rename(tmp_path / "odd:b")
    with pytest.raises(TraceError, match="which array"):
        read_trace(tmp_path / "odd:b")


def test_a_per_pass_dump_sums_slots_to_experts_and_records_to_passes(tmp_path):
    phy2log = torch.tensor([[2, 0, 1, 2], [0, 1, 2, 0]])
    records = [
        {
            "forward_pass_id": 5,
            "rank": 0,
            "gatherer_key": "a",
            "global_physical_count": torch.tensor([[1, 2, 3, 4]] * 2),
        },
        {
            "forward_pass_id": 5,
            "rank": 1,
            "gatherer_key": "a",
            "global_physical_count": torch.tensor([[1, 0, 0, 0]] * 2),
        },
        {
            "forward_pass_id": 6,
            "rank": 0,
            "gatherer_key": "a",
            "global_physical_count": torch.tensor([[0, 0, 7, 0]] * 2),
        },
    ]
    file = tmp_path / "dump.pt"
    file.write_bytes(pt_bytes({"records": records, "last_physical_to_logical_map": phy2log}))
    assert read_trace(file).windows.tolist() == [[[2, 3, 6], [6, 2, 3]], [[0, 7, 0], [0, 0, 7]]]


def records_of(*counts, **others):
    records = [{"forward_pass_id": 5, "global_physical_count": torch.tensor(count)} | others for count in counts]
    slots = torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]])
    return pt_bytes({"records": records, "last_physical_to_logical_map": slots})


@pytest.mark.parametrize(
    ("counts", "rule"),
    [
        ([[[1, 1, 1, 1], [0, 2**62, 0, 0]]], r"record 0: layer 1, column 1: 4611686018427387904 is above 2\*\*53"),
        ([[[1] * 4] * 2, [[1] * 4, [1, 1, 1, -1]]], "record 1: layer 1, column 3: -1 is negative"),
        ([[[2**53, 0, 0, 0]] * 2] * 2, r"record 1, added to those before it: layer 0, column 0: 18014398509481984 is"),
        ([[[2**53, 0, 0, 1], [1] * 4]], r"layer 0: totals 9007199254740993 tokens, more than 2\*\*53"),
        ([[[2**53, 1, 0, 0], [1] * 4]], r"layer 0: totals 9007199254740993 tokens, more than 2\*\*53"),
        ([[[1.0, 1.0, float("nan"), 1.0]] * 2], "record 0: layer 0, column 2: nan is not finite"),
    ],
)
def test_slot_counts_that_would_wrap_or_cancel_are_named(counts, rule, tmp_path):
    (tmp_path / "dump.pt").write_bytes(records_of(*counts))
    with pytest.raises(TraceError, match=rule):
        read_trace(tmp_path / "dump.pt")


def test_very_many_passes_and_slots_cannot_wrap(tmp_path):
    """4096 slots of one expert with 2**53 tokens each: 2**65."""
    record = {"global_physical_count": torch.full((1, 4096), 2**53)}
    dump = {"records": [record], "last_physical_to_logical_map": torch.zeros(1, 4096, dtype=torch.int64)}
    (tmp_path / "dump.pt").write_bytes(pt_bytes(dump))
    with pytest.raises(TraceError, match=f"layer 0: totals {2**65} tokens"):
        read_trace(tmp_path / "dump.pt")
    dump["records"] = [record | {"forward_pass_id": 0}] * 2048
    (tmp_path / "dump.pt").write_bytes(pt_bytes(dump))
    with pytest.raises(TraceError, match=f"record 0: layer 0: totals {2**65} tokens"):
        read_trace(tmp_path / "dump.pt")


@pytest.mark.parametrize("kind", GOOD)
def test_a_trace_knows_the_hash_of_the_bytes_it_was_read_from(kind, tmp_path):
    (tmp_path / "loads").write_bytes(GOOD[kind])
    trace = read_trace(tmp_path / "loads")
    assert trace.sha256 == hashlib.sha256(GOOD[kind]).hexdigest()
    assert trace[:1].sha256 == trace.sha256
    if kind == "npz_named":
        assert read_trace(f"{tmp_path / 'loads'}:logical_count").sha256 == trace.sha256


class Hostile:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "inside.pt", "bare.pickle", "objects.npy", "objects.npz"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_file_runs_nothing_and_gives_one_error(name, protocol, tmp_path):
    witness = tmp_path / "ran"
    evil = Hostile(witness)
    content = {
        "zip.pt": lambda: pt_bytes(evil, pickle_protocol=protocol),
        "legacy.pt": lambda: pt_bytes(evil, pickle_protocol=protocol, _use_new_zipfile_serialization=False),
        "inside.pt": lambda: pt_bytes({"logical_count": torch.tensor(COUNTS), "x": evil}, pickle_protocol=protocol),
        "bare.pickle": lambda: pickle.dumps(evil, protocol=protocol),
        "objects.npy": lambda: npy_bytes(np.array([evil], dtype=object), allow_pickle=True),
        "objects.npz": lambda: npz_bytes(load=COUNTS, x=np.array([evil], dtype=object)),
    }
    file = tmp_path / name
    file.write_bytes(content[name]())
    with pytest.raises(TraceError, match=name) as caught:
        read_trace(file)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def zip_of(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def per_pass(**changes):
    record = {"forward_pass_id": 0, "global_physical_count": torch.ones(2, 3)}
    return {"records": [record], "last_physical_to_logical_map": torch.tensor([[0, 1, 2]] * 2)} | changes


BAD = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\n", "holds no numbers"),
    "only_bom": (b"\xef\xbb\xbf", "holds no numbers"),
    "csv_ragged_short": (b"1,2,3\n4,5\n", r"line 2 \(layer 1\) has 2 columns, line 1 has 3"),
    "csv_ragged_long": (b"1,2,3\n4,5,6\n7,8,9,10\n", r"line 3 \(layer 2\) has 4 columns"),
    "csv_ragged_that_evens_out": (b"1,2,3\n4,5\n7,8,9,10\n", r"line 2 \(layer 1\) has 2 columns"),
    "csv_blank_line": (b"1,2,3\n\n4,5,6\n", r"line 2 \(layer 1\) is empty"),
    "csv_blank_line_one_column": (b"1\n\n4\n", r"line 2 \(layer 1\), column 0: the cell is empty"),
    "csv_text": (b"1,2,3\n4,five,6\n", r"line 2 \(layer 1\), column 1: 'five' is not a number$"),
    "csv_quoted": (b'1,2,3\n4,"5",6\n', r"line 2 \(layer 1\), column 1: '\"5\"' is not a number"),
    "csv_empty_cell": (b"1,2,3\n4,,6\n", r"line 2 \(layer 1\), column 1: the cell is empty"),
    "csv_trailing_comma": (b"1,2,\n4,5,\n", "column 2: the cell is empty"),
    "csv_nan": (b"1,2,3\n4,nan,6\n", r"line 2 \(layer 1\), column 1: nan is not finite"),
    "csv_na": (b"1,2,3\n4,NA,6\n", r"column 1: 'NA' is not a number"),
    "csv_inf": (b"1,2,3\n4,-inf,6\n", r"column 1: -inf is not finite"),
    "csv_overflow": (b"1,2,3\n4,1e999,6\n", r"column 1: 1e999 is above 2\*\*53"),
    "csv_bool": (b"1,True\n2,False\n", r"column 1: 'True' is not a number"),
    "csv_all_bool": (b"True,True\nTrue,False\n", r"column 0: 'True' is not a number"),
    "csv_underscore": (b"1,1_000\n2,3\n", r"column 1: '1_000' is not a number"),
    "csv_hex": (b"1,0x10\n2,3\n", r"column 1: '0x10' is not a number"),
    "csv_complex": (b"1,2j\n2,3\n", r"column 1: '2j' is not a number"),
    "csv_header": (b"expert_0,expert_1\n1,2\n", "line 1 .*'expert_0' is not a number; a header row"),
    "csv_number_header": (b"0,1,2,3\n9,9,9,9\n", r"line 1 counts 0..3: a header row"),
    "csv_index_and_header": (b",0,1,2\n0,9,9,9\n", "line 1 .*the cell is empty; a header row"),
    "csv_semicolons": (b"1;2\n3;4\n", "'1;2' is not a number"),
    "csv_negative": (b"1,2\n3,-4\n", r"line 2 \(layer 1\), column 1: -4 is below 0"),
    "csv_zero": (b"0,0\n0,0\n", "every count is zero"),
    "csv_huge": (b"1,2\n3,9007199254740993\n", r"line 2 \(layer 1\), column 1: 9007199254740993 is above 2\*\*53"),
    "csv_absurd": (b"1,2\n3," + b"9" * 40 + b"\n", r"line 2 \(layer 1\), column 1: 9+ is above 2\*\*53"),
    "csv_old_mac_lines": (b"1,2\r3,4\r", "loads"),
    "csv_null_byte": (b"1,2\n3,\x004\n", "null byte"),
    "csv_arabic_digits": ("1,٢\n3,4\n".encode(), "not a table of plain numbers"),
    "latin1": (b"1,2\n3,\xe94\n", "UTF-8"),
    "utf16": ("1,2\n3,4\n".encode("utf-16"), "UTF-8"),
    "html": (b"<html><body>404</body></html>", "'<html><body>404</body></html>' is not a number"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "damaged or truncated gzip data"),
    "zstd": (b"\x28\xb5\x2f\xfdrest", "damaged or truncated zstd data"),
    "gzip_cut": (gzip.compress(json_bytes(COUNTS.tolist()))[:-9], "damaged or truncated gzip data"),
    "gzip_of_nothing": (gzip.compress(b""), "the file holds no numbers"),
    "gzip_twice": (gzip.compress(gzip.compress(b"1,2")), "gzip-compressed: unpack it first"),
    "png": (b"\x89PNG\r\n\x1a\n\x00\x00", "UTF-8"),
    "json_broken": (b'{"logical_count": [[1, 2]', "not readable JSON"),
    "json_other_key": (json_bytes({"counts": [[1]]}), "no logical_count in the JSON; it holds the keys counts"),
    "json_no_key": (b"{}", "it holds nothing"),
    "json_placement": (json_bytes({"physical_to_logical_map": [[0]]}), "the keys physical_to_logical_map"),
    "json_null": (json_bytes({"logical_count": None}), "must be a list of lists of numbers, got null"),
    "json_number": (json_bytes({"logical_count": 3}), "got 3"),
    "json_empty": (b"[]", "the list: empty"),
    "json_empty_layer": (b"[[], []]", "layer 0: empty"),
    "json_late_empty_layer": (b"[[1], []]", "layer 1: empty"),
    "json_4d": (b"[[[[1]]]]", "one to three dimensions, got 4"),
    "json_deep": (b"[" * 100_000, "JSON"),
    "json_deep_closed": (b"[" * 500 + b"]" * 500, "dimensions, got 500"),
    "json_ragged": (b"[[1, 2], [3]]", "layer 1: has 1 entries, the first has 2"),
    "json_ragged_windows": (b"[[[1, 2], [3, 4]], [[1, 2]]]", "window 1: has 1 entries, the first has 2"),
    "json_mixed_depth": (b"[[1, 2], 3]", "layer 1: expected a list, got 3"),
    "json_list_as_number": (b"[[1, 2], [3, [4]]]", "layer 1, column 1: list is not a number"),
    "json_bool": (b"[[1, 2], [3, true]]", "layer 1, column 1: true is not a number"),
    "json_text": (b'[[1, 2], ["3", 4]]', 'layer 1, column 0: "3" is not a number'),
    "json_none": (b"[[[1, 2]], [[null, 4]]]", "window 1, layer 0, column 0: null is not a number"),
    "json_dict": (b'[[1, 2], [{"a": 1}, 4]]', "layer 1, column 0: dict is not a number"),
    "json_nan": (b"[[1, 2], [NaN, 4]]", "layer 1, column 0: nan is not finite"),
    "json_inf": (b"[[1, 2], [4, Infinity]]", "layer 1, column 1: inf is not finite"),
    "json_minus_inf": (b"[[1, 2], [4, -Infinity]]", "layer 1, column 1"),
    "json_1e999": (b"[[1, 2], [4, 1e999]]", "layer 1, column 1: inf is not finite"),
    "json_negative": (b"[[1, 2], [4, -1]]", "layer 1, column 1: -1.0 is negative"),
    "json_huge": (b"[[1, 2], [4, 9007199254740993]]", r"layer 1, column 1: the number is above 2\*\*53"),
    "json_400_digits": (b"[[1, 2], [4, " + b"9" * 400 + b"]]", r"layer 1, column 1: the number is above 2\*\*53"),
    "json_minus_400_digits": (b"[[1, 2], [4, -" + b"9" * 400 + b"]]", r"layer 1, column 1"),
    "json_400_digits_after_nan": (
        b"[[NaN, 4, " + b"9" * 400 + b"]]",
        r"layer 0, column 2: the number is above 2\*\*53",
    ),
    "json_large_after_nan": (b"[[NaN, 4, 1e300]]", r"layer 0, column 2: the number is above 2\*\*53"),
    "json_5000_digits": (b"[[1, " + b"9" * 5000 + b"]]", "not readable JSON"),
    "json_total": (json_bytes([[2**52, 2**52, 2]]), r"layer 0: totals .* more than 2\*\*53"),
    "json_zero": (b"[[0, 0], [0, 0]]", "every count is zero"),
    "json_lines": (b'{"a": 1}\n{"a": 2}\n', "not readable JSON"),
    "json_latin1": (b'{"logical_count": "\xe9"}', "not readable JSON"),
    "npy_truncated": (npy_bytes(COUNTS)[:-8], "not a readable .npy"),
    "npy_header_only": (b"\x93NUMPY", "not a readable .npy"),
    "npy_bad_header": (b"\x93NUMPY\x01\x00\x10\x00__import__('os')", "not a readable .npy"),
    "npy_absurd_shape": (
        npy_bytes(np.ones((1, 9)))[:128].replace(b"(1, 9)", b"(10**9,)").replace(b"10**9", b"99999"),
        "not a readable .npy",
    ),
    "npy_text": (npy_bytes(np.array([["a", "b"]])), "must hold numbers"),
    "npy_bool": (npy_bytes(np.array([[True, False]])), "booleans"),
    "npy_complex": (npy_bytes(np.array([[1j, 2]])), "must hold numbers"),
    "npy_dates": (npy_bytes(np.array([["2020-01-01"]], dtype="datetime64[D]")), "must hold numbers"),
    "npy_record": (npy_bytes(np.zeros(3, dtype=[("a", "i4")])), "must hold numbers"),
    "npy_scalar": (npy_bytes(np.array(3)), r"got shape \(\)"),
    "npy_4d": (npy_bytes(np.ones((1, 1, 1, 1))), r"got shape \(1, 1, 1, 1\)"),
    "npy_empty": (npy_bytes(np.ones((0, 3))), r"got shape \(0, 3\)"),
    "npy_nan": (npy_bytes(np.array([[1, np.nan]])), "layer 0, column 1: nan is not finite"),
    "npy_negative": (npy_bytes(COUNTS - 1), "window 0, layer 0, column 0: -1 is negative"),
    "npz_truncated": (npz_bytes(load=COUNTS)[:-30], "damaged or truncated archive"),
    "npz_cut_early": (npz_bytes(load=COUNTS)[:10], "damaged or truncated archive"),
    "npz_flipped": (npz_bytes(load=COUNTS).replace(COUNTS.tobytes(), b"x" * COUNTS.nbytes), "not a readable .npz"),
    "npz_none": (zip_of(), "there are: none"),
    "npz_text": (npz_bytes(load=np.array(["x"])), "must hold numbers"),
    "npz_placement": (npz_bytes(phy2log=COUNTS[0], num_experts=3, num_gpus=1), "holds a placement"),
    "zip_of_text": (zip_of(**{"a.txt": "hello"}), "'a.txt' is no array"),
    "zip_of_broken_npy": (zip_of(**{"a.npy": b"\x93NUMPY"}), "not a readable .npz"),
    "pt_truncated": (pt_bytes(STAT)[:-40], "damaged or truncated archive"),
    "pt_legacy_truncated": (pt_bytes(STAT, _use_new_zipfile_serialization=False)[:-9], "not a .pt file of plain"),
    "pt_fake": (zip_of(**{"archive/data.pkl": b"garbage"}), "not a .pt file of plain tensors"),
    "pt_no_key": (pt_bytes({"rank": 0}), "no logical_count and no records in the dump; it holds the keys rank"),
    "pt_list": (pt_bytes([1, 2]), "it holds a list"),
    "pt_none": (pt_bytes({"logical_count": None}), "logical_count is not a plain array"),
    "pt_text": (pt_bytes({"logical_count": "abc"}), "logical_count is not a plain array"),
    "pt_sparse": (pt_bytes({"logical_count": torch.eye(3).to_sparse()}), "logical_count is not a plain array"),
    "pt_complex": (pt_bytes({"logical_count": torch.ones(2, 2) * 1j}), "logical_count is not a plain array"),
    "pt_bool": (pt_bytes({"logical_count": torch.ones(2, 2, dtype=torch.bool)}), "booleans"),
    "pt_nan": (pt_bytes({"logical_count": torch.tensor([[1.0, float("nan")]])}), "layer 0, column 1: nan"),
    "pt_unfilled": (pt_bytes({"logical_count": torch.zeros(2, 2, 2)}), "every count is zero"),
    "pt_no_records": (pt_bytes(per_pass(records=[])), "at least one record"),
    "pt_odd_record": (pt_bytes(per_pass(records=[3])), "record 0: no global_physical_count"),
    "pt_record_shape": (pt_bytes(per_pass(records=[{"global_physical_count": torch.ones(2, 4)}])), "record 0: shape"),
    "pt_map_3d": (pt_bytes(per_pass(last_physical_to_logical_map=torch.ones(1, 2, 3))), "must be .layers, slots."),
    "pt_map_negative": (pt_bytes(per_pass(last_physical_to_logical_map=torch.tensor([[0, -1]]))), "expert ids"),
    "pt_map_wild": (pt_bytes(per_pass(last_physical_to_logical_map=torch.tensor([[0, 1, 10**9]] * 2))), "names expert"),
    "pt_no_map": (pt_bytes({"records": [{}]}), "need last_physical_to_logical_map"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_line_that_names_the_file_and_the_fault(case, tmp_path):
    content, rule = BAD[case]
    file = tmp_path / "loads"
    file.write_bytes(content)
    with pytest.raises(TraceError, match=rule) as caught:
        read_trace(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(file))


def test_only_an_npz_has_arrays_to_name(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_bytes(COUNTS))
    with pytest.raises(TraceError, match=r"only a .npz file has arrays to name, and 'x' names one"):
        read_trace(f"{tmp_path / 'a.npy'}:x")


@pytest.mark.parametrize("name", ["nothing.json", "no/such/folder.csv", "nul\0", "", "a" * 5000])
def test_a_missing_file_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TraceError):
        read_trace(name)


def test_the_recordings_are_read(recordings):
    shapes = {
        "deepseek-v3/prefill_in1024.json": (1, 58, 256),
        "deepseek-v3/prefill_in2000out100.json": (1, 58, 256),
        "deepseek-v3/decode_in1000out1000.json": (1, 58, 256),
        "deepseek-v3/decode_in1800out100.json": (1, 58, 256),
        "deepseek-v3/ten_token_smoke.json": (1, 58, 256),
        "deepseek-v2-lite/deepseek_v2_lite_windows32.json": (32, 26, 64),
        "olmoe/olmoe_arxiv.json": (1, 3, 64),
        "mixtral/mistral_c4.json": (1, 3, 8),
        "gpt-oss-20b/gpt_oss_20b_counts.npz:per_decode_step": (511, 24, 32),
        "gpt-oss-20b/gpt_oss_20b_counts.npz:per_file": (703, 24, 32),
    }
    for name, shape in shapes.items():
        trace = read_trace(recordings / name)
        assert trace.windows.shape == shape, name
        assert trace.windows.dtype == np.int64
        if name.startswith("deepseek-v3"):
            assert trace.layer_ids == tuple(range(3, 61))
            document = json.loads((recordings / name).read_text())
            raw = document["logical_count"] if isinstance(document, dict) else document
            assert trace.total().values.tolist() == raw[3:]
