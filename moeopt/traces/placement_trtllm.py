"""TensorRT-LLM's load balancer file: YAML with ``num_slots`` and slots by a layer's own number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces.json_numbers import number_array

KEY = "initial_global_assignments"

_MOST_BYTES = 2**26
"""A real file takes a few hundred thousand; YAML takes a hundred times its size to read."""

_MOST_DEPTH = 8


def trtllm_yaml(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return the file of a static placement: layers by their own number, which must be integers."""
    document = {
        "num_slots": placement.num_slots,
        KEY: dict(zip(layer_ids, placement.phy2log.tolist(), strict=True)),
        "layer_updates_per_iter": 0,
    }
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, default_flow_style=None, sort_keys=False, width=2**30)
    return text


def phy2log_from_yaml(content: bytes) -> tuple[NDArray[Any], tuple[int, ...]]:
    """``phy2log [layers, slots]`` in the order of the layers' numbers, and these numbers.

    Raises
    ------
    TraceError
        For what is no YAML, for anchors and aliases (a few lines of them unfold to more than any memory),
        and for layers that are not numbered by integers or differ in slots.
    """
    document = _parsed(content)
    rows = document.get(KEY) if isinstance(document, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise TraceError(f"{KEY} must be a mapping from layers to slots")
    for layer in rows:
        if type(layer) is not int or not 0 <= layer < 2**31:
            raise TraceError(f"{KEY}: layers must be integers >= 0, got {printable(repr(layer), 40)}")
    numbers = tuple(sorted(rows))
    phy2log = number_array(KEY, [rows[layer] for layer in numbers])
    if phy2log.ndim != 2:
        raise TraceError(f"{KEY} must be a mapping from layers to slots")
    if document.get("num_slots", phy2log.shape[1]) != phy2log.shape[1]:
        shown = printable(repr(document["num_slots"]), 40)
        raise TraceError(f"num_slots is {shown}, the layers have {phy2log.shape[1]} slots")
    return phy2log, numbers


def _parsed(content: bytes) -> Any:
    if len(content) > _MOST_BYTES:
        raise TraceError(f"{len(content)} bytes of YAML, at most {_MOST_BYTES} are read")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode("utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise TraceError("YAML with anchors or aliases is not read")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                raise TraceError(f"YAML nested deeper than {_MOST_DEPTH} is not read")
        return yaml.load(text, Loader=loader)
    except TraceError:
        raise
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not readable YAML: {parser_reason(error)}") from None
