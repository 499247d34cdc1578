"""Every command of moeopt in the guides runs, on small files of the formats that they speak of."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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


def vllm(path, values):
    """Loads by slot with the map beside them, each expert in a slot of its own and the hot ones in two."""
    hot = values[0] == 12
    p2l = np.array([[*range(EXPERTS), *np.flatnonzero(row)] for row in hot])
    lines = [{"record_type": "eplb_load_meta", "version": 1, "model": "m", "num_ranks": 32, "num_groups": 1,
              "num_nodes": 1, "num_layers": 3, "num_redundant_experts": 32}]  # fmt: skip
    for step, loads in enumerate(values):
        by_slot = np.take_along_axis(loads, p2l, axis=1)
        by_slot[:, EXPERTS:] = 0
        lines.append({"record_type": "eplb_load_stats", "version": 1, "step": step,
                      "expert_load": by_slot.tolist(), "p2l_map": p2l.tolist()})  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tensorrt_llm(path, values):
    path.mkdir()
    (path / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS, "num_experts_per_token": 8}))
    for rank, part in enumerate((values // 3, values - values // 3)):
        counts = {
            f"{100 + step}_{layer}": torch.tensor(part[step, row])
            for step in range(2)
            for row, layer in enumerate(LAYERS)
        }
        save_file(counts, path / f"rank{rank}.safetensors")


def routed_experts(path, values):
    """Tokens that visit one expert each: the experts of a layer as often as they were counted."""
    tokens = [np.repeat(np.arange(EXPERTS), row) for row in values[0]]
    np.save(path, np.stack(tokens, axis=1)[:, :, None].astype(np.int16))


RECORDINGS = {
    "sglang": (sglang, "monday.pt", "tuesday.pt"),
    "vllm": (vllm, "monday.jsonl", "tuesday.jsonl"),
    "tensorrt-llm": (tensorrt_llm, "expert_statistic", "expert_statistic_later"),
    "vllm-ascend": (routed_experts, "decode.npy", "decode_later.npy"),
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
