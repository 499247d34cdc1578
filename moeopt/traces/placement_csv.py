"""The original notebook's result files: ``phy2log`` and ``gpu_load`` as headerless CSV, row = layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import to_numpy
from moeopt._files import read_whole, write_whole
from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.placement import Placement
from moeopt.traces.csv_matrix import format_csv, parse_csv


def phy2log_csv(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> str:
    """Return ``phy2log [layers, slots]``; -1 is an empty slot."""
    return format_csv(placement.phy2log)


def write_gpu_load_csv(path: str | os.PathLike[str], gpu_load: Any) -> Path:
    """Write ``gpu_load [layers, gpus]`` in tokens, every bit of it.

    Raises
    ------
    InputError
        If it is not a non-empty matrix of finite numbers, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_gpu_load_csv(f"{folder}/gpu_load.csv", [[6.0, 7.0]]).read_text().strip())
    6,7
    """
    matrix = np.atleast_2d(to_numpy("gpu_load", gpu_load)).astype(float)
    if matrix.ndim != 2 or matrix.size == 0:
        raise InputError(f"gpu_load must be [layers, gpus] and not empty, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError("gpu_load must be finite")
    return write_whole(path, format_csv(matrix))


def read_gpu_load_csv(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """``[layers, gpus]`` as ``write_gpu_load_csv`` wrote it; TraceError names file, line and column.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_gpu_load_csv(f"{folder}/gpu_load.csv", [[6.0, 7.0]])
    ...     print(read_gpu_load_csv(path).tolist())
    [[6.0, 7.0]]
    """
    content = read_whole(path)
    try:
        return np.asarray(parse_csv(content, "layer"), dtype=float)
    except TraceError as error:
        raise TraceError(f"{printable(path)}: {error}") from None
