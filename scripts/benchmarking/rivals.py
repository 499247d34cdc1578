"""Rivals of the drop-in and of BLDM: plain versions, which the tests use as oracles, and anybody's file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarking.measure import duel
from benchmarking.records import DROP_IN, Duel
from moeopt import PlacementProblem, balancers, rebalance_experts
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.replication import replicate

ROOT = Path(__file__).resolve().parents[2]

PLAIN_ROUNDS = 3
"""Rounds beside plain versions, which take seconds."""


def duels(load: LoadMatrix, num_gpus: int, num_slots: int, rivals: Mapping[str, Callable[..., Any]]) -> Iterator[Duel]:
    """Plain versions and peers against the drop-in and BLDM on one setting, all layers in one call."""
    oracles = load_module(ROOT / "tests" / "oracles.py")
    weight = torch.tensor(load.values)
    ours = partial(rebalance_experts, weight, num_slots, 1, 1, num_gpus)
    placed = ours()[0].numpy()
    calls = {
        "plain EPLB in torch": partial(oracles.plain_eplb, weight, num_slots, 1, 1, num_gpus),
        "plain EPLB in numpy": partial(numpy_eplb, load.values, num_slots, num_gpus),
        **{name: partial(rival, weight, num_slots, 1, 1, num_gpus) for name, rival in rivals.items()},
    }
    for name, call in calls.items():
        answer = call()
        same = (np.asarray(answer[0] if isinstance(answer, tuple) else answer) == placed).all(axis=1).mean()
        yield duel(num_gpus, num_slots, (name, call), (DROP_IN, ours), PLAIN_ROUNDS, float(same))
    if num_slots == num_gpus:
        return
    problem = PlacementProblem(load, num_gpus, num_slots)
    expert, share = replicate(load.values.astype(float), num_slots)
    items = share.tolist()  # the plain version gets the replicas for nothing

    def plain() -> list[list[list[int]]]:
        return [oracles.plain_bldm(row, num_gpus) for row in items]

    fine = partial(balancers.bldm, problem)
    theirs = [sorted(sorted(expert[i, pack].tolist()) for pack in packs) for i, packs in enumerate(plain())]
    own = [sorted(sorted(gpu) for gpu in layer) for layer in fine().by_gpu.tolist()]
    same = float(np.mean([a == b for a, b in zip(theirs, own, strict=True)]))
    yield duel(num_gpus, num_slots, ("plain BLDM in lists", plain), ("bldm", fine), PLAIN_ROUNDS, same)


def numpy_eplb(weight: Any, num_slots: int, num_gpus: int) -> Any:
    """EPLB's placement ``[layers, slots]`` in numpy: every step for all layers at once."""
    weight = weight.astype(np.float32)
    layers, experts = weight.shape
    row, per_gpu = np.arange(layers), num_slots // num_gpus
    count = np.ones_like(weight)
    expert = np.broadcast_to(np.arange(num_slots) % experts, (layers, num_slots)).copy()
    for replica in range(experts, num_slots):
        expert[:, replica] = (weight / count).argmax(axis=1)
        count[row, expert[:, replica]] += 1
    if per_gpu == 1:
        return expert
    share = np.take_along_axis(weight / count, expert, axis=1)
    falling = np.argsort(-share, axis=1, kind="stable")
    phy2log = np.empty_like(expert)
    load, filled = np.zeros((layers, num_gpus), np.float32), np.zeros((layers, num_gpus), np.int64)
    room = load.copy()  # the load while the GPU is open, infinite once it is full
    for replica in falling.T:
        gpu = room.argmin(axis=1)
        phy2log[row, gpu * per_gpu + filled[row, gpu]] = expert[row, replica]
        load[row, gpu] += share[row, replica]
        filled[row, gpu] += 1
        room[row, gpu] = np.where(filled[row, gpu] == per_gpu, np.inf, load[row, gpu])
    return phy2log


def load_module(path: Path) -> ModuleType:
    """Run a Python file as a module, without a claim on anybody's package name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
