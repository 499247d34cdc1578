"""Plain arrays: ``.npy``, ``.npz`` and CSV matrices, none of which can carry code."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from moeopt._files import MAX_BYTES
from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.traces.csv_matrix import parse_csv

LOAD_NAMES = ("logical_count", "load")
PLACEMENT_NAMES = ("phy2log", "placement", "physical_to_logical_map")
NPY_MAGIC = b"\x93NUMPY"

MAX_NUMBERS = 2**29
"""The most numbers read from one file that takes 8 bytes for each: 4 GiB of int64."""

_LISTED = 6  # arrays named in a message


def read_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, a view of ``content``; pickled objects are refused, not loaded.

    What the header claims is checked before any memory is taken.
    """
    file = io.BytesIO(content)
    header = npy_header(file, len(content))
    return array_of(content[file.tell() :], header)


def read_npz(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name; pickled objects are refused, not loaded."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name, (member, header) in npz_headers(archive).items():
                data = archive.read(member)
                size = header.count * header.dtype.itemsize
                arrays[name] = array_of(data[len(data) - size :], header)
    except TraceError:
        raise
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npz file: {parser_reason(error)}") from None
    return arrays


def refuse_too_many(name: str, shape: Sequence[int], most: int = MAX_NUMBERS) -> None:
    """Raise TraceError where an array of this shape holds more numbers than are read from one file."""
    if math.prod(shape) > most:
        raise TraceError(f"{name} has shape {printable(list(shape), 60)}; at most {most} numbers are read")


@dataclass(frozen=True)
class NpyHeader:
    """What the header of a ``.npy`` file claims, checked as far as it can be before any number is read."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def count(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)


def npy_header(file: BinaryIO, size: int | None = None, kind: str = ".npy") -> NpyHeader:
    """Read the header at the begin of ``file``, of ``size`` bytes where that is known, in a file of ``kind``.

    Raises
    ------
    TraceError
        For a header that cannot be read, for objects, and for a claim of more than the file can hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header is parsed as Python text, which may warn and quote it
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"format {version[0]}.{version[1]} is for records, not numbers")
            header = NpyHeader(*_HEADERS[version](file))
        if header.dtype.hasobject:
            raise ValueError("arrays of objects are not loaded")
        refuse_too_many("the array", header.shape, MAX_BYTES)
        left = size - file.tell() if size is not None else math.inf
        if min(header.shape, default=0) < 0 or header.count * header.dtype.itemsize > left:
            claim = f"shape {printable(list(header.shape), 60)} of {printable(header.dtype, 40)}"
            raise ValueError(f"the header claims {claim}, the file holds {left} bytes")
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable {kind} file: {parser_reason(error)}") from None
    return header


def array_of(data: bytes, header: NpyHeader) -> NDArray[Any]:
    """Return the array whose numbers ``data`` begins with, a view."""
    array: NDArray[Any] = np.frombuffer(data, header.dtype, header.count)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


def npz_headers(archive: zipfile.ZipFile) -> dict[str, tuple[zipfile.ZipInfo, NpyHeader]]:
    """Return every array's member and header by the array's name, in the order of the file."""
    headers = {}
    for member in archive.infolist():
        with archive.open(member) as stream:
            if stream.read(len(NPY_MAGIC)) != NPY_MAGIC:
                raise TraceError(f"not a .npz file: its member '{printable(member.filename, 40)}' is no array")
            stream.seek(0)
            header = npy_header(cast(BinaryIO, stream), member.file_size, ".npz")
            headers[member.filename.removesuffix(".npy")] = member, header
    return headers


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


Shaped = TypeVar("Shaped", NDArray[Any], NpyHeader)


def pick_array(arrays: Mapping[str, Shaped], name: str | None) -> str:
    """Return the name of the array called ``name``, else of the one that holds the loads.

    Without ``name``: the only array, or the one called ``logical_count`` or ``load``.

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
        return name
    placements = [key for key in PLACEMENT_NAMES if key in arrays]
    if placements:
        raise TraceError(f"holds a placement ({placements[0]}), not loads")
    known = [key for key in LOAD_NAMES if key in arrays] or list(arrays)
    if len(known) != 1:
        raise TraceError(f"which array holds the loads? name it as FILE:NAME; there are: {listing}")
    return known[0]


def _summary(name: str, array: NDArray[Any] | NpyHeader) -> str:
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
