"""What is written loads: each engine's way of taking its file apart, written again here from what its loader does."""

import json

import numpy as np
import pytest
import torch
import yaml

from moeopt import Placement
from moeopt.traces import write_placement

LAYERS, DENSE, EXPERTS, SLOTS, GPUS = 61, 3, 256, 288, 32
"""DeepSeek-V3 on DeepSeek's prefill setting: layers 0 to 2 are dense."""

MOE_LAYERS = range(DENSE, LAYERS)


@pytest.fixture(scope="module")
def placement():
    """58 rows, all different, no expert twice on a GPU."""
    rng = np.random.default_rng(0)
    rows = np.arange(SLOTS) % EXPERTS
    return Placement(np.array([rng.permutation(EXPERTS)[rows] for _ in MOE_LAYERS]), EXPERTS, GPUS)


@pytest.fixture
def written(placement, tmp_path):
    return lambda name: write_placement(
        tmp_path / "file", placement, name, layer_ids=MOE_LAYERS, model_layers=LAYERS
    ).read_text()


def by_number(placement):
    return {layer: row.tolist() for layer, row in zip(MOE_LAYERS, placement.phy2log, strict=True)}


def test_sglang_finds_every_layer_by_its_own_number_and_can_list_the_slots_of_every_expert(placement, written):
    arguments = json.loads(written("sglang"))
    assert list(arguments) == ["physical_to_logical_map"], "any other key is an argument that SGLang does not know"
    slots = torch.tensor(arguments["physical_to_logical_map"])
    assert slots.shape == (LAYERS, SLOTS)
    assert slots.dtype == torch.int64
    for layer in range(LAYERS):
        held = [[] for _ in range(EXPERTS)]
        for slot, expert in enumerate(slots[layer].tolist()):
            held[expert].append(slot)  # -1 would silently count as the last expert
        assert min(map(len, held)) >= 1
    assert {layer: slots[layer].tolist() for layer in MOE_LAYERS} == by_number(placement)
    assert (slots[:DENSE] == torch.arange(SLOTS) % EXPERTS).all()


def test_vllm_takes_one_list_per_moe_layer(placement, written):
    layers = json.loads(written("vllm"))
    assert layers == placement.phy2log.tolist()
    assert all(set(row) == set(range(EXPERTS)) for row in layers)


def test_vllm_takes_the_record_of_its_planner(placement, written):
    (line,) = written("vllm-jsonl").splitlines()
    record = json.loads(line)
    layers = record.pop("initial_global_assignments")
    assert record == {
        "record_type": "eplb_initial_mapping",
        "version": 1,
        "num_redundant_experts": SLOTS - EXPERTS,
        "num_slots": SLOTS,
    }
    assert [layers[str(layer)] for layer in range(len(MOE_LAYERS))] == placement.phy2log.tolist()
    assert len(layers) == len(MOE_LAYERS)


def test_tensorrt_llm_finds_layers_by_integers(placement, written):
    config = yaml.safe_load(written("trtllm"))
    assert set(config) == {"num_slots", "initial_global_assignments", "layer_updates_per_iter"}
    assert (config["num_slots"], config["layer_updates_per_iter"]) == (SLOTS, 0)
    for layer, row in by_number(placement).items():
        assigned = config["initial_global_assignments"][layer]
        assert len(assigned) == config["num_slots"]
        assert set(assigned) == set(range(EXPERTS))
        assert assigned == row
    assert set(config["initial_global_assignments"]) == set(MOE_LAYERS)


def test_vllm_ascend_stacks_the_lists_and_goes_by_their_places(placement, written):
    document = json.loads(written("ascend"))
    stacked = torch.tensor(
        [[device["device_expert"] for device in layer["device_list"]] for layer in document["layer_list"]]
    )
    assert document["moe_layer_count"] == len(MOE_LAYERS)
    assert document["layer_list"][0]["device_count"] == GPUS
    assert np.array_equal(stacked.numpy(), placement.by_gpu)
    for layer in stacked.tolist():
        assert all(len(set(device)) == len(device) for device in layer), "slots are found by expert on every device"


def test_omniinfer_takes_zeros_and_ones(placement, tmp_path):
    pattern = np.load(write_placement(tmp_path / "file", placement, "omni"))
    assert pattern.shape == (GPUS, len(MOE_LAYERS), EXPERTS)
    assert set(np.unique(pattern)) == {0, 1}
    assert (pattern.sum(axis=2) == SLOTS // GPUS).all()
    assert (pattern.sum(axis=0) >= 1).all()
