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
from moeopt.traces.mapped import forget_pages, mapping_of

MAX_LAYERS = 2**20
"""The most layers of a trace: each has an id of its own, and a table with more is the wrong way round."""

LARGE = 2**25
"""Counts of a trace that are held in 64 bits each; those of a larger one take as few bits as are exact."""

_PIECE = 2**20  # entries looked at in one go


@dataclass(frozen=True, eq=False)
class Trace(ArrayFields):
    """Tokens routed to every expert, window after window.

    Parameters
    ----------
    windows
        ``[windows, layers, experts]`` (or ``[layers, experts]``, one window), finite and >= 0.
        Whole numbers are kept as int64, anything else as float64. More than 2**25 counts are kept in
        the narrowest signed integers (float32 where that is what comes in) that hold them exactly, and
        a large ``.npy`` file stays on disk, mapped into memory: ``total()`` and ``trace[i]`` are
        int64 or float64 whatever the windows are; other sums need ``dtype=``.
    layer_ids
        The trace's own number of each layer; ``0..layers-1`` by default.
    source
        Where the loads come from, for tables and file names.
    sha256
        Of the very bytes that the trace was read from, None where it was not read from files: the
        file's, or that of a folder's CSV files one after another in the order of their names. It
        says where counts come from and not what they are, so that traces are equal without it;
        ``trace[i:j]`` keeps it.
    ordered
        Whether the windows are known to be in time order. No part of equality, kept by ``trace[i:j]``.
    note
        One line about the recording that whoever shows its numbers should show too, such as why the
        order is not known or which steps were left out; "" where there is nothing to say. Likewise.

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

    windows: NDArray[Any]
    layer_ids: tuple[int, ...] = ()
    source: str = "trace"
    sha256: str | None = field(default=None, compare=False)
    ordered: bool = field(default=True, compare=False)
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        array = as_counts(self.windows, self.layer_ids)
        try:
            ids = checked_ids(self.layer_ids, array.shape[1])
        except InputError as error:
            raise TraceError(str(error)) from None
        # The one copy: wide enough for sums, in memory that no caller shares
        windows: NDArray[Any] = np.array(array, dtype=kept_dtype(array.size, [narrowest(array)]), order="C")
        if windows.dtype.kind == "f":
            windows += 0.0  # no -0.0
        windows.setflags(write=False)
        object.__setattr__(self, "windows", windows)
        object.__setattr__(self, "layer_ids", ids)

    @property
    def num_windows(self) -> int:
        """Windows, in time order where ``ordered``."""
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
        wide = np.float64 if self.windows.dtype.kind == "f" else np.int64
        summed = np.zeros(self.windows.shape[1:], dtype=wide)
        for piece in pieces(self.windows.shape):
            summed[piece[1:]] += self.windows[piece].sum(axis=0, dtype=wide)
            forget_pages(self.windows)
        return self._load(summed)

    def _load(self, values: NDArray[Any]) -> LoadMatrix:
        if values.dtype.kind == "f" and mapping_of(self.windows) is not None and _whole(values[None]):
            values = values.astype(np.int64)  # a file of whole numbers in a float dtype
        return LoadMatrix(values, self.layer_ids, self.source)

    def __len__(self) -> int:
        return self.num_windows

    @overload
    def __getitem__(self, index: int) -> LoadMatrix: ...
    @overload
    def __getitem__(self, index: slice) -> Trace: ...
    def __getitem__(self, index: int | slice) -> LoadMatrix | Trace:
        if not isinstance(index, slice):
            return self._load(self.windows[index])
        if len(range(self.num_windows)[index]) == 0:
            raise IndexError(f"window slice {index} selects none of {self.num_windows} windows")
        return part_of(self, self.windows[index])


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
    for piece in pieces(array.shape):
        refuse_faults(array[piece], *(part.start for part in piece), num_windows=len(array), layer_ids=layer_ids)
    if beyond := beyond_total(array):
        layer, total = beyond
        raise TraceError(f"layer {id_of(layer, layer_ids)}: totals {total} tokens, more than 2**53")
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
            where = f"layer {id_of(layer + int(first[1]), layer_ids)}, column {column + int(first[2])}"
            if num_windows > 1:
                where = f"window {window + int(first[0])}, {where}"
            raise TraceError(f"{where}: {counts[tuple(first)]} {fault}")


def part_of(trace: Trace, windows: NDArray[Any]) -> Trace:
    """Return ``trace`` with ``windows`` that were checked before: they are not copied."""
    part = object.__new__(Trace)
    part.__setstate__(trace.__getstate__() | {"windows": windows})
    return part


def id_of(layer: int, layer_ids: Sequence[int]) -> int:
    """Return the number of the layer at place ``layer``, which is its own where ids are not given."""
    return layer_ids[layer] if layer < len(layer_ids) else layer


def kept_dtype(size: int, kinds: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the dtype of ``size`` counts that are held in parts of ``kinds``."""
    joint = np.result_type(*kinds)
    if size > LARGE:
        return joint
    return np.dtype(np.float64 if joint.kind == "f" else np.int64)


def narrowest(array: NDArray[Any]) -> np.dtype[Any]:
    """Return the narrowest of int8..int64 for whole counts, else float32 or float64, that is exact."""
    if not _whole(array):
        return np.dtype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    highest = max((int(array[piece].max()) for piece in pieces(array.shape)), default=0)
    return np.promote_types(np.min_scalar_type(-highest - 1), np.int8)


def _whole(array: NDArray[Any]) -> bool:
    """Whether every count is a whole number."""
    return array.dtype.kind != "f" or not any((array[piece] % 1).any() for piece in pieces(array.shape))


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Slices that cut ``[windows, layers, experts]`` into parts of at most ``_PIECE`` entries, in order."""
    windows, layers, experts = shape
    steps = max(1, _PIECE // (layers * experts)), max(1, _PIECE // experts), _PIECE
    for window in range(0, windows, steps[0]):
        for layer in range(0, layers, steps[1]):
            for column in range(0, experts, steps[2]):
                starts = window, layer, column
                first, second, third = (slice(start, start + step) for start, step in zip(starts, steps, strict=True))
                yield first, second, third
