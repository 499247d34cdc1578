"""The way back in for placements: find the format from the content and read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import integer
from moeopt._files import read_whole
from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.load import checked_ids
from moeopt.placement import MAX_SLOTS, Placement
from moeopt.traces.csv_matrix import parse_csv
from moeopt.traces.json_numbers import parse_json
from moeopt.traces.matrix import read_npy, read_npz, refuse_too_many
from moeopt.traces.placement_ascend import phy2log_from_expert_map
from moeopt.traces.placement_npz import phy2log_from_npz
from moeopt.traces.placement_omni import phy2log_from_pattern
from moeopt.traces.placement_sglang import KEY, phy2log_from_json, phy2log_from_pt
from moeopt.traces.placement_trtllm import KEY as YAML_KEY
from moeopt.traces.placement_trtllm import phy2log_from_yaml
from moeopt.traces.placement_vllm import RECORD, phy2log_from_list, phy2log_from_records
from moeopt.traces.read import content_kind
from moeopt.traces.sglang import keys_of
from moeopt.traces.torch_file import load_pt


def read_placement(
    path: str | os.PathLike[str], num_experts: int, num_gpus: int, *, layer_ids: Sequence[int] | None = None
) -> Placement:
    """Read a placement from a file whose format is found from its content.

    Parameters
    ----------
    path
        JSON or ``.pt`` with ``physical_to_logical_map``, a bare JSON list, vLLM's ``eplb_initial_mapping``,
        TensorRT-LLM's YAML, a vllm-ascend expert map, ``phy2log`` as CSV, ``.npy`` or ``.npz``, or OmniInfer's
        0/1 ``[ranks, layers, experts]`` as ``.npy`` or ``.npz``. See ``docs/formats.md``.
    num_experts, num_gpus
        Experts per layer and GPUs, which most formats leave unsaid; -1 in a file is an empty slot.
    layer_ids
        The model's own numbers of the layers wanted. A file with as many rows holds these; of any other the rows
        with these numbers are picked, counted from 0 as SGLang does, or as TensorRT-LLM's file names them. All
        rows by default.

    Raises
    ------
    TraceError
        Names the file, and layer and slot of what is wrong, or the layer that it has no row for.
    InputError
        For numbers of experts or GPUs that are no positive integers, or bad ``layer_ids``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "placement.json")
    ...     _ = path.write_text('{"physical_to_logical_map": [[0, 3, 1, 2]]}')
    ...     placement = read_placement(path, num_experts=4, num_gpus=2)
    >>> placement.phy2log.tolist()
    [[0, 3, 1, 2]]
    """
    num_experts, num_gpus = integer("num_experts", num_experts, 1), integer("num_gpus", num_gpus, 1)
    ids = None if layer_ids is None else checked_ids(layer_ids, len(layer_ids))
    rows = read_rows(path, num_experts, num_gpus)
    return rows.placement if ids is None else rows.picked(ids)


@dataclass(frozen=True)
class Rows:
    """A placement as a file has it.

    Parameters
    ----------
    file
        The file's name, for messages.
    placement
        All rows of the file, in order.
    numbers
        The model's own numbers of the rows, where the file names them.
    shared
        Whether its only row stands for every layer.
    """

    file: str
    placement: Placement
    numbers: tuple[int, ...] | None = None
    shared: bool = False

    def picked(self, layer_ids: tuple[int, ...]) -> Placement:
        """Return the rows of some layers; see :func:`read_placement`."""
        rows = self.placement.num_layers
        if self.shared:
            return self.placement[[0] * len(layer_ids)]
        if self.numbers is None and rows == len(layer_ids):
            return self.placement
        place = {number: row for row, number in enumerate(self.numbers or range(rows))}
        missing = [layer for layer in layer_ids if layer not in place]
        if missing:
            wanted = f"{len(layer_ids)} layers are wanted"
            raise TraceError(f"{self.file}: has {rows} rows and none for layer {missing[0]}; {wanted}")
        return self.placement[[place[layer] for layer in layer_ids]]


def read_rows(path: str | os.PathLike[str], num_experts: int, num_gpus: int) -> Rows:
    """Read all rows of a placement's file and what it says about their layers; see :func:`read_placement`."""
    content = read_whole(path)
    try:
        phy2log, numbers = _phy2log(content, num_experts, num_gpus)
        placement = Placement(phy2log, num_experts, num_gpus)
        return Rows(printable(path), placement, numbers, np.ndim(phy2log) == 1)
    except InputError as error:
        raise TraceError(f"{printable(path)}: {error}") from None


def _phy2log(content: bytes, num_experts: int, num_gpus: int) -> tuple[NDArray[Any], tuple[int, ...] | None]:
    kind = content_kind(content)
    if kind == "csv" and YAML_KEY.encode() in content:
        return phy2log_from_yaml(content)
    if kind == "json" and RECORD.encode() in content:
        return phy2log_from_records(content), None
    if kind == "json":
        return _from_json(parse_json(content), num_gpus), None
    if kind == "csv":
        return parse_csv(content, "layer", minimum=-1), None
    if kind == "pt":
        return phy2log_from_pt(load_pt(content)), None
    return _from_arrays(content, kind, num_experts, num_gpus), None


def _from_json(document: Any, num_gpus: int) -> NDArray[Any]:
    if isinstance(document, list):
        return phy2log_from_list(document)
    if KEY in document:
        return phy2log_from_json(document)
    if "layer_list" in document:
        return phy2log_from_expert_map(document, num_gpus)
    raise TraceError(f"no {KEY} and no layer_list in the JSON; it holds {keys_of(document)}")


def _from_arrays(content: bytes, kind: str, num_experts: int, num_gpus: int) -> NDArray[Any]:
    if kind == "npz":
        arrays = read_npz(content)
        if "phy2log" in arrays:
            return phy2log_from_npz(arrays, num_experts, num_gpus)
        if "placement" not in arrays and len(arrays) != 1:
            raise TraceError(f"no phy2log and no placement in the .npz; it holds {keys_of(arrays)}")
        array = arrays.get("placement", next(iter(arrays.values())))
    else:
        array = read_npy(content)
    refuse_too_many("the placement", array.shape, MAX_SLOTS)
    return phy2log_from_pattern(array, num_experts, num_gpus) if array.ndim == 3 else array
