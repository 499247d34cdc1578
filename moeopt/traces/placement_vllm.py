"""vLLM's expert maps: a JSON list per MoE layer, and the one-line record of its offline planner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces.json_numbers import number_array, parse_json
from moeopt.traces.placement_sglang import json_rows

RECORD = "eplb_initial_mapping"
"""``record_type`` of the line that holds a placement."""

_ASSIGNMENTS = "initial_global_assignments"


def vllm_json(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return a list of slots per MoE layer; dense layers have none."""
    return json_rows(placement.phy2log) + "\n"


def vllm_jsonl(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return one ``eplb_initial_mapping`` line, MoE layers numbered from 0."""
    record = {
        "record_type": RECORD,
        "version": 1,
        "num_redundant_experts": placement.num_slots - placement.num_experts,
        "num_slots": placement.num_slots,
        _ASSIGNMENTS: {str(layer): row for layer, row in enumerate(placement.phy2log.tolist())},
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def phy2log_from_list(document: list[Any]) -> NDArray[Any]:
    """``phy2log`` of a bare list, ``[layers, slots]`` or, the same for every layer, ``[slots]``."""
    return number_array("the list", document)


def phy2log_from_records(content: bytes) -> NDArray[Any]:
    """``phy2log`` of the only ``eplb_initial_mapping`` among the lines of a file.

    Raises
    ------
    TraceError
        If there are several, or its layers are not numbered from 0, or one has another number of slots.
    """
    lines = [line for line in content.splitlines() if RECORD.encode() in line]
    if len(lines) != 1:
        raise TraceError(f"holds {len(lines)} lines of record_type {RECORD}, must be one")
    record = parse_json(lines[0])
    rows = record.get(_ASSIGNMENTS) if isinstance(record, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise TraceError(f"{RECORD}: {_ASSIGNMENTS} must be a list of slots by layer")
    names = [str(layer) for layer in range(len(rows))]
    if missing := [name for name in names if name not in rows]:
        raise TraceError(f"{RECORD}: {_ASSIGNMENTS} must number its {len(rows)} layers from 0, and lacks {missing[0]}")
    phy2log = number_array(_ASSIGNMENTS, [rows[name] for name in names])
    if phy2log.ndim != 2:
        raise TraceError(f"{RECORD}: {_ASSIGNMENTS} must be a list of slots by layer")
    if record.get("num_slots", phy2log.shape[1]) != phy2log.shape[1]:
        raise TraceError(f"{RECORD}: num_slots is {record['num_slots']!r:.40}, the layers have {phy2log.shape[1]}")
    return np.asarray(phy2log)
