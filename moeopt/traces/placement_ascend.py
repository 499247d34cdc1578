"""vllm-ascend's expert map: JSON with a ``layer_list`` of ``device_list`` of ``device_expert``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces.matrix import refuse_too_many


def expert_map_json(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return the expert map; MoE layers are numbered from 0, and layers and devices stand in order.

    The order matters: vllm-ascend goes by the places in the lists and not by the ids.
    """
    layers = [
        {
            "layer_id": number,
            "device_count": placement.num_gpus,
            "device_list": [{"device_id": gpu, "device_expert": held} for gpu, held in enumerate(layer)],
        }
        for number, layer in enumerate(placement.by_gpu.tolist())
    ]
    rows = ",\n".join(json.dumps(layer, separators=(",", ":")) for layer in layers)
    return f'{{"moe_layer_count":{placement.num_layers},"layer_list":[\n{rows}\n]}}\n'


def phy2log_from_expert_map(document: dict[str, Any], num_gpus: int) -> NDArray[np.int64]:
    """``phy2log [layers, slots]``, layers and devices in the order of their ids.

    Devices with fewer experts than the fullest one get empty slots (-1) at their end.
    """
    layers = _by_id(document, "layer_list", "layer_id", "expert map")
    devices = [_by_id(layer, "device_list", "device_id", f"layer {number}") for number, layer in layers.items()]
    experts: list[list[list[int]]] = []
    for number, per_layer in zip(layers, devices, strict=True):
        if len(per_layer) != num_gpus:
            raise TraceError(f"layer {number}: {len(per_layer)} devices, asked for num_gpus={num_gpus}")
        experts.append([_experts(device, f"layer {number}, device {i}") for i, device in per_layer.items()])
    slots = max(len(held) for layer in experts for held in layer)
    refuse_too_many("the expert map, padded to its fullest device,", (len(experts), num_gpus, slots))
    rows = [[held + [-1] * (slots - len(held)) for held in layer] for layer in experts]
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1)


def _by_id(parent: Any, list_key: str, id_key: str, where: str) -> dict[int, dict[str, Any]]:
    entries = parent.get(list_key)
    if not isinstance(entries, list) or not entries:
        raise TraceError(f"{where}: {list_key} must be a list with at least one entry")
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        number = entry.get(id_key) if isinstance(entry, dict) else None
        if type(number) is not int or number in found:
            raise TraceError(f"{where}: entry {position} of {list_key} needs an integer {id_key} of its own")
        found[number] = entry
    return dict(sorted(found.items()))


def _experts(device: dict[str, Any], where: str) -> list[int]:
    experts = device.get("device_expert")
    if not isinstance(experts, list) or any(type(e) is not int or not -1 <= e < 2**31 for e in experts):
        raise TraceError(f"{where}: device_expert must be a list of expert ids")
    return experts
