"""Compressed files, bounds on their sizes, hashes and the bar."""

import gzip
import hashlib
import json
import sys

import numpy as np
import pytest
from backports import zstd

from moeopt.errors import TraceError
from moeopt.traces import json_lines, opened, read_trace
from tests.traces.engines import json_lines as lines_of
from tests.traces.engines import (
    omni_dumps,
    sglang_ranks,
    trtllm_ranks,
    vllm_line,
    vllm_meta,
    vllm_steps,
)

PACKED = {".gz": gzip.compress, ".zst": zstd.compress}
NPY = b"{'descr': '|i1', 'fortran_order': False, 'shape': (2000000, 1, 1)}\n"
COUNTS = np.random.default_rng(0).integers(0, 9, (6, 2, 4))


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("write", [sglang_ranks, omni_dumps])
def test_a_folder_of_compressed_files_is_read_as_one_of_plain_ones(write, ending, tmp_path):
    write(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for file in (tmp_path / "plain").iterdir():
        (tmp_path / "packed" / (file.name + ending)).write_bytes(PACKED[ending](file.read_bytes()))
    assert read_trace(tmp_path / "packed").windows.tolist() == read_trace(tmp_path / "plain").windows.tolist()


@pytest.mark.parametrize("ending", PACKED)
def test_lines_and_layers_may_be_compressed(ending, tmp_path):
    made, truth = vllm_steps()
    text = lines_of([vllm_meta(), *(vllm_line(step, *one) for step, one in enumerate(made))])
    (tmp_path / "stats").write_bytes(PACKED[ending](text.encode()))
    assert read_trace(tmp_path / "stats").windows.tolist() == truth.tolist()
    (tmp_path / "run").mkdir()
    for layer in (3, 4):
        (tmp_path / "run" / f"layer_{layer}.csv{ending}").write_bytes(PACKED[ending](b"1,2\n3,4\n"))
    trace = read_trace(tmp_path / "run")
    assert (trace.layer_ids, trace.windows.tolist()) == ((3, 4), [[[1, 2]] * 2, [[3, 4]] * 2])


def test_the_hash_of_a_compressed_file_is_that_of_the_file_itself(tmp_path):
    content = gzip.compress(b"1,2\n3,4\n")
    (tmp_path / "a.csv.gz").write_bytes(content)
    assert read_trace(tmp_path / "a.csv.gz").sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("write", [sglang_ranks, trtllm_ranks, omni_dumps])
def test_the_hash_of_a_folder_is_that_of_the_files_read_in_the_order_of_their_names(write, tmp_path):
    write(tmp_path)
    (tmp_path / "README.md").write_text("not read, so not hashed")
    files = sorted(file for file in tmp_path.iterdir() if "raw" not in file.name and file.name != "README.md")
    assert read_trace(tmp_path).sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", ["csv", "json", "npy"])
def test_what_unpacks_to_more_than_allowed_is_refused(kind, ending, tmp_path, monkeypatch):
    """A few kilobytes of zeros: as a whole they never come into memory."""
    zeros = {
        "csv": b"0," * 10**6,
        "json": b"[[0" + b",0" * 10**6,
        "npy": b"\x93NUMPY\x01\x00" + bytes([len(NPY), 0]) + NPY + bytes(2_000_000),
    }
    (tmp_path / "bomb").write_bytes(PACKED[ending](zeros[kind]))
    assert (tmp_path / "bomb").stat().st_size < 10_000
    with pytest.raises(TraceError, match=r"bomb: more than 100000 bytes when unpacked, at most 100000 are read; max_b"):
        read_trace(tmp_path / "bomb", max_bytes=100_000)
    monkeypatch.setattr(opened, "MAX_UNPACKED", 100_000)
    monkeypatch.setattr(json_lines, "_LONGEST_LINE", 100_000)
    with pytest.raises(TraceError, match="every count is zero" if kind == "npy" else "more than 100000 bytes"):
        read_trace(tmp_path / "bomb")
    with pytest.raises(TraceError, match=r"not readable JSON|every count is zero|the cell is empty"):
        read_trace(tmp_path / "bomb", max_bytes=10**7)


def test_a_file_or_archive_of_more_than_allowed_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", load=np.zeros((100, 100)))
    with pytest.raises(TraceError, match="an archive of 80128 bytes when unpacked, at most 5000 are read"):
        read_trace(tmp_path / "a.npz", max_bytes=5000)
    with pytest.raises(TraceError, match=r"\d+ bytes, at most 100 are read; max_bytes allows more"):
        read_trace(tmp_path / "a.npz", max_bytes=100)


@pytest.mark.parametrize("pack", PACKED.values())
def test_data_cut_off_anywhere_is_refused(pack, tmp_path):
    np.save(tmp_path / "a.npy", COUNTS)
    content = pack((tmp_path / "a.npy").read_bytes())
    for cut in range(4, len(content), 3):
        (tmp_path / "a").write_bytes(content[:cut])
        with pytest.raises(TraceError, match=r"damaged or truncated (gzip|zstd) data"):
            read_trace(tmp_path / "a")


def test_zstd_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(zstd.compress(b"1,2\n"))
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TraceError, match=r'a.zst: zstd-compressed: unpack it first, or pip install "moeopt\[zstd\]"'):
        read_trace(tmp_path / "a.zst")


@pytest.mark.parametrize("name", ["a.npy", "a.json.gz", "run", "missing"])
def test_a_bar_is_shown_on_stderr_where_it_is_asked_for(name, tmp_path, capsys):
    np.save(tmp_path / "a.npy", COUNTS)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(COUNTS.tolist()).encode()))
    trtllm_ranks(tmp_path / "run")
    if name == "missing":
        with pytest.raises(TraceError, match="No such file"):
            read_trace(tmp_path / name, progress=True)
        return
    read_trace(tmp_path / name)
    assert capsys.readouterr() == ("", "")
    shown = read_trace(tmp_path / name, progress=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert f"reading {name}" in output.err
    assert shown == read_trace(tmp_path / name)
