"""Files that lie about their size, and names that were never meant to be read."""

import io
import json
import os
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from moeopt.errors import TraceError
from moeopt.traces import read_gpu_load_csv, read_placement, read_trace
from tests.traces.engines import omni_dumps, sglang_name, sglang_ranks, trtllm_ranks

EVIL = "line\none\x1b[31m\0\u202e" + "x" * 300_000
READERS = [read_trace, lambda path: read_placement(path, 3, 2)]


def refused(read, path, rule):
    with pytest.raises(TraceError, match=rule) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


def npy_header(shape, dtype="|i1"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def saved(document, **options):
    buffer = io.BytesIO()
    torch.save(document, buffer, **options)
    return buffer.getvalue()


def archive(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name, content in members:
            new.writestr(name, content)
    return buffer.getvalue()


def bomb():
    """An archive of a few kilobytes that says, truly or not, that it unpacks to more than 4 GiB."""
    content = archive([(f"{i}.npy", npy_header((1,)) + b"\0") for i in range(2)])
    claimed = (2**32 - 2).to_bytes(4, "little")
    start = content.index(b"PK\x01\x02")
    for _ in range(2):
        content = content[: start + 24] + claimed + content[start + 28 :]
        start = content.find(b"PK\x01\x02", start + 1)
    return content


NAMES = {
    "json keys": json.dumps({EVIL: 1}).encode(),
    "json key that no encoding takes": b'{"\\ud800": 1}',
    "json text": json.dumps([[1, EVIL]]).encode(),
    "npz members": archive([(EVIL[:60_000], b"no array")]),
    "npz arrays": archive([(f"{i}{EVIL[:60_000]}.npy", npy_header((1,)) + b"\0") for i in range(20)]),
    "npz arrays of many dimensions": archive([(f"{i}.npy", npy_header((1,) * 60) + b"\0") for i in range(20)]),
    "pt keys": saved({EVIL: 1, (EVIL,): 2}),
    "vllm": json.dumps({"record_type": "eplb_load_stats", "version": EVIL}).encode(),
    "vllm meta": json.dumps({"record_type": "eplb_load_meta", "version": 1, "num_ranks": EVIL}).encode(),
    "vllm type": json.dumps({"record_type": EVIL}).encode(),
    "history": json.dumps({"load_history": [{EVIL: 1}]}).encode(),
    "routed": json.dumps({"routed_experts": {"dtype": EVIL, "shape": [EVIL], "data": EVIL}}).encode(),
    "csv cell": b"1,\x1b[31m" + b"x" * 10**5 + b"\n",
    "csv cell that is nearly a number": b"1,nan" + b"1" * 10**5 + b"\n",
    "csv header": b"\xe2\x80\xae,2\n1,2\n",
    "npy header": b"\x93NUMPY\x01\x00\x40\x00{'descr': '\x1b[31m\n', 'fortran_order': False, 'shape': (1,)}   \n",
    "npy header that is too deep": b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 2**13,
    "npy header with a warning": b"\x93NUMPY\x01\x00\x0a\x00'\\d\\\xff\\d\n'  ",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.filterwarnings("error")
def test_names_inside_a_file_reach_messages_short_and_escaped(kind, read, tmp_path):
    (tmp_path / "file").write_bytes(NAMES[kind])
    refused(read, tmp_path / "file", "file: ")


@pytest.mark.parametrize("read", [*READERS, read_gpu_load_csv])
def test_the_name_of_a_file_reaches_messages_escaped_and_sources_too(read, tmp_path):
    folder = tmp_path / "a\nb\x1b"
    folder.mkdir()
    for name in ("n\tx.csv", os.fsdecode(b"\xff.csv")):
        (folder / name).write_text("1,x\n")
        assert r"a\nb\x1b" in refused(read, folder / name, "not a number")
        assert r"a\nb\x1b" in refused(read, folder / f"{name}.none", "No such file")
    assert read is not read_trace or r"a\nb\x1b" in refused(read, folder, "not a number")
    for path in folder.iterdir():
        path.write_text("1,2\n")
        assert read is not read_trace or read(path).source.isprintable()
    if read is read_trace:
        assert read(folder).source == r"a\nb\x1b"
        refused(read, f"{folder / f'n{chr(9)}x.csv'}:{EVIL[:900]}", "names one|cannot be read|null")


WIDE = torch.zeros(1).expand(2, 10**9)
RECORD = {"forward_pass_id": 0, "global_physical_count": torch.ones(1).long().expand(2**14, 2**12)}
LIES = {
    "npy header of more than memory": (npy_header((10**6, 10**12)), "at most 4294967296 numbers"),
    "npy header of more than the file": (
        npy_header((1000, 1000)),
        r"claims shape \[1000, 1000\] of int8, the file h",
    ),
    "npy header of nothing": (npy_header((0, 10**12)), "."),
    "npy header below nothing": (npy_header((-5, 2)) + b"0" * 99, "header claims|shape"),
    "npy of huge entries": (npy_header((3,), "|V1000000"), "header claims"),
    "npz header of more than memory": (archive([("a.npy", npy_header((10**6, 10**12)))]), "at most 4294967296"),
    "npz that unpacks to much": (bomb(), "an archive of 8589934588 bytes when unpacked, at most 4294967296"),
    "pt of one number": (saved({"logical_count": WIDE, "physical_to_logical_map": WIDE}), "at most 536870912 numbers"),
    "pt of one number, bare": (saved(WIDE), "at most 536870912 numbers|no physical_to_logical_map"),
    "pt of one number, old": (saved(WIDE, _use_new_zipfile_serialization=False), "at most|no physical_to_logical_map"),
    "pt of one row": (
        saved({"logical_count": [[[0] * 100] * 1000] * 1000, "physical_to_logical_map": [[0] * 10**4] * 10**4}),
        "has shape .*at most 16777216 numbers",
    ),
    "pt of one record": (
        saved({"records": [RECORD] * 9, "last_physical_to_logical_map": RECORD["global_physical_count"]}),
        "records has shape .*at most 536870912|no physical",
    ),
    "json with one long row": (json.dumps([[0] * 10**5, *[[]] * 10**4]).encode(), "at most 536870912 numbers"),
    "expert map with one full device": (
        json.dumps(
            {
                "layer_list": [
                    {
                        "layer_id": i,
                        "device_list": [
                            {"device_id": 0, "device_expert": [0] * (10**6 if i == 0 else 0)},
                            {"device_id": 1, "device_expert": []},
                        ],
                    }
                    for i in range(1000)
                ]
            }
        ).encode(),
        "expert map, padded to its fullest device,|no logical_count",
    ),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_size_that_a_file_only_claims_is_refused_before_memory_is_taken(kind, tmp_path):
    content, rule = LIES[kind]
    (tmp_path / "file").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in READERS:
        refused(read, tmp_path / "file", rule)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


def unfolding(depth):
    """A pickled dictionary whose key is a tuple of two tuples, each of two of the ones before: 2**depth parts."""
    pairs = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(depth))
    return b"\x80\x02})q\x00" + pairs + b"K\x01s."


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("old", [False, True])
def test_a_key_that_would_take_for_ever_to_hash_is_refused(old, read, tmp_path):
    if old:
        plain = saved(1, _use_new_zipfile_serialization=False)
        content = plain.replace(b"\x80\x02K\x01.", unfolding(60))
        assert content != plain
    else:
        with zipfile.ZipFile(io.BytesIO(saved(1))) as good:
            members = [(name, good.read(name)) for name in good.namelist()]
        changed = [(name, unfolding(60) if name.endswith("data.pkl") else content) for name, content in members]
        content = archive(changed, zipfile.ZIP_STORED)
    (tmp_path / "file").write_bytes(content)
    refused(read, tmp_path / "file", "it holds a tuple of more than 16777216 parts")


def test_tuples_that_share_little_are_read(tmp_path):
    shared = ((1, 2), (1, 2))
    document = {shared: (shared,) * 1000, "logical_count": torch.ones(2, 3), "more": [(i, shared) for i in range(99)]}
    (tmp_path / "file").write_bytes(saved(document))
    assert read_trace(tmp_path / "file").windows.tolist() == [[[1] * 3] * 2]


def test_a_placement_has_at_most_67_million_slots(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.write(npy_header((2, 2**13 + 1, 2**12)))
        file.truncate(file.tell() + 2 * (2**13 + 1) * 2**12)
    refused(READERS[1], tmp_path / "file", r"the placement has shape \[2, 8193, 4096\]; at most 67108864 numbers")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
@pytest.mark.parametrize("read", [*READERS, read_gpu_load_csv])
def test_only_regular_files_are_opened(read, tmp_path):
    """A pipe that nobody writes to would block for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", tmp_path / "link.csv", "/dev/zero", "/dev/stdin"):
        refused(read, path, "not a regular file|No such file")
    if read is read_trace:
        refused(read, tmp_path, r"csv: not a regular file")
    refused(read, "/proc/kmsg", "the file is empty|No such file|Permission")
    refused(read, "/proc/self/status", "the file is empty|No such file")


def test_a_file_larger_than_4_gib_is_refused_unread(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**32 + 1)  # a hole: it takes no room
    refused(read_trace, tmp_path / "file", "4294967297 bytes, at most 4294967296 are read")


def test_reading_small_integers_takes_about_one_wide_copy(tmp_path):
    """``[300, 250, 256]`` of int8: 19 MB in the file, 154 MB as int64."""
    np.save(tmp_path / "file.npy", np.ones((300, 250, 256), dtype=np.int8))
    code = """
import resource, sys
from moeopt.traces import read_trace
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
trace = read_trace(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / trace.windows.nbytes)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file.npy"], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 1.7


@pytest.mark.parametrize("line", [1, 20_000, 50_000])
def test_the_fault_of_a_long_csv_is_found_in_the_one_block_that_holds_it(line, tmp_path, monkeypatch):
    """Every cell of a file costs time, and only those of one block are worth looking at one by one."""
    from moeopt.traces import csv_matrix

    looked_at = 0
    original = csv_matrix._cell_fault

    def counted(*arguments):
        nonlocal looked_at
        looked_at += 1
        return original(*arguments)

    monkeypatch.setattr(csv_matrix, "_cell_fault", counted)
    lines = ["1,2,3,4,5,6,7,8"] * 50_000
    lines[line - 1] = "1,2,3,4,5,6,7,x"
    (tmp_path / "file").write_text("\n".join(lines))
    refused(read_trace, tmp_path / "file", rf"line {line} \(layer {line - 1}\), column 7: 'x' is not a number")
    assert 0 < looked_at <= 2**18
    looked_at = 0
    (tmp_path / "file").write_text(",".join(["1"] * 500_000) + ",x")
    refused(read_trace, tmp_path / "file", r"line 1 \(layer 0\), column 500000: 'x'")
    assert 0 < looked_at <= 2**12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (sglang_ranks, sglang_name(1)),
        (trtllm_ranks, "rank1.safetensors"),
        (trtllm_ranks, "meta_info.json"),
        (omni_dumps, "activation_counts_recordstep_2_rank_1.txt"),
    ],
)
def test_only_regular_files_of_a_folder_are_opened(write, name, tmp_path):
    write(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    refused(read_trace, tmp_path, f"{name}: not a regular file")


def test_names_of_tensors_reach_messages_short_and_escaped(tmp_path):
    trtllm_ranks(tmp_path)
    save_file({EVIL: np.ones(8)}, tmp_path / "rank1.safetensors")
    refused(read_trace, tmp_path, "rank1.safetensors: a tensor called")


def test_a_folder_that_claims_much_is_refused_before_memory_is_taken(tmp_path):
    trtllm_ranks(tmp_path, meta={"num_experts": 10**9})
    refused(read_trace, tmp_path, r"the folder has shape \[5, 3, 1000000000\]; at most 536870912 numbers")


def test_a_rank_of_billions_names_no_billions_of_missing_ones(tmp_path):
    trtllm_ranks(tmp_path)
    (tmp_path / "rank999999999.safetensors").write_bytes((tmp_path / "rank1.safetensors").read_bytes())
    refused(read_trace, tmp_path, "the files of ranks 3, 4, 5, .* are missing, those of ranks 0, 1, 2, 999999999 are")
    record = {"forward_pass_id": 1, "rank": 2**16 - 1, "global_physical_count": torch.ones(2, 3)}
    (tmp_path / "file").write_bytes(
        saved({"records": [record], "last_physical_to_logical_map": torch.ones(2, 3).long()})
    )
    refused(read_trace, tmp_path / "file", r"share of rank 65535 only.*: ranks 0, 1, .*, \.\.\. and perhaps")
