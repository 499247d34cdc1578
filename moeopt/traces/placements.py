"""The way back in for placements: find the format from the content and read it."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from moeopt._arguments import integer
from moeopt._files import read_whole
from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.placement import Placement
from moeopt.traces.csv_matrix import parse_csv
from moeopt.traces.json_numbers import parse_json
from moeopt.traces.matrix import read_npy, read_npz, refuse_too_many
from moeopt.traces.placement_ascend import phy2log_from_expert_map
from moeopt.traces.placement_npz import phy2log_from_npz
from moeopt.traces.placement_omni import phy2log_from_pattern
from moeopt.traces.placement_sglang import KEY, phy2log_from_json, phy2log_from_pt
from moeopt.traces.read import content_kind
from moeopt.traces.sglang import keys_of
from moeopt.traces.torch_file import load_pt

MAX_SLOTS = 2**26
"""The most numbers read as a placement, which take several times their memory: a thousand large ones."""


def read_placement(path: str | os.PathLike[str], num_experts: int, num_gpus: int) -> Placement:
    """Read a placement from a file whose format is found from its content.

    Parameters
    ----------
    path
        JSON or ``.pt`` with ``physical_to_logical_map``, a bare JSON list, a vllm-ascend expert
        map, ``phy2log`` as CSV, ``.npy`` or ``.npz``, or OmniInfer's 0/1 ``[ranks, layers,
        experts]`` as ``.npy`` or ``.npz``. See ``docs/formats.md``.
    num_experts, num_gpus
        Experts per layer and GPUs, which most formats leave unsaid; -1 in a file is an empty slot.

    Raises
    ------
    TraceError
        Names the file, and layer and slot of what is wrong.
    InputError
        For numbers of experts or GPUs that are no positive integers.
    """
    num_experts, num_gpus = integer("num_experts", num_experts, 1), integer("num_gpus", num_gpus, 1)
    content = read_whole(path)
    try:
        return Placement(_phy2log(content, num_experts, num_gpus), num_experts, num_gpus)
    except InputError as error:
        raise TraceError(f"{printable(path)}: {error}") from None


def _phy2log(content: bytes, num_experts: int, num_gpus: int) -> NDArray[Any]:
    kind = content_kind(content)
    if kind == "csv":
        return parse_csv(content, "layer", minimum=-1)
    if kind == "pt":
        return phy2log_from_pt(load_pt(content))
    if kind == "json":
        return _from_json(parse_json(content), num_gpus)
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


def _from_json(document: Any, num_gpus: int) -> NDArray[Any]:
    if isinstance(document, list) or KEY in document:
        return phy2log_from_json(document)
    if "layer_list" in document:
        return phy2log_from_expert_map(document, num_gpus)
    raise TraceError(f"no {KEY} and no layer_list in the JSON; it holds {keys_of(document)}")
