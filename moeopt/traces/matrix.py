"""Plain arrays: ``.npy``, ``.npz`` and CSV matrices, none of which can carry code."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._files import parser_reason
from moeopt.errors import TraceError
from moeopt.traces.csv_matrix import parse_csv

LOAD_NAMES = ("logical_count", "load")
PLACEMENT_NAMES = ("phy2log", "placement", "physical_to_logical_map")


def read_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a ``.npy`` file; pickled objects are refused, not loaded."""
    try:
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npy file: {parser_reason(error)}") from None
    return array


def read_npz(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name; pickled objects are refused, not loaded."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npz file: {parser_reason(error)}") from None
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise TraceError(f"not a .npz file: its member {strange[0]!r} is no array")
    return arrays


def pick_array(arrays: dict[str, NDArray[Any]], name: str | None) -> NDArray[Any]:
    """Return the array called ``name``, else the one that holds the loads.

    Without a name: the only array, or the one called ``logical_count`` or ``load``.

    Raises
    ------
    TraceError
        Lists the names where none is the obvious one.
    """
    listing = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "none"
    if name is not None:
        if name not in arrays:
            raise TraceError(f"no array called {name!r}; there are: {listing}")
        return arrays[name]
    placements = [key for key in PLACEMENT_NAMES if key in arrays]
    if placements:
        raise TraceError(f"holds a placement ({placements[0]}), not loads")
    known = [key for key in LOAD_NAMES if key in arrays] or list(arrays)
    if len(known) != 1:
        raise TraceError(f"which array holds the loads? name it as FILE:NAME; there are: {listing}")
    return arrays[known[0]]


def read_csv_matrix(content: bytes) -> NDArray[Any]:
    """Return a headerless CSV, row = layer, column = expert."""
    matrix = parse_csv(content, "layer")
    refuse_column_numbers(matrix)
    return matrix


def refuse_column_numbers(matrix: NDArray[Any]) -> None:
    """Refuse a first row 0, 1, 2, ...: the header that pandas writes unasked, and no load."""
    if len(matrix) > 1 and matrix.shape[1] >= 4 and np.array_equal(matrix[0], np.arange(matrix.shape[1])):
        raise TraceError(f"line 1 counts 0..{matrix.shape[1] - 1}: a header row? there must be none")
