"""SGLang's ``--init-expert-location`` file: ``{"physical_to_logical_map": [layers of the model, slots]}``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.placement import Placement
from moeopt.traces.json_numbers import number_array
from moeopt.traces.sglang import as_array, keys_of

KEY = "physical_to_logical_map"


def sglang_json(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return the map with a row for every layer of the model, since SGLang finds rows by a layer's own number.

    Rows of dense layers, which nobody looks up, hold the experts in turn, as SGLang fills them itself.
    """
    rows = np.tile(np.arange(placement.num_slots) % placement.num_experts, (model_layers, 1))
    rows[list(layer_ids)] = placement.phy2log
    return f'{{"{KEY}": {json_rows(rows)}}}\n'


def json_rows(rows: NDArray[np.int64]) -> str:
    """Return a matrix as JSON with a row per line."""
    return "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows.tolist()) + "\n]"


def phy2log_from_json(document: dict[str, Any]) -> NDArray[Any]:
    """``phy2log`` of SGLang's dict."""
    return number_array(KEY, document[KEY])


def phy2log_from_pt(document: Any) -> NDArray[Any]:
    """``phy2log`` of a ``.pt`` file that holds SGLang's dict."""
    if not isinstance(document, dict) or KEY not in document:
        raise TraceError(f"no {KEY} in the .pt file; it holds {keys_of(document)}")
    return as_array(KEY, document[KEY])
