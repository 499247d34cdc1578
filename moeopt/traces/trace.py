"""Trace: loads recorded window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import ArrayFields, exact_integers, frozen, to_numpy
from moeopt.errors import TraceError
from moeopt.load import LoadMatrix

MAX_TOTAL = 2**53
"""The most tokens a layer may total: up to here every sum of counts is exact in float64."""


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

    def __post_init__(self) -> None:
        array = as_counts(self.windows, self.layer_ids)
        ids = tuple(int(i) for i in self.layer_ids) or tuple(range(array.shape[1]))
        if len(ids) != array.shape[1]:
            raise TraceError(f"layer_ids must name every layer: {len(ids)} ids for {array.shape[1]} layers")
        object.__setattr__(self, "windows", frozen(array))
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
        return Trace(self.windows[index], self.layer_ids, self.source)


def as_counts(values: Any, layer_ids: tuple[int, ...] = ()) -> NDArray[np.int64] | NDArray[np.float64]:
    """Return ``values`` as a checked ``[windows, layers, experts]`` array of int64 or float64.

    O(windows * layers * experts).
    """
    array = to_numpy("counts", values)
    if array.dtype.kind == "b":
        raise TraceError("counts must be numbers, got booleans")
    if array.ndim not in (1, 2, 3) or array.size == 0:
        raise TraceError(
            f"counts must be [layers, experts] or [windows, layers, experts] and not empty, got shape {array.shape}"
        )
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    if array.dtype.kind == "f":
        _refuse(array, ~np.isfinite(array), "is not finite", layer_ids)
        array = array.astype(np.float64, copy=False)
    if array.dtype.kind != "u":
        _refuse(array, array < 0, "is negative", layer_ids)
    _refuse(array, array > MAX_TOTAL, "is above 2**53", layer_ids)
    total = array.sum(axis=(0, 2), dtype=float)
    if total.max() > MAX_TOTAL:
        layer = int(total.argmax())
        raise TraceError(f"layer {_id(layer, layer_ids)}: totals {total[layer]:.6g} tokens, more than 2**53")
    if array.dtype.kind != "f" or not (array % 1).any():
        return exact_integers("counts", array)
    return array


def tidy(values: Any, source: str, layer_ids: tuple[int, ...] = ()) -> Trace:
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
    return Trace(kept, ids, source)


def _id(layer: int, layer_ids: tuple[int, ...]) -> int:
    return layer_ids[layer] if layer < len(layer_ids) else layer


def _refuse(array: NDArray[Any], bad: NDArray[np.bool_], fault: str, layer_ids: tuple[int, ...]) -> None:
    if bad.any():
        window, layer, column = (int(i) for i in np.argwhere(bad)[0])
        where = f"layer {_id(layer, layer_ids)}, column {column}"
        if len(array) > 1:
            where = f"window {window}, {where}"
        raise TraceError(f"{where}: {array[window, layer, column]} {fault}")
