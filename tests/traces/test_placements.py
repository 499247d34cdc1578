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
from moeopt.traces import (
    generate,
    read_gpu_load_csv,
    read_placement,
    write_gpu_load_csv,
    write_phy2log_csv,
    write_placement_json,
    write_placement_npz,
)

WRITERS = [write_phy2log_csv, write_placement_json, write_placement_npz]
SMALL = Placement([[0, 1, 2, 0], [2, -1, 1, 0]], num_experts=3, num_gpus=2)


@st.composite
def placements(draw):
    layers, gpus, slots, experts = (draw(st.integers(1, 4)) for _ in range(4))
    ids = hnp.arrays(np.int64, (layers, gpus * slots), elements=st.integers(-1, experts - 1))
    return Placement(draw(ids), experts, gpus)


@pytest.mark.parametrize("write", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(placement=placements())
def test_every_writer_has_a_reader_that_gives_the_same_placement(write, placement, tmp_path):
    write(tmp_path / "file", placement)
    assert read_placement(tmp_path / "file", placement.num_experts, placement.num_gpus) == placement


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
    write_placement_json(tmp_path / "p.json", placement)
    again = metrics.gpu_load(load, read_placement(tmp_path / "p.json", 12, 4))
    assert np.array_equal(read_gpu_load_csv(tmp_path / "loads.csv"), again)


def test_the_files_look_as_engines_and_the_notebook_expect(tmp_path):
    assert write_phy2log_csv(tmp_path / "a.csv", SMALL).read_text() == "0,1,2,0\n2,-1,1,0\n"
    document = json.loads(write_placement_json(tmp_path / "a.json", SMALL).read_text())
    assert document == {"physical_to_logical_map": [[0, 1, 2, 0], [2, -1, 1, 0]]}
    assert write_gpu_load_csv(tmp_path / "l.csv", [[3, 0.5]]).read_text() == "3,0.5\n"
    with np.load(write_placement_npz(tmp_path / "a.npz", SMALL)) as archive:
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


PATTERN = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [1, 1, 0]]], dtype=np.uint8)
FOREIGN = {
    "vllm-ascend expert map": json.dumps(ASCEND).encode(),
    "SGLang .pt": saved(torch.save, {"physical_to_logical_map": torch.tensor([[0, 1, 2, 0], [2, -1, 1, 0]])}),
    "vLLM JSON list": b"[[0, 1, 2, 0], [2, -1, 1, 0]]",
    "npy": saved(np.save, np.array([[0, 1, 2, 0], [2, -1, 1, 0]])),
    "npz without numbers": saved(np.savez, phy2log=np.array([[0, 1, 2, 0], [2, -1, 1, 0]], dtype=np.int32)),
    "CSV of floats": b"0.0,1.0,2.0,0.0\r\n2.0,-1.0,1.0,0.0",
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
