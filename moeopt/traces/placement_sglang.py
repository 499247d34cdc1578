"""SGLang's ``--init-expert-location`` file: ``{"physical_to_logical_map": [layers, slots]}``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moeopt._files import write_whole
from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces.json_numbers import number_array
from moeopt.traces.sglang import as_array, keys_of

KEY = "physical_to_logical_map"


def write_placement_json(path: str | os.PathLike[str], placement: Placement) -> Path:
    """Write the map in the form SGLang loads: this one key, one row per layer, -1 = empty slot.

    SGLang itself has no empty slots; a placement that uses them is for moeopt's own reader.
    """
    return write_whole(path, sglang_json(placement))


def sglang_json(placement: Placement) -> str:
    """Return what ``write_placement_json`` writes."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in placement.phy2log.tolist())
    return f'{{"{KEY}": [\n{rows}\n]}}\n'


def phy2log_from_json(document: Any) -> NDArray[Any]:
    """``phy2log`` of SGLang's dict, or of a bare list as vLLM takes it."""
    return number_array(KEY, document[KEY] if isinstance(document, dict) else document)


def phy2log_from_pt(document: Any) -> NDArray[Any]:
    """``phy2log`` of a ``.pt`` file that holds SGLang's dict."""
    if not isinstance(document, dict) or KEY not in document:
        raise TraceError(f"no {KEY} in the .pt file; it holds {keys_of(document)}")
    return as_array(KEY, document[KEY])
