"""Loads out: JSON, ``.npy`` and ``.npz`` with a row for every layer of the model."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import integer, shown
from moeopt._files import write_whole
from moeopt.errors import InputError
from moeopt.traces.matrix import MAX_NUMBERS
from moeopt.traces.trace import Trace


def _json(counts: NDArray[Any]) -> str:
    return json.dumps({"logical_count": counts.tolist()}, separators=(",", ":")) + "\n"


def _npy(counts: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, counts)
    return buffer.getvalue()


def _npz(counts: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logical_count=counts)
    return buffer.getvalue()


LOAD_FORMATS: dict[str, Callable[[NDArray[Any]], str | bytes]] = {"json": _json, "npy": _npy, "npz": _npz}
"""Every file that ``write_trace`` writes, by name."""


def write_trace(
    path: str | os.PathLike[str], trace: Trace, format: str = "json", *, model_layers: int | None = None
) -> Path:
    """Write ``logical_count [windows, layers of the model, experts]``: whole, or not at all.

    Layers stand at their own numbers and dense ones are all zero, as SGLang has it; ``read_trace`` reads the same
    trace back, and SGLang takes the JSON for ``--init-expert-location``, to run its own balancer.

    Parameters
    ----------
    path
        The file; missing folders are made.
    trace
        ``[windows, layers, experts]``.
    format
        A name of ``LOAD_FORMATS``.
    model_layers
        All layers of the model; by default the trace's last layer is the model's last.

    Raises
    ------
    InputError
        For an unknown format, layers beyond ``model_layers``, or a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from moeopt.traces import Trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_trace(f"{folder}/loads.json", Trace([[9, 5, 4, 2]])).read_text())
    {"logical_count":[[[9,5,4,2]]]}
    """
    if format not in LOAD_FORMATS:
        raise InputError(f"format {shown(format)} is unknown; there are {', '.join(LOAD_FORMATS)}")
    last = max(trace.layer_ids)
    total = last + 1 if model_layers is None else integer("model_layers", model_layers, 1)
    if min(trace.layer_ids) < 0 or last >= total:
        raise InputError(f"model_layers={total}, but the trace has layers {min(trace.layer_ids)} to {last}")
    if trace.num_windows * total * trace.num_experts > MAX_NUMBERS:
        raise InputError(f"model_layers={total} takes more than the {MAX_NUMBERS} numbers that are read from a file")
    counts = np.zeros((trace.num_windows, total, trace.num_experts), trace.windows.dtype)
    counts[:, list(trace.layer_ids)] = trace.windows
    return write_whole(path, LOAD_FORMATS[format](counts))
