"""Routed experts, token by token: counted by expert and cut into windows, in every form the engines send them in."""

import base64
import io
import json

import numpy as np
import pytest

from moeopt.errors import InputError, TraceError
from moeopt.traces import read_trace
from tests.traces.engines import EXPERTS, LAYERS, counted, json_lines, routed

IDS = routed()
OTHER = routed(tokens=7, seed=1)
SIZES = {"num_experts": EXPERTS, "num_layers": LAYERS, "top_k": 2}


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def bare(ids):
    """SGLang's: int32 without a shape."""
    return base64.b64encode(ids.astype("<i4").tobytes()).decode()


FORMS = {
    "lists": lambda ids: ids.tolist(),
    "npy in base64": lambda ids: base64.b64encode(npy(ids.astype(np.int16))).decode(),
    "shape, dtype and base64": lambda ids: {
        "shape": list(ids.shape),
        "dtype": "int16",
        "encoding": "base64",
        "data": base64.b64encode(ids.astype("<i2").tobytes()).decode(),
    },
    "bare int32 in base64": bare,
}


def vllm_response(form):
    """Prompt tokens at the top, generated ones in the choice."""
    return {
        "id": "x",
        "choices": [{"text": "y", "routed_experts": form(IDS[6:])}],
        "prompt_routed_experts": form(IDS[:6]),
    }


def sglang_response(form, ids=IDS):
    return {"text": "y", "meta_info": {"prompt_tokens": 6, "completion_tokens": 5, "routed_experts": form(ids)}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("response", [vllm_response, sglang_response])
def test_a_response_is_counted_in_whatever_form_its_field_comes(response, form, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(response(FORMS[form]), indent=2))
    trace = read_trace(tmp_path / "r.json", **SIZES)
    assert trace.windows.tolist() == [counted(IDS).tolist()]
    assert trace.layer_ids == (1, 2, 3)
    assert trace.ordered
    windows = read_trace(tmp_path / "r.json", window_tokens=4, **SIZES).windows
    assert windows.tolist() == [counted(IDS[start : start + 4]).tolist() for start in (0, 4, 8)]


@pytest.mark.parametrize("kind", ["json lines", "list"])
def test_every_response_is_a_window_unless_windows_hold_so_many_tokens(kind, tmp_path):
    responses = [vllm_response(FORMS["lists"]), sglang_response(bare, OTHER)]
    text = json_lines(responses) if kind == "json lines" else json.dumps(responses)
    (tmp_path / "r").write_text(text)
    trace = read_trace(tmp_path / "r", **SIZES)
    assert trace.windows.tolist() == [counted(IDS).tolist(), counted(OTHER).tolist()]
    assert not trace.ordered
    assert trace.note == "requests one after another: its windows are no steps of the engine"
    both = np.concatenate([IDS, OTHER])
    for size in (1, 5, 17, 100):
        windows = read_trace(tmp_path / "r", window_tokens=size, **SIZES).windows
        assert windows.tolist() == [counted(both[start : start + size]).tolist() for start in range(0, 17, size)]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "folder", "list.json"])
def test_an_array_is_routed_experts_where_the_caller_says_so(name, tmp_path):
    path, ids, requests = tmp_path / name, IDS, [IDS]
    if name == "folder":
        path.mkdir()
        (path / "request_0.npy").write_bytes(npy(IDS))
        (path / "request_1.npy").write_bytes(npy(OTHER.astype(np.int16)))
        requests = [IDS, OTHER]
    elif name == "a.npz":
        np.savez(path, request_0=IDS, request_1=OTHER)
        requests = [IDS, OTHER]
    elif name == "a.npy":
        path.write_bytes(npy(np.asfortranarray(ids)))
    else:
        path.write_text(json.dumps(ids.tolist()))
    trace = read_trace(path, routed_experts=True, num_experts=EXPERTS)
    assert trace.windows.tolist() == [counted(ids).tolist() for ids in requests]
    with pytest.raises(TraceError, match="do not say how many experts there are: num_experts is needed"):
        read_trace(path, routed_experts=True)


def test_an_npz_whose_arrays_have_the_engines_names_needs_no_flag(tmp_path):
    np.savez(tmp_path / "a.npz", routed_experts=IDS[6:], prompt_routed_experts=IDS[:6], other=np.ones(3))
    windows = read_trace(tmp_path / "a.npz", num_experts=EXPERTS).windows
    assert windows.tolist() == [counted(IDS[:6]).tolist(), counted(IDS[6:]).tolist()]
    assert len(read_trace(f"{tmp_path / 'a.npz'}:routed_experts", num_experts=EXPERTS, routed_experts=True)) == 1


def test_nothing_is_guessed_of_a_bare_array(tmp_path):
    """The same file is two windows of loads, or ten tokens."""
    (tmp_path / "a.npy").write_bytes(npy(IDS))
    assert read_trace(tmp_path / "a.npy").windows.shape == (10, 3, 2)
    assert read_trace(tmp_path / "a.npy", routed_experts=True, num_experts=8).windows.shape == (1, 3, 8)


def test_padding_and_dense_layers_count_for_nothing(tmp_path):
    ids = IDS.copy()
    ids[-1] = 0  # vLLM fills up the last token, which was never fed back
    ids[2, 1] = -1
    expected = counted(np.delete(ids[:-1], 2, axis=0)) + counted(ids[2:3])
    expected[0] -= counted(ids[2:3])[0]
    (tmp_path / "a.npy").write_bytes(npy(ids))
    assert read_trace(tmp_path / "a.npy", routed_experts=True, num_experts=8).windows.tolist() == [expected.tolist()]
    (tmp_path / "a.npy").write_bytes(npy(np.zeros((4, 1, 1), dtype=np.int16)))  # top-1: 0 is an expert
    assert read_trace(tmp_path / "a.npy", routed_experts=True, num_experts=2).windows.tolist() == [[[4, 0]]]


LOADS = np.random.default_rng(0).integers(0, 8, (4, 3, 8))


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        (LOADS, "token 0, layer 0: expert . comes twice, which no router does; are these loads"),
        (IDS + 7, "token 0, layer 1: .* is no expert of 0 to 7"),
        (np.where(IDS == 5, -2, IDS), "-2 is no expert of 0 to 7"),
        (IDS + 0.5, "is no expert of 0 to 7"),
        (IDS.astype(str), "routed experts must be integers"),
        (IDS > 0, "routed experts must be integers"),
        (IDS[0], r"must be \[tokens, layers, top_k\], got shape \(4, 2\)"),
        (IDS[:0], "no routed experts: every field is empty"),
        (np.zeros((2, 3, 9), int), r"with top_k from 1 to num_experts=8, got \[tokens, 3, 9\]"),
        (np.zeros((2, 3, 2), int), "every count is zero"),
    ],
)
def test_what_are_no_routed_experts_is_named(ids, rule, tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(ids))
    with pytest.raises(TraceError, match=f"a.npy: .*{rule}"):
        read_trace(tmp_path / "a.npy", routed_experts=True, num_experts=EXPERTS)


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        (bare(IDS)[:-4], "line 1: routed_experts holds 318 bytes, which are no whole tokens of num_layers=4"),
        ("no base64!", "line 1: routed_experts is no base64"),
        (base64.b64encode(npy(IDS)[:-8]).decode(), "line 1: not a readable .npy file: the header claims"),
        (base64.b64encode(npy(IDS.astype(str))).decode(), "routed experts must be integers, got dtype <U"),
        ({"shape": [1, 4, 2], "dtype": "int16", "data": bare(IDS)}, "not those of shape .1, 4, 2. of int16"),
        ({"shape": [1, 4], "dtype": "int16", "data": ""}, "must have a shape .tokens, layers, top_k. and an integer"),
        ({"shape": [10**9] * 3, "dtype": "int16", "data": "AAAA"}, "holds 3 bytes, not those of shape"),
        ({"shape": [1, 4, 2], "dtype": "object", "data": bare(IDS)}, "and an integer dtype"),
        ({"shape": [1, 4, 2], "dtype": [1], "data": bare(IDS)}, "and an integer dtype"),
        (17, "routed_experts must be a list, or text in base64, got int"),
        (IDS[:, :3].tolist(), "routed experts of 3 layers and top_k 2, not num_layers=4"),
        ([[[1, 2]], [[1]]], "routed_experts, window 1, layer 0: has 1 entries"),
        ([[[1, "2"]]], 'column 1: "2" is not a number'),
    ],
)
def test_a_damaged_field_is_named(field, rule, tmp_path):
    (tmp_path / "r.jsonl").write_text(json_lines([sglang_response(lambda _: field)]))
    with pytest.raises(TraceError, match=rf"r.jsonl: .*{rule}") as caught:
        read_trace(tmp_path / "r.jsonl", **SIZES)
    assert str(caught.value).isprintable()


def test_responses_without_routed_experts_are_passed_over(tmp_path):
    """An error, and a server that was asked for none."""
    none = {"choices": [{"routed_experts": None}], "prompt_routed_experts": None}
    (tmp_path / "r").write_text(json_lines([none, {"error": "x"}, sglang_response(bare), none]))
    trace = read_trace(tmp_path / "r", **SIZES)
    assert (trace.windows.tolist(), trace.ordered) == ([counted(IDS).tolist()], True)
    (tmp_path / "r").write_text(json_lines([none, none]))
    with pytest.raises(TraceError, match="no routed experts: every field is empty"):
        read_trace(tmp_path / "r", **SIZES)
    (tmp_path / "r").write_text('{"logical_count": [[1]]}')
    with pytest.raises(TraceError, match="no routed_experts in the JSON; it holds the keys logical_count"):
        read_trace(tmp_path / "r", routed_experts=True, **SIZES)


def test_bare_int32_needs_its_shape_from_the_caller(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(sglang_response(bare)))
    with pytest.raises(TraceError, match="bare int32 without a shape: num_layers and top_k are needed"):
        read_trace(tmp_path / "r.json", num_experts=EXPERTS)


def test_requests_of_different_shapes_are_refused(tmp_path):
    lines = [sglang_response(FORMS["lists"]), sglang_response(FORMS["lists"], IDS[:, :3])]
    (tmp_path / "r.jsonl").write_text(json_lines(lines))
    with pytest.raises(TraceError, match=r"line 2: routed experts of 3 layers and top_k 2, the first have \(4, 2\)"):
        read_trace(tmp_path / "r.jsonl", num_experts=EXPERTS)


@pytest.mark.parametrize(
    "options", [{"routed_experts": True, "num_experts": 8}, {"window_tokens": 4}, {"top_k": 2}, {"num_layers": 2}]
)
def test_options_for_routed_experts_are_refused_where_a_file_holds_loads(options, tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "a.json").write_text('{"logical_count": [[1, 2], [3, 4]]}')
    for name in ("a.csv", "a.json") if "routed_experts" not in options else ("a.csv",):
        with pytest.raises(TraceError, match=f"holds loads; {next(iter(options))} is for routed experts"):
            read_trace(tmp_path / name, **options)


@pytest.mark.parametrize(
    "option", ["steps_per_window", "window_tokens", "num_experts", "num_layers", "top_k", "max_bytes"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_options_must_be_positive_integers(option, value, tmp_path):
    with pytest.raises(InputError, match=f"{option} must be"):
        read_trace(tmp_path, **{option: value})


@pytest.mark.parametrize("option", ["routed_experts", "single_rank"])
def test_switches_must_be_booleans(option, tmp_path):
    with pytest.raises(InputError, match=f"{option} must be True or False, got 1"):
        read_trace(tmp_path, **{option: 1})
