"""Placements go out and come back in, every format."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moeopt import Placement, metrics
from moeopt.errors import InputError, TraceError
from moeopt.traces import ENGINES, generate, read_gpu_load_csv, read_placement, write_gpu_load_csv, write_placement

SMALL = Placement([[0, 1, 2, 0], [2, -1, 1, 0]], num_experts=3, num_gpus=2)
FULL = Placement([[0, 1, 2, 0], [2, 1, 1, 0]], num_experts=3, num_gpus=2)
APART = [name for name, engine in ENGINES.items() if not engine.colocated]


@st.composite
def placements(draw, whole=False):
    """Any placement; or one that all engines can load, but for experts twice on a GPU."""
    layers, gpus, slots, experts = (draw(st.integers(1, 4)) for _ in range(4))
    slots = max(slots, -(-experts // gpus)) if whole else slots
    ids = draw(hnp.arrays(np.int64, (layers, gpus * slots), elements=st.integers(0 if whole else -1, experts - 1)))
    if whole:
        ids[:, :experts] = np.arange(experts)
        ids = draw(st.permutations(ids.T.tolist()))
        ids = np.array(ids).T
    return Placement(ids, experts, gpus)


@st.composite
def separate_placements(draw):
    """Placements that hold no expert twice on a GPU: what vllm-ascend and OmniInfer can express."""
    layers, gpus, slots = (draw(st.integers(1, 4)) for _ in range(3))
    experts = draw(st.integers(slots, gpus * slots))
    rows = np.arange(gpus * slots) % experts  # consecutive ones differ
    names = [draw(st.permutations(range(experts))) for _ in range(layers)]
    return Placement(np.array(names)[:, rows], experts, gpus)


OFTEN = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)


@pytest.mark.parametrize("name", ["npz", "csv"])
@OFTEN
@given(placement=placements())
def test_files_of_our_own_hold_any_placement(name, placement, tmp_path):
    write_placement(tmp_path / "file", placement, name)
    assert read_placement(tmp_path / "file", placement.num_experts, placement.num_gpus) == placement


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in APART])
@OFTEN
@given(placement=placements(whole=True), dense=st.integers(0, 3), after=st.integers(0, 2))
def test_what_an_engine_loads_comes_back_as_it_was(name, placement, dense, after, tmp_path):
    ids = range(dense, dense + placement.num_layers)
    write_placement(tmp_path / "file", placement, name, layer_ids=ids, model_layers=ids.stop + after)
    back = read_placement(tmp_path / "file", placement.num_experts, placement.num_gpus, layer_ids=ids)
    assert back == placement


@pytest.mark.parametrize("name", APART)
@OFTEN
@given(placement=separate_placements())
def test_what_cannot_hold_an_expert_twice_comes_back_with_the_same_experts_on_every_gpu(name, placement, tmp_path):
    write_placement(tmp_path / "file", placement, name)
    back = read_placement(tmp_path / "file", placement.num_experts, placement.num_gpus)
    assert np.array_equal(back.copies, placement.copies)


@pytest.mark.parametrize("name", ENGINES)
def test_rows_are_written_in_the_order_of_the_layers(name, tmp_path):
    placement = Placement([[0, 1, 2, 0], [2, 0, 1, 2]], 3, 2)
    for file, rows in (("a", [0, 1]), ("b", [1, 0])):
        write_placement(tmp_path / file, placement[rows], name, layer_ids=[[4, 7][row] for row in rows])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


REFUSED = {
    "empty slot": (SMALL, {}, r"layer 1: slot 1 \(GPU 0\) is empty, and .* knows no empty slots; placement.fill"),
    "empty slot of a layer with a number": (SMALL, {"layer_ids": (3, 9)}, "layer 9: slot 1"),
    "expert without a slot": (Placement([[0, 1, 1, 0]], 3, 2), {}, "layer 0: expert 2 has no slot"),
}


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if not engine.partial])
@pytest.mark.parametrize("case", REFUSED)
def test_what_an_engine_cannot_load_is_refused_and_nothing_written(name, case, tmp_path):
    placement, options, rule = REFUSED[case]
    with pytest.raises(InputError, match=rule) as caught:
        write_placement(tmp_path / "file", placement, name, **options)
    assert ENGINES[name].label in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", APART)
def test_an_expert_twice_on_a_gpu_is_refused_where_it_cannot_be_held(name, tmp_path):
    with pytest.raises(InputError, match=rf"layer 1: GPU 0 holds expert 1 more than once.*for engine='{name}' keeps"):
        write_placement(tmp_path / "file", Placement([[0, 1, 2, 0], [1, 1, 2, 0]], 3, 2), name)
    assert list(tmp_path.iterdir()) == []


BAD_NUMBERS = {
    "fewer rows than layers": ({"model_layers": 5}, "model_layers=5, but the placement has 2 rows: layer_ids must say"),
    "a layer beyond the model": ({"layer_ids": [3, 5], "model_layers": 5}, "model_layers=5, .* a row for layer 5"),
    "a layer twice": ({"layer_ids": [3, 3]}, "layer_ids must be different numbers"),
    "a layer below 0": ({"layer_ids": [-1, 3]}, "layer_ids must be different numbers >= 0"),
    "a model of a million layers": ({"layer_ids": [0, 1], "model_layers": 10**9}, "model_layers=1000000000 of 4 slots"),
    "a layer far away": ({"layer_ids": [0, 10**9]}, "model_layers=1000000001 of 4 slots"),
    "a layer too few": ({"layer_ids": [3]}, "1 ids for 2 layers"),
    "no layers of a model": ({"model_layers": 0}, "model_layers must be >= 1"),
    "other experts": ({"num_experts": 4}, "num_experts=4, but the placement has 3"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_numbers_that_do_not_fit_the_rows_are_named(case, tmp_path):
    options, rule = BAD_NUMBERS[case]
    with pytest.raises(InputError, match=rule):
        write_placement(tmp_path / "file", FULL, "sglang", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SGLang", "", None, 3, []])
def test_an_unknown_engine_is_answered_with_the_list(name, tmp_path):
    with pytest.raises(InputError, match=r"engine .* is unknown; there are sglang, vllm, "):
        write_placement(tmp_path / "file", FULL, name)


def test_rows_are_picked_by_the_models_own_numbers(tmp_path):
    four = Placement([[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2], [0, 0, 1, 2]], 3, 2)
    write_placement(tmp_path / "sglang", four[[1, 3]], "sglang", layer_ids=[1, 3], model_layers=6)
    write_placement(tmp_path / "trtllm", four, "trtllm", layer_ids=[2, 3, 5, 8])
    (tmp_path / "shared").write_text("[2, 0, 1, 2]")
    assert read_placement(tmp_path / "sglang", 3, 2).num_layers == 6
    assert read_placement(tmp_path / "sglang", 3, 2, layer_ids=[3, 1]) == four[[3, 1]]
    assert read_placement(tmp_path / "trtllm", 3, 2, layer_ids=[8, 2, 3, 5]) == four[[3, 0, 1, 2]]
    assert read_placement(tmp_path / "shared", 3, 2, layer_ids=[3, 4]) == four[[2, 2]]
    for file, layer in (("sglang", 6), ("trtllm", 4)):
        with pytest.raises(TraceError, match=f"{file}: has . rows and none for layer {layer}; 3 layers are wanted"):
            read_placement(tmp_path / file, 3, 2, layer_ids=[2, 3, layer])
    with pytest.raises(InputError, match="layer_ids"):
        read_placement(tmp_path / "sglang", 3, 2, layer_ids=["a"])


@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 1e12)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_gpu_loads_come_back_bit_by_bit(tmp_path, loads):
    write_gpu_load_csv(tmp_path / "loads.csv", loads)
    back = read_gpu_load_csv(tmp_path / "loads.csv")
    assert back.dtype == np.float64
    assert np.array_equal(back, loads)


def test_gpu_loads_of_a_real_placement_survive_the_trip(tmp_path):
    load = generate(num_layers=2, num_experts=12, tokens=1000).total()
    placement = Placement([[*range(12), 0, 1, 2, 3]] * 2, 12, 4)
    expected = metrics.gpu_load(load, placement)
    write_gpu_load_csv(tmp_path / "loads.csv", expected)
    write_placement(tmp_path / "p.json", placement, "sglang")
    again = metrics.gpu_load(load, read_placement(tmp_path / "p.json", 12, 4))
    assert np.array_equal(read_gpu_load_csv(tmp_path / "loads.csv"), again)


def test_files_of_our_own_look_as_other_programs_expect(tmp_path):
    assert write_placement(tmp_path / "a.csv", SMALL, "csv").read_text() == "0,1,2,0\n2,-1,1,0\n"
    assert write_gpu_load_csv(tmp_path / "l.csv", [[3, 0.5]]).read_text() == "3,0.5\n"
    with np.load(write_placement(tmp_path / "a.npz", SMALL, "npz")) as archive:
        assert {name: archive[name].tolist() for name in archive} == {
            "phy2log": [[0, 1, 2, 0], [2, -1, 1, 0]],
            "num_experts": 3,
            "num_gpus": 2,
        }


ASCEND = {
    "moe_layer_count": 2,
    "layer_list": [
        {
            "layer_id": 1,
            "device_count": 2,
            "device_list": [{"device_id": 1, "device_expert": [1, 0]}, {"device_id": 0, "device_expert": [2]}],
        },
        {
            "layer_id": 0,
            "device_count": 2,
            "device_list": [{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 0]}],
        },
    ],
}


def saved(save, *args, **arrays):
    buffer = io.BytesIO()
    save(*args, buffer) if save is torch.save else save(buffer, *args, **arrays)
    return buffer.getvalue()


def record(assignments, **more):
    document = {"record_type": "eplb_initial_mapping", "initial_global_assignments": assignments}
    return json.dumps(document | more).encode()


PATTERN = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [1, 1, 0]]], dtype=np.uint8)
FOREIGN = {
    "vllm-ascend expert map": json.dumps(ASCEND).encode(),
    "SGLang .pt": saved(torch.save, {"physical_to_logical_map": torch.tensor([[0, 1, 2, 0], [2, -1, 1, 0]])}),
    "vLLM JSON list": b"[[0, 1, 2, 0], [2, -1, 1, 0]]",
    "npy": saved(np.save, np.array([[0, 1, 2, 0], [2, -1, 1, 0]])),
    "npz without numbers": saved(np.savez, phy2log=np.array([[0, 1, 2, 0], [2, -1, 1, 0]], dtype=np.int32)),
    "CSV of floats": b"0.0,1.0,2.0,0.0\r\n2.0,-1.0,1.0,0.0",
    "vLLM record": b'{"record_type": "eplb_load_meta"}\n' + record({"1": [2, -1, 1, 0], "0": [0, 1, 2, 0]}),
    "TensorRT-LLM": b"# by hand\ninitial_global_assignments:\n  9: [2, -1, 1, 0]\n  3:\n  - 0\n  - 1\n  - 2\n  - 0\n",
    "OmniInfer npy": saved(np.save, PATTERN),
    "OmniInfer npz": saved(np.savez, placement=PATTERN, other=np.ones(2)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_placements_of_engines_are_read(kind, tmp_path):
    (tmp_path / "file").write_bytes(FOREIGN[kind])
    placement = read_placement(tmp_path / "file", 3, 2)
    assert [sorted(gpu) for gpu in placement.by_gpu[0].tolist()] == [[0, 1], [0, 2]]
    assert [sorted(gpu) for gpu in placement.by_gpu[1].tolist()] == [[-1, 2], [0, 1]]


def ascend(device_expert):
    devices = [{"device_id": 0, "device_expert": device_expert}, {"device_id": 1, "device_expert": [0]}]
    return json.dumps({"layer_list": [{"layer_id": 4, "device_list": devices}]}).encode()


BAD = {
    "empty": (b"", "the file is empty"),
    "wrong id": (b"0,1,2,3\n", r"expert ids in \[-1, 3\), got 3 at layer 0, slot 3"),
    "below -1": (b"0,1,2,0\n0,1,2,-2\n", r"line 2 \(layer 1\), column 3: -2 is below -1"),
    "fraction": (b"0,1,2,0.5\n", "must hold integers"),
    "text": (b"0,1,2,x\n", r"line 1 \(layer 0\), column 3: 'x' is not a number"),
    "ragged": (b"0,1,2,0\n0,1\n", r"line 2 \(layer 1\) has 2 columns"),
    "odd slots": (b"0,1,2\n", "num_slots=3 is not a multiple of num_gpus=2"),
    "other key": (
        b'{"logical_count": [[1]]}',
        "no physical_to_logical_map and no layer_list in the JSON; .*logical_count",
    ),
    "null map": (b'{"physical_to_logical_map": null}', "got null"),
    "bool in map": (b'{"physical_to_logical_map": [[0, true]]}', "layer 0, column 1: true is not a number"),
    "three dimensions": (b"[[[0, 1]]]", "phy2log must be"),
    "JSON number in disguise": (b"[", "not readable JSON"),
    "npz for others": (saved(np.savez, phy2log=np.zeros((1, 2), int), num_gpus=4), "is for num_gpus=4, not 2"),
    "npz of loads": (saved(np.savez, a=np.ones(2), b=np.ones(2)), "no phy2log and no placement in the .npz"),
    "npz of nothing": (saved(np.savez), "no phy2log and no placement"),
    "npy text": (saved(np.save, np.array(["a"])), "must hold numbers"),
    "pattern for others": (saved(np.save, np.ones((3, 2, 3))), r"\[3, 2, 3\] \[ranks, layers, experts\]"),
    "pattern of counts": (saved(np.save, PATTERN * 2), "rank 0, layer 0, expert 0: 2 is not 0 or 1"),
    "empty pattern": (saved(np.save, PATTERN * 0), "places no expert"),
    "pattern of no layers": (saved(np.save, np.ones((2, 0, 3))), "places no expert"),
    "pattern of text": (saved(np.save, np.full((2, 1, 3), "a")), "is not 0 or 1"),
    "pt of something": (
        saved(torch.save, torch.ones(2)),
        "no physical_to_logical_map in the .pt file; it holds a Tensor",
    ),
    "two records": (record({"0": [0]}) + b"\n" + record({"0": [0]}), "holds 2 lines of record_type"),
    "record of nothing": (record({}), "initial_global_assignments must be a list of slots by layer"),
    "record of numbers": (record({"0": 3}), "must be a list of slots by layer"),
    "record without a first layer": (record({"1": [0, 1]}), "must number its 1 layers from 0, and lacks 0"),
    "record of other slots": (record({"0": [0, 1]}, num_slots=3), "num_slots is 3, the layers have 2"),
    "record with a ragged layer": (record({"0": [0, 1], "1": [0]}), "layer 1: has 1 entries, the first has 2"),
    "record that breaks off": (record({"0": [0, 1]})[:-9], "not readable JSON"),
    "YAML of names": (b"initial_global_assignments:\n  '3': [0, 1]", "layers must be integers >= 0, got '3'"),
    "YAML of nothing": (b"initial_global_assignments:\n", "must be a mapping from layers to slots"),
    "YAML of a number": (b"initial_global_assignments: {3: 7}", "must be a mapping from layers to slots"),
    "YAML of other slots": (
        b"num_slots: 4\ninitial_global_assignments: {3: [0, 1]}",
        "num_slots is 4, the layers have 2",
    ),
    "YAML with aliases": (b"a: &a [0, 1]\ninitial_global_assignments: {3: *a}", "anchors or aliases"),
    "YAML that is deep": (b"initial_global_assignments: " + b"[" * 50_000, "nested deeper than 8"),
    "YAML that runs": (b"initial_global_assignments: !!python/object/apply:os.getcwd []", "not readable YAML"),
    "YAML that breaks off": (b"initial_global_assignments: {3: [0, 1", "not readable YAML"),
    "map with a word": (ascend(["a"]), "layer 4, device 0: device_expert must be a list of expert ids"),
    "map with a bool": (ascend([True]), "layer 4, device 0: device_expert"),
    "map with a wrong id": (ascend([7]), r"expert ids in \[-1, 3\), got 7"),
    "map with a huge id": (ascend([10**30]), "layer 4, device 0: device_expert"),
    "map without devices": (b'{"layer_list": [{"layer_id": 0}]}', "layer 0: device_list must be a list"),
    "map without layers": (b'{"layer_list": []}', "expert map: layer_list must be a list"),
    "map of numbers": (b'{"layer_list": [3]}', "entry 0 of layer_list needs an integer layer_id"),
    "map with a layer twice": (
        json.dumps({"layer_list": [ASCEND["layer_list"][0]] * 2}).encode(),
        "entry 1 of layer_list needs an integer layer_id of its own",
    ),
    "map for three devices": (
        b'{"layer_list": [{"layer_id": 0, "device_list": [{"device_id": 0, "device_expert": [0]}]}]}',
        "layer 0: 1 devices, asked for num_gpus=2",
    ),
    "map of empty devices": (
        b'{"layer_list": [{"layer_id": 0, "device_list": '
        b'[{"device_id": 0, "device_expert": []}, {"device_id": 1, "device_expert": []}]}]}',
        "not empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_placement_gives_one_line_that_names_the_file_and_the_fault(case, tmp_path):
    content, rule = BAD[case]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(TraceError, match=rule) as caught:
        read_placement(tmp_path / "file", 3, 2)
    assert str(caught.value).startswith(f"{tmp_path / 'file'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["num_experts", "num_gpus"])
@pytest.mark.parametrize("value", [0, True, 2.0, "2", None])
def test_numbers_that_are_no_positive_integers_are_named_before_the_file_is_read(name, value, tmp_path):
    with pytest.raises(InputError, match=name):
        read_placement(tmp_path / "none", **({"num_experts": 3, "num_gpus": 2} | {name: value}))


@pytest.mark.parametrize("loads", [[[1.0, np.nan]], [], [["a"]], np.ones((1, 1, 1))])
def test_gpu_loads_that_are_no_matrix_of_numbers_write_nothing(loads, tmp_path):
    with pytest.raises(InputError, match="gpu_load"):
        write_gpu_load_csv(tmp_path / "loads.csv", loads)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_gpu_load_file_is_named(tmp_path):
    (tmp_path / "loads.csv").write_text("1,x\n")
    with pytest.raises(TraceError, match=r"loads.csv: line 1 \(layer 0\), column 1: 'x'"):
        read_gpu_load_csv(tmp_path / "loads.csv")


def test_the_recorded_pattern_puts_every_expert_somewhere(recordings):
    (file,) = (recordings / "omni-placements").glob("*.npz")
    placement = read_placement(file, 256, 16)
    assert placement.num_layers == 58
    with np.load(file) as archive:
        assert np.array_equal(placement.copies.swapaxes(0, 1), archive["placement"])
