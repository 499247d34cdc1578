"""Trace: loads recorded window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import ArrayFields, to_numpy
from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.load import MAX_TOTAL, MIN_LOAD, LoadMatrix, beyond_total, checked_ids

MAX_LAYERS = 2**20
"""The most layers of a trace: each has an id of its own, and a table with more is the wrong way round."""

_PIECE = 2**20  # entries looked at in one go


@dataclass(frozen=True, eq=False)
class Trace(ArrayFields):
    """Tokens routed to every expert, window after window.

    Parameters
    ----------
    windows
        ``[windows, layers, experts]`` (or ``[layers, experts]``, one window), finite and >= 0.
        Whole numbers are kept as int64, anything else as float64.
    layer_ids
        The trace's own number of each layer; ``0..layers-1`` by default.
    source
        Where the loads come from, for tables and file names.
    sha256
        Of the very bytes that the trace was read from, None where it was not read from files: the
        file's, or that of a folder's CSV files one after another in the order of their names. It
        says where counts come from and not what they are, so that traces are equal without it;
        ``trace[i:j]`` keeps it.

    Raises
    ------
    TraceError
        Names window, layer and column of the first value that is not a count.

    Examples
    --------
    >>> trace = Trace([[[3, 1], [0, 4]], [[2, 2], [4, 0]]])
    >>> len(trace), trace.total().values.tolist()
    (2, [[5, 3], [4, 4]])
    """

    windows: NDArray[np.int64] | NDArray[np.float64]
    layer_ids: tuple[int, ...] = ()
    source: str = "trace"
    sha256: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        array = as_counts(self.windows, self.layer_ids)
        try:
            ids = checked_ids(self.layer_ids, array.shape[1])
        except InputError as error:
            raise TraceError(str(error)) from None
        # The one copy: wide enough for sums, in memory that no caller shares
        windows: NDArray[Any] = np.array(array, dtype=np.int64 if _whole(array) else np.float64, order="C")
        if windows.dtype.kind == "f":
            windows += 0.0  # no -0.0
        windows.setflags(write=False)
        object.__setattr__(self, "windows", windows)
        object.__setattr__(self, "layer_ids", ids)

    @property
    def num_windows(self) -> int:
        """Windows in time order."""
        return int(self.windows.shape[0])

    @property
    def num_layers(self) -> int:
        """Layers that have load."""
        return int(self.windows.shape[1])

    @property
    def num_experts(self) -> int:
        """Logical experts of every layer."""
        return int(self.windows.shape[2])

    def total(self) -> LoadMatrix:
        """Loads of all windows together, ``[layers, experts]``."""
        return LoadMatrix(self.windows.sum(axis=0), self.layer_ids, self.source)

    def __len__(self) -> int:
        return self.num_windows

    @overload
    def __getitem__(self, index: int) -> LoadMatrix: ...
    @overload
    def __getitem__(self, index: slice) -> Trace: ...
    def __getitem__(self, index: int | slice) -> LoadMatrix | Trace:
        if not isinstance(index, slice):
            return LoadMatrix(self.windows[index], self.layer_ids, self.source)
        if len(range(self.num_windows)[index]) == 0:
            raise IndexError(f"window slice {index} selects none of {self.num_windows} windows")
        return Trace(self.windows[index], self.layer_ids, self.source, self.sha256)


def as_counts(values: Any, layer_ids: Sequence[int] = ()) -> NDArray[Any]:
    """Return ``values`` as a checked ``[windows, layers, experts]`` array, in the dtype that it came in.

    Checked piece by piece: a large array of small integers is never held in a wider dtype as a whole.
    O(windows * layers * experts).
    """
    try:
        array = to_numpy("counts", values)
    except InputError as error:
        raise TraceError(str(error)) from None
    if array.dtype.kind == "b":
        raise TraceError("counts must be numbers, got booleans")
    if array.ndim not in (1, 2, 3) or array.size == 0:
        raise TraceError(
            "counts must be [layers, experts] or [windows, layers, experts] and not empty, "
            f"got shape {printable(array.shape, 60)}"
        )
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    if array.shape[1] > MAX_LAYERS:
        raise TraceError(f"counts must be of at most {MAX_LAYERS} layers, got shape {array.shape}")
    for piece in _pieces(array.shape):
        refuse_faults(array[piece], *(part.start for part in piece), num_windows=len(array), layer_ids=layer_ids)
    if beyond := beyond_total(array):
        layer, total = beyond
        raise TraceError(f"layer {_id(layer, layer_ids)}: totals {total} tokens, more than 2**53")
    return array


def refuse_faults(
    counts: NDArray[Any],
    window: int = 0,
    layer: int = 0,
    column: int = 0,
    *,
    num_windows: int = 1,
    layer_ids: Sequence[int] = (),
) -> None:
    """Raise TraceError for the first entry of ``counts [windows, layers, experts]`` that is no count.

    ``window``, ``layer`` and ``column`` are those of the first entry, where ``counts`` is a part of more.
    """
    faults: list[tuple[NDArray[np.bool_], str]] = []
    if counts.dtype.kind == "f":
        with np.errstate(over="ignore"):
            counts = counts.astype(np.float64)  # half precision cannot be compared with 2**53
        faults += [
            (~np.isfinite(counts), "is not finite"),
            ((counts > 0) & (counts < MIN_LOAD), f"is below {MIN_LOAD:g} and not 0"),
        ]
    faults += [(counts < 0, "is negative"), (counts > MAX_TOTAL, "is above 2**53")]
    for bad, fault in faults:
        if bad.any():
            first = np.argwhere(bad)[0]
            where = f"layer {_id(layer + int(first[1]), layer_ids)}, column {column + int(first[2])}"
            if num_windows > 1:
                where = f"window {window + int(first[0])}, {where}"
            raise TraceError(f"{where}: {counts[tuple(first)]} {fault}")


def tidy(values: Any, source: str, layer_ids: Sequence[int] = (), sha256: str | None = None) -> Trace:
    """Trace of what a file holds, without the layers and the windows that have no load at all.

    Layers without load are dense layers; windows without load are unfilled rows of a ring buffer.
    ``layer_ids`` remembers which layers stayed.

    Raises
    ------
    TraceError
        For anything that is not a count, and where nothing is left.
    """
    array = as_counts(values, layer_ids)
    layers = np.flatnonzero(array.any(axis=(0, 2)))
    if layers.size == 0:
        raise TraceError("every count is zero")
    filled = array.any(axis=(1, 2))
    ids = tuple(_id(int(layer), layer_ids) for layer in layers)
    kept = array if filled.all() and len(layers) == array.shape[1] else array[filled][:, layers]
    return Trace(kept, ids, printable(source, 80), sha256)


def _id(layer: int, layer_ids: Sequence[int]) -> int:
    return layer_ids[layer] if layer < len(layer_ids) else layer


def _whole(array: NDArray[Any]) -> bool:
    """Whether every count is a whole number."""
    return array.dtype.kind != "f" or not any((array[piece] % 1).any() for piece in _pieces(array.shape))


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Slices that cut ``[windows, layers, experts]`` into parts of at most ``_PIECE`` entries, in order."""
    windows, layers, experts = shape
    steps = max(1, _PIECE // (layers * experts)), max(1, _PIECE // experts), _PIECE
    for window in range(0, windows, steps[0]):
        for layer in range(0, layers, steps[1]):
            for column in range(0, experts, steps[2]):
                starts = window, layer, column
                first, second, third = (slice(start, start + step) for start, step in zip(starts, steps, strict=True))
                yield first, second, third
