"""The way out for placements: one table of the files that engines load, and of what each refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moeopt._arguments import integer, shown
from moeopt._files import write_whole
from moeopt.errors import InputError
from moeopt.load import checked_ids
from moeopt.placement import MAX_SLOTS, Placement
from moeopt.traces.placement_ascend import expert_map_json
from moeopt.traces.placement_csv import phy2log_csv
from moeopt.traces.placement_npz import placement_npz
from moeopt.traces.placement_omni import pattern_npy
from moeopt.traces.placement_sglang import sglang_json
from moeopt.traces.placement_trtllm import trtllm_yaml
from moeopt.traces.placement_vllm import vllm_json, vllm_jsonl


@dataclass(frozen=True)
class Engine:
    """What loads a placement file, and what it cannot load.

    Parameters
    ----------
    label
        What people call it.
    encode
        ``(placement, layer_ids, model_layers)`` to the file's content; rows are in the order of their ids.
    by_layer_id
        Whether layers are found by the model's own numbers; otherwise MoE layers are counted from 0.
    colocated
        Whether a GPU may hold an expert twice.
    partial
        Whether slots may stay empty and experts without a copy.
    suffix
        How the file's name must end for the engine to take it; "" if it does not matter.
    """

    label: str
    encode: Callable[[Placement, Sequence[int], int], str | bytes]
    by_layer_id: bool = False
    colocated: bool = True
    partial: bool = False
    suffix: str = ""


ENGINES: dict[str, Engine] = {
    "sglang": Engine("SGLang", sglang_json, by_layer_id=True, suffix=".json"),
    "vllm": Engine("vLLM", vllm_json),
    "vllm-jsonl": Engine("vLLM", vllm_jsonl),
    "trtllm": Engine("TensorRT-LLM", trtllm_yaml, by_layer_id=True),
    "ascend": Engine("vllm-ascend", expert_map_json, colocated=False, suffix=".json"),
    "omni": Engine("OmniInfer", pattern_npy, colocated=False),
    "npz": Engine("moeopt", placement_npz, partial=True),
    "csv": Engine("moeopt", phy2log_csv, partial=True),
}
"""Every file that ``write_placement`` writes, by name; the last two are for moeopt itself and other programs."""


def engine_named(name: str) -> Engine:
    """Return the entry of ``ENGINES``; InputError lists the names."""
    if not isinstance(name, str) or name not in ENGINES:
        raise InputError(f"engine {shown(name)} is unknown; there are {', '.join(ENGINES)}")
    return ENGINES[name]


def write_placement(
    path: str | os.PathLike[str],
    placement: Placement,
    engine: str,
    *,
    layer_ids: Sequence[int] | None = None,
    model_layers: int | None = None,
    num_experts: int | None = None,
) -> Path:
    """Write the file that an engine loads at its start: whole, or not at all.

    Parameters
    ----------
    path
        The file; missing folders are made.
    placement
        ``[layers, slots]``, a row for every MoE layer.
    engine
        A name of ``ENGINES``.
    layer_ids
        The model's own numbers of these rows, counted from 0 over all its layers, dense ones too: 3 to 60 for
        DeepSeek-V3. By default 0, 1, ...: a model of MoE layers alone.
    model_layers
        All layers of the model, for SGLang, which needs a row for each of them; by default the last of
        ``layer_ids`` is the model's last layer.
    num_experts
        Experts of every MoE layer of the model, where that should be checked.

    Raises
    ------
    InputError
        If the engine could not load the placement: an empty slot, an expert without a copy, or, where the engine
        has no way to hold it, an expert twice on one GPU; names the layer and what helps. For ``layer_ids`` that
        do not fit the rows, or layers beyond ``model_layers``. If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> placement = Placement([[0, 1, 1, 2]], num_experts=3, num_gpus=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_placement(f"{folder}/map.json", placement, "sglang", layer_ids=[1], model_layers=2)
    ...     print(file.read_text(), end="")
    {"physical_to_logical_map": [
    [0,1,2,0],
    [0,1,1,2]
    ]}
    """
    return write_whole(
        path, encoded(placement, engine, layer_ids=layer_ids, model_layers=model_layers, num_experts=num_experts)
    )


def encoded(
    placement: Placement,
    engine: str,
    *,
    layer_ids: Sequence[int] | None = None,
    model_layers: int | None = None,
    num_experts: int | None = None,
) -> str | bytes:
    """Return what ``write_placement`` writes."""
    target = engine_named(engine)
    if not isinstance(placement, Placement):
        raise InputError(f"placement must be a Placement, got {type(placement).__name__}")
    if num_experts is not None and integer("num_experts", num_experts, 1) != placement.num_experts:
        raise InputError(f"num_experts={num_experts}, but the placement has {placement.num_experts}")
    ids, total = _numbered(placement, layer_ids, model_layers)
    order = np.argsort(ids)
    placement, ids = placement[order], tuple(ids[row] for row in order)
    refuse_unloadable(placement, engine, ids)
    return target.encode(placement, ids, total)


def refuse_unloadable(placement: Placement, engine: str, layer_ids: Sequence[int]) -> None:
    """Raise InputError with one line for the first thing in ``placement`` that the engine cannot load."""
    target = engine_named(engine)
    if not target.partial:
        missing = np.argwhere(placement.replica_count < 1)
        if missing.size:
            layer, expert = missing[0].tolist()
            raise InputError(f"layer {layer_ids[layer]}: expert {expert} has no slot, and {target.label} needs one")
        empty = np.argwhere(placement.phy2log < 0)
        if empty.size:
            layer, slot = empty[0].tolist()
            raise InputError(
                f"layer {layer_ids[layer]}: slot {slot} (GPU {slot // placement.slots_per_gpu}) is empty, and "
                f"{target.label} knows no empty slots; placement.fill(problem), or moeopt convert --trace, fills them"
            )
    if not target.colocated:
        twice = np.argwhere(placement.copies > 1)
        if twice.size:
            layer, gpu, expert = twice[0].tolist()
            raise InputError(
                f"layer {layer_ids[layer]}: GPU {gpu} holds expert {expert} more than once, which {target.label} "
                f"cannot load; a plan for engine={engine!r} keeps copies apart"
            )


def _numbered(
    placement: Placement, layer_ids: Sequence[int] | None, model_layers: int | None
) -> tuple[tuple[int, ...], int]:
    """Return the model's own number of every row, and of how many layers."""
    rows = placement.num_layers
    total = None if model_layers is None else integer("model_layers", model_layers, 1)
    if layer_ids is None and total is not None and total != rows:
        raise InputError(f"model_layers={total}, but the placement has {rows} rows: layer_ids must say which they are")
    ids = checked_ids(() if layer_ids is None else layer_ids, rows)
    if len(set(ids)) != rows or min(ids) < 0:
        raise InputError(f"layer_ids must be different numbers >= 0, got {shown(list(ids))}")
    if total is None:
        total = max(ids) + 1
    if total * placement.num_slots > MAX_SLOTS:
        raise InputError(f"model_layers={total} of {placement.num_slots} slots; a file has at most {MAX_SLOTS} slots")
    if max(ids) >= total:
        raise InputError(f"model_layers={total}, but the placement has a row for layer {max(ids)}, counted from 0")
    return ids, total
