"""Every command of moeopt in the guides runs, on small files of the formats that they speak of."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from moeopt import cli

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
LAYERS, EXPERTS = (3, 30, 60), 256
"""A model of 61 layers, nearly all dense: the guides' commands for DeepSeek-V3, at a twentieth of the work."""


def counts(seed):
    """``[steps, layers, experts]`` of the MoE layers, which can be shared evenly by 288 slots on 32 GPUs."""
    return np.random.default_rng(seed).permuted([[[12] * 32 + [6] * 224] * 3] * 2, axis=2)


def with_dense_layers(values):
    every = np.zeros((2, 61, EXPERTS), int)
    every[:, LAYERS] = values
    return every


def sglang(path, values):
    torch.save({"rank": 0, "logical_count": torch.tensor(with_dense_layers(values), dtype=torch.int32)}, path)


def numpy_file(path, values):
    with path.open("wb") as file:
        np.save(file, values)


def folder_with_layer_numbers(path, values):
    """Stands for a folder of statistics that ``read_trace`` adds up: windows in order, the layers' own numbers."""
    path.mkdir()
    for row, layer in enumerate(LAYERS):
        np.savetxt(path / f"layer_{layer}.csv", values[:, row], fmt="%d", delimiter=",")


RECORDINGS = {
    "sglang": (sglang, "monday.pt", "tuesday.pt"),
    "vllm": (numpy_file, "monday.jsonl", "tuesday.jsonl"),
    "tensorrt-llm": (folder_with_layer_numbers, "expert_statistic", "expert_statistic_later"),
    "vllm-ascend": (numpy_file, "decode.npy", "decode_later.npy"),
}


def commands(guide):
    text = (GUIDES / f"{guide}.md").read_text()
    found = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in found if line.startswith("moeopt ")]


def test_every_guide_is_run():
    assert {page.stem for page in GUIDES.glob("*.md")} == set(RECORDINGS)


@pytest.mark.parametrize("guide", RECORDINGS)
def test_the_commands_of_a_guide_run_one_after_another(guide, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record, *names = RECORDINGS[guide]
    for seed, name in enumerate(names):
        record(tmp_path / name, counts(seed))
    listed = commands(guide)
    assert {command[0] for command in listed} == {"plan", "check", "convert"}
    for command in listed:
        # rows of layers that this model has not are not there to be picked
        command = ["3,30,60" if value == "3-60" else value for value in command]
        assert cli.main(command) == 0, (command, capsys.readouterr().err)
    told = capsys.readouterr().out
    assert "288 slots, 9 per GPU, 32 redundant" in told
    assert "valid: 3 layers" in told
