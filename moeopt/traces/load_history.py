"""ADRS: ``{"load_history": [{"logical_expert_load": [[..], ..]}, ..]}``, one entry per step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.traces.json_numbers import number_array
from moeopt.traces.matrix import refuse_too_many

KEY, LOAD = "load_history", "logical_expert_load"


def counts_from_history(document: dict[str, Any]) -> NDArray[np.float64]:
    """``[steps, layers, experts]`` of a history whose entries all have the first one's shape."""
    entries = document[KEY]
    if not isinstance(entries, list) or not entries:
        raise TraceError(f"{KEY} is not a list with at least one entry")
    counts: NDArray[np.float64] | None = None
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or LOAD not in entry:
            raise TraceError(f"{KEY}, entry {number}: no {LOAD}")
        try:
            load = np.atleast_2d(number_array(LOAD, entry[LOAD]))
        except TraceError as error:
            raise TraceError(f"{KEY}, entry {number}: {error}") from None
        if counts is None:
            refuse_too_many(KEY, (len(entries), *load.shape))
            counts = np.empty((len(entries), *load.shape))
        if load.shape != counts.shape[1:]:
            raise TraceError(f"{KEY}, entry {number}: shape {list(load.shape)}, the first has {list(counts.shape[1:])}")
        counts[number] = load
    assert counts is not None
    return counts
