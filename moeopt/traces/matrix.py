"""Plain arrays: ``.npy``, ``.npz`` and CSV matrices, none of which can carry code."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.traces.csv_matrix import parse_csv

LOAD_NAMES = ("logical_count", "load")
PLACEMENT_NAMES = ("phy2log", "placement", "physical_to_logical_map")
NPY_MAGIC = b"\x93NUMPY"

MAX_NUMBERS = 2**29
"""The most numbers read from one file: 4 GiB of int64."""

_LISTED = 6  # arrays named in a message


def read_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, a view of ``content``; pickled objects are refused, not loaded.

    What the header claims is checked before any memory is taken.
    """
    try:
        return _array_of(content)
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npy file: {parser_reason(error)}") from None


def read_npz(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name; pickled objects are refused, not loaded."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                data = archive.read(member)
                if not data.startswith(NPY_MAGIC):
                    raise TraceError(f"not a .npz file: its member '{printable(member.filename, 40)}' is no array")
                arrays[member.filename.removesuffix(".npy")] = _array_of(data)
    except TraceError:
        raise
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npz file: {parser_reason(error)}") from None
    return arrays


def refuse_too_many(name: str, shape: Sequence[int], most: int = MAX_NUMBERS) -> None:
    """Raise TraceError where an array of this shape holds more numbers than are read from one file."""
    if math.prod(shape) > most:
        raise TraceError(f"{name} has shape {printable(list(shape), 60)}; at most {most} numbers are read")


def _array_of(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header is parsed as Python text, which may warn and quote it
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format {version[0]}.{version[1]} is for records, not numbers")
        shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("arrays of objects are not loaded")
    refuse_too_many("the array", shape)
    count, start = math.prod(shape), file.tell()
    if min(shape, default=0) < 0 or count * dtype.itemsize > len(content) - start:
        claim = f"shape {printable(list(shape), 60)} of {printable(dtype, 40)}"
        raise ValueError(f"the header claims {claim}, the file holds {len(content) - start} bytes")
    array: NDArray[Any] = np.frombuffer(content, dtype, count, start)
    return array.reshape(shape, order="F" if fortran else "C")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def pick_array(arrays: dict[str, NDArray[Any]], name: str | None) -> NDArray[Any]:
    """Return the array called ``name``, else the one that holds the loads.

    Without a name: the only array, or the one called ``logical_count`` or ``load``.

    Raises
    ------
    TraceError
        Lists the names where none is the obvious one.
    """
    listing = ", ".join(_summary(*item) for item in list(arrays.items())[:_LISTED]) or "none"
    if len(arrays) > _LISTED:
        listing += ", ..."
    if name is not None:
        if name not in arrays:
            raise TraceError(f"no array called '{printable(name, 40)}'; there are: {listing}")
        return arrays[name]
    placements = [key for key in PLACEMENT_NAMES if key in arrays]
    if placements:
        raise TraceError(f"holds a placement ({placements[0]}), not loads")
    known = [key for key in LOAD_NAMES if key in arrays] or list(arrays)
    if len(known) != 1:
        raise TraceError(f"which array holds the loads? name it as FILE:NAME; there are: {listing}")
    return arrays[known[0]]


def _summary(name: str, array: NDArray[Any]) -> str:
    return f"{printable(name, 30)} {printable(list(array.shape), 24)}"


def read_csv_matrix(content: bytes) -> NDArray[Any]:
    """Return a headerless CSV, row = layer, column = expert."""
    matrix = parse_csv(content, "layer")
    refuse_column_numbers(matrix)
    return matrix


def refuse_column_numbers(matrix: NDArray[Any]) -> None:
    """Refuse a first row 0, 1, 2, ...: the header that pandas writes unasked, and no load."""
    if len(matrix) > 1 and matrix.shape[1] >= 4 and np.array_equal(matrix[0], np.arange(matrix.shape[1])):
        raise TraceError(f"line 1 counts 0..{matrix.shape[1] - 1}: a header row? there must be none")
