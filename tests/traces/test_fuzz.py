"""Mutated files of every format give a valid trace or placement, or one clear line; nothing else ever."""

import base64
import gzip
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces import read_gpu_load_csv, read_placement, read_trace
from moeopt.traces.placement_trtllm import trtllm_yaml
from moeopt.traces.placement_vllm import vllm_jsonl
from tests.traces.engines import (
    json_lines,
    omni_dumps,
    routed,
    sglang_name,
    sglang_ranks,
    trtllm_ranks,
    vllm_line,
    vllm_meta,
    vllm_steps,
)

COUNTS = np.array([[[0, 0, 0], [5, 0, 1], [2, 2, 2]], [[0, 0, 0], [1, 1, 4], [0, 3, 3]]])
MAP = np.array([[0, 1, 2, 0], [2, -1, 1, 0]])


def saved(save, *args, **options):
    buffer = io.BytesIO()
    save(*args, buffer, **options) if save is torch.save else save(buffer, *args, **options)
    return buffer.getvalue()


RECORD = {"forward_pass_id": 0, "global_physical_count": torch.ones(2, 4, dtype=torch.int64)}
DUMP = {"records": [RECORD, RECORD], "last_physical_to_logical_map": torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])}
DEVICES = [{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 0]}]
TRACES = {
    "csv": "\n".join(",".join(map(str, row)) for row in COUNTS[0] + 1).encode(),
    "csv of floats": b"0.5,1e3,2\n3,4.25,0\n",
    "json": json.dumps({"logical_count": COUNTS.tolist(), "note": "x"}).encode(),
    "json list": json.dumps((COUNTS / 2).tolist()).encode(),
    "npy": saved(np.save, COUNTS),
    "npy of floats": saved(np.save, (COUNTS / 2).astype(np.float16)),
    "npz": saved(np.savez, logical_count=COUNTS, other=np.ones(3)),
    "npz packed": saved(np.savez_compressed, load=COUNTS.astype(np.uint64)),
    "stat": saved(torch.save, {"rank": 0, "logical_count": torch.tensor(COUNTS)}),
    "stat legacy": saved(torch.save, {"logical_count": torch.tensor(COUNTS)}, _use_new_zipfile_serialization=False),
    "per_pass": saved(torch.save, DUMP),
    "tensor": saved(torch.save, torch.tensor(COUNTS).to(torch.bfloat16)),
    "gzip": gzip.compress(json.dumps(COUNTS.tolist()).encode()),
    "zstd": zstd.compress(saved(np.save, COUNTS)),
    "vllm": json_lines([vllm_meta(), *(vllm_line(step, *made) for step, made in enumerate(vllm_steps()[0]))]).encode(),
    "history": json.dumps({"load_history": [{"logical_expert_load": step} for step in COUNTS.tolist()]}).encode(),
    "routed": json_lines([{"meta_info": {"routed_experts": [[[1, 2], [0, 1]]] * 3}}] * 2).encode(),
    "routed in base64": json.dumps({"routed_experts": base64.b64encode(saved(np.save, routed())).decode()}).encode(),
}
PLACEMENTS = {
    "csv": "\n".join(",".join(map(str, row)) for row in MAP).encode(),
    "json": json.dumps({"physical_to_logical_map": MAP.tolist()}).encode(),
    "json list": json.dumps(MAP.tolist()).encode(),
    "expert map": json.dumps({"layer_list": [{"layer_id": 0, "device_list": DEVICES}]}).encode(),
    "npy": saved(np.save, MAP),
    "omni": saved(np.save, np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [1, 1, 0]]], dtype=np.uint8)),
    "npz": saved(np.savez, phy2log=MAP, num_experts=3, num_gpus=2),
    "pt": saved(torch.save, {"physical_to_logical_map": torch.tensor(MAP)}),
    "vLLM record": vllm_jsonl(Placement(MAP, 3, 2), (0, 1), 2).encode(),
    "TensorRT-LLM": trtllm_yaml(Placement(MAP, 3, 2), (3, 4), 5).encode(),
}
TOKENS = [
    b"", b"\n", b"\r", b"\0", b",", b"[", b"]", b"{", b"}", b'"', b":", b"-", b"1e999", b"1e-310", b"NaN", b"Infinity",
    b"null", b"true", b"9007199254740993", b"9" * 400, b"9" * 5000, b"\x1b[31m", "‮\u2028".encode(), b'"\\ud800"',
    b"&a", b"*a", b"<<: ", b"!!python/object/apply:os.system", b"- ", b"%YAML",
    b"\xff\xfe", b"nan" + b"1" * 900, b"0" * 3000, b"x" * 3000, b"(10**9,)", b"99999", b"False", b"<f8", b"|O8",
    b"\x93NUMPY", b"PK\x05\x06", b"\x80\x02", b"\xd9\xa3", b"_", b"logical_count", b"(", b".", b"R", b"\x94",
    b"record_type", b"routed_experts", b"load_history", b"p2l_map", b"eplb_load_meta", b"\x1f\x8b", b"\x28\xb5\x2f\xfd",
]  # fmt: skip


@st.composite
def mutations(draw, size):
    """Return a function that changes bytes in a few places."""
    changes = draw(
        st.lists(
            st.tuples(
                st.integers(0, max(size - 1, 0)),
                st.integers(0, 12),
                st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)),
                st.integers(0, 3),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content):
        for place, length, token, kind in changes:
            if kind == 0:  # replace
                content = content[:place] + token + content[place + length :]
            elif kind == 1:  # repeat
                content = content[:place] + content[place : place + length] * 3 + content[place + length :]
            elif kind == 2:  # cut out
                content = content[:place] + content[place + length :]
            else:  # cut off
                content = content[: place + length] + token
        return content

    return mutate


def members_mutated(content, pick, mutate):
    """The archive with one member's content changed and its checksum right, so that inner parsers see the change."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        for name in names:
            data = old.read(name)
            new.writestr(name, mutate(data) if name == names[pick % len(names)] else data)
    return buffer.getvalue()


@st.composite
def mutated(draw, files):
    content = files[draw(st.sampled_from(sorted(files)))]
    mutate = draw(mutations(min(len(content), 2000)))
    if content.startswith(b"PK") and draw(st.booleans()):
        return members_mutated(content, draw(st.integers(0, 9)), mutate)
    return mutate(content)


def one_line(error, path):
    message = str(error)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) <= 500 + len(str(path))


def check_trace(content, path):
    path.write_bytes(content)
    options = {"num_experts": 8} if b"routed_experts" in content else {}
    try:
        trace = read_trace(path, **options)
    except TraceError as error:
        one_line(error, path)
        return
    assert trace.windows.dtype in (np.int64, np.float64)
    assert np.isfinite(trace.windows).all()
    assert (trace.windows >= 0).all()
    assert all(sum(layer) <= 2**53 for layer in trace.total().values.tolist())
    assert trace.total().values.any(axis=1).all()


def check_placement(content, path):
    path.write_bytes(content)
    try:
        placement = read_placement(path, 3, 2)
    except TraceError as error:
        one_line(error, path)
        return
    assert placement.num_slots % 2 == 0
    assert ((placement.phy2log >= -1) & (placement.phy2log < 3)).all()


def check_gpu_load(content, path):
    path.write_bytes(content)
    try:
        assert np.isfinite(read_gpu_load_csv(path)).all()
    except TraceError as error:
        one_line(error, path)


CASES = {"trace": (check_trace, TRACES), "placement": (check_placement, PLACEMENTS), "loads": (check_gpu_load, TRACES)}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=250, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_line(kind, data, tmp_path):
    check, files = CASES[kind]
    check(data.draw(mutated(files)), tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=2_000, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_very_many_mutated_files_are_read_or_refused_in_one_line(kind, data, tmp_path):
    check, files = CASES[kind]
    check(data.draw(mutated(files)), tmp_path / "file")


@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused_in_one_line(kind, content, tmp_path):
    CASES[kind][0](content, tmp_path / "file")


@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(
    document=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(
                    st.sampled_from(
                        [
                            "logical_count",
                            "physical_to_logical_map",
                            "layer_list",
                            "device_list",
                            "load_history",
                            "logical_expert_load",
                            "record_type",
                            "routed_experts",
                            "meta_info",
                        ]
                    ),
                    st.text(),
                ),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused_in_one_line(kind, document, tmp_path):
    CASES[kind][0](
        json.dumps([document] if not isinstance(document, list | dict) else document).encode(), tmp_path / "f"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_a_folder_with_a_mutated_file_is_read_or_refused_in_one_line(data, tmp_path):
    layer = b"1,2,3\n4,5,6\n"
    (tmp_path / "layer_0.csv").write_bytes(layer)
    (tmp_path / "layer_1.csv").write_bytes(data.draw(mutations(len(layer)))(layer))
    try:
        assert read_trace(tmp_path).windows.sum() > 0
    except TraceError as error:
        one_line(error, tmp_path)


FOLDERS = {
    "sglang": (sglang_ranks, sglang_name(1)),
    "trtllm": (trtllm_ranks, "rank1.safetensors"),
    "trtllm meta": (trtllm_ranks, "meta_info.json"),
    "omni": (omni_dumps, "activation_counts_recordstep_2_rank_1.txt"),
}


@pytest.mark.parametrize("kind", FOLDERS)
@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_an_engines_folder_with_a_mutated_file_is_read_or_refused_in_one_line(kind, data, tmp_path):
    write, name = FOLDERS[kind]
    file = tmp_path / name
    if not (tmp_path / "good").exists():
        write(tmp_path)
        (tmp_path / "good").write_bytes(file.read_bytes())
    content = (tmp_path / "good").read_bytes()
    mutate = data.draw(mutations(min(len(content), 2000)))
    if content.startswith(b"PK") and data.draw(st.booleans()):
        file.write_bytes(members_mutated(content, data.draw(st.integers(0, 9)), mutate))
    else:
        file.write_bytes(mutate(content))
    try:
        assert read_trace(tmp_path).windows.sum() > 0
    except TraceError as error:
        one_line(error, tmp_path)
