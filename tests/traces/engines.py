"""Recordings as the engines write them, made from their logic, with the loads that they come from."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file

EXPERTS, SLOTS, LAYERS = 8, 12, 4


def slot_map(layers=LAYERS, experts=EXPERTS, slots=SLOTS, seed=0):
    """Every expert once, then redundant ones, shuffled."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.append(np.arange(experts), rng.integers(0, experts, slots - experts)))
            for _ in range(layers)]  # fmt: skip
    return np.stack(rows)


def by_expert(counts, phy2log, experts=EXPERTS):
    """Slot counts ``[layers, slots]`` to ``[layers, experts]``, one by one."""
    summed = np.zeros((len(counts), experts), dtype=np.int64)
    for layer, row in enumerate(counts):
        for slot, count in enumerate(row):
            summed[layer, phy2log[layer, slot]] += count
    return summed


def sglang_name(rank, time=17.25):
    return f"expert_distribution_recorder_{time + rank / 1000}_{rank}.pt"


def sglang_ranks(folder, ranks=4, passes=5, own_slots_only=False, seed=0):
    """``per_pass``: a file per rank, layer 0 dense; returns ``[passes, layers, experts]``."""
    folder.mkdir(exist_ok=True)
    rng, phy2log = np.random.default_rng(seed), slot_map(seed=seed)
    truth = np.zeros((passes, LAYERS, EXPERTS), dtype=np.int64)
    for rank in range(ranks):
        records = []
        for number in range(passes):
            counts = rng.integers(1, 9, (LAYERS, SLOTS))
            counts[0] = 0
            if own_slots_only:
                mine = np.arange(SLOTS) // (SLOTS // ranks) == rank
                counts[:, ~mine] = 0
            truth[number] += by_expert(counts, phy2log)
            records.append({"forward_pass_id": number + 3, "rank": rank, "gatherer_key": "primary",
                            "global_physical_count": torch.tensor(counts, dtype=torch.int32)})  # fmt: skip
        dump = {"records": records, "last_physical_to_logical_map": torch.tensor(phy2log)}
        torch.save(dump, folder / sglang_name(rank))
    return truth


def vllm_line(step, load, p2l, **more):
    return {"record_type": "eplb_load_stats", "version": 1, "step": step, "expert_load": load.tolist(),
            "p2l_map": p2l.tolist(), **more}  # fmt: skip


def vllm_meta(layers=LAYERS, ranks=2, redundant=SLOTS - EXPERTS):
    return {"record_type": "eplb_load_meta", "version": 1, "model": "m", "num_ranks": ranks, "num_groups": 1,
            "num_nodes": 1, "num_layers": layers, "num_redundant_experts": redundant}  # fmt: skip


def vllm_steps(steps=3, seed=0):
    """Loads by slot under a map that changes with every step, and what they are by expert."""
    rng = np.random.default_rng(seed)
    made = [(rng.integers(0, 50, (LAYERS, SLOTS)), slot_map(seed=step)) for step in range(steps)]
    return made, np.stack([by_expert(load, p2l) for load, p2l in made])


def json_lines(documents):
    return "".join(json.dumps(document) + "\n" for document in documents)


def trtllm_ranks(folder, ranks=3, iterations=range(100, 105), layers=(3, 4, 10), seed=0, meta=None):
    """A folder of expert statistics with raw files; returns ``[iterations, layers, experts]``."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    info = {"num_experts": EXPERTS, "num_experts_per_token": 2} | (meta or {})
    (folder / "meta_info.json").write_text(json.dumps(info))
    truth = np.zeros((len(iterations), len(layers), EXPERTS), dtype=np.int64)
    for rank in range(ranks):
        counts = rng.integers(0, 50, truth.shape)
        truth += counts
        save_file({f"{iteration}_{layer}": counts[i, j].copy() for i, iteration in enumerate(iterations)
                   for j, layer in enumerate(layers)}, folder / f"rank{rank}.safetensors")  # fmt: skip
        raw = {f"{iterations[0]}_3": rng.integers(0, EXPERTS, (6, 2))}
        save_file(raw, folder / f"rank{rank}_raw.safetensors")
    return truth


def omni_dumps(folder, ranks=2, steps=(1, 2, 10), layers=LAYERS, seed=0):
    """A text file per record step and rank, tabs at the line ends too; returns ``[steps, layers, experts]``."""
    folder.mkdir(exist_ok=True)
    truth = np.random.default_rng(seed).integers(0, 500, (len(steps), layers, EXPERTS))
    for step, counts in zip(steps, truth, strict=True):
        for rank, mine in enumerate(np.split(counts, ranks, axis=1)):
            text = "".join("".join(f"{count}\t" for count in row) + "\n" for row in mine)
            (folder / f"activation_counts_recordstep_{step}_rank_{rank}.txt").write_text(text)
    return truth


def routed(tokens=10, layers=LAYERS, experts=EXPERTS, top_k=2, seed=0):
    """``[tokens, layers, top_k]`` of distinct experts; layer 0 is dense, all zeros, as SGLang leaves it."""
    rng = np.random.default_rng(seed)
    ids = np.stack([[rng.permutation(experts)[:top_k] for _ in range(layers)] for _ in range(tokens)])
    ids[:, 0] = 0
    return ids.astype(np.int32)


def counted(ids, experts=EXPERTS):
    """``[layers, experts]`` of ``[tokens, layers, top_k]``, one by one, without the dense layer 0."""
    counts = np.zeros((ids.shape[1], experts), dtype=np.int64)
    for token in ids:
        for layer, chosen in enumerate(token):
            for expert in chosen if layer else []:
                counts[layer, expert] += 1
    return counts[1:]
