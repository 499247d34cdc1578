"""Recording: a trace that comes in piece by piece, and never takes much more memory than what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import printable
from moeopt.errors import TraceError
from moeopt.load import MAX_TOTAL
from moeopt.traces.trace import Trace, as_counts, id_of, kept_dtype, narrowest, part_of, pieces, refuse_faults

_BLOCK = 2**20  # counts taken in, and put away, in one go


def tidy(
    values: Any,
    source: str,
    layer_ids: Sequence[int] = (),
    sha256: str | None = None,
    *,
    steps_per_window: int | None = None,
    ordered: bool = True,
    note: str = "",
) -> Trace:
    """Trace of what a file holds, without the layers and the windows that have no load at all.

    Layers without load are dense layers; windows without load are unfilled rows of a ring buffer.
    ``layer_ids`` remembers which layers stayed; ``steps_per_window`` of the windows that have load
    are added up.

    Raises
    ------
    TraceError
        For anything that is not a count, and where nothing is left.
    """
    array = as_counts(values, layer_ids)
    recording = Recording(*array.shape[1:], layer_ids=layer_ids, steps_per_window=steps_per_window)
    recording.add(array)
    return recording.trace(source, sha256, ordered=ordered, note=note)


class Recording:
    """Counts of one step after another, checked and put away in the narrowest dtype that holds them.

    Parameters
    ----------
    num_layers, num_experts
        Shape of a step.
    layer_ids
        The layers' own numbers; ``0..num_layers-1`` by default.
    steps_per_window
        How many steps with load to add up to one window; None keeps them apart. The last window
        holds what is left.
    keep
        False only looks: nothing is put away, and the recording knows which steps and layers have
        load and what dtype they need.
    """

    def __init__(
        self,
        num_layers: int,
        num_experts: int,
        *,
        layer_ids: Sequence[int] = (),
        steps_per_window: int | None = None,
        keep: bool = True,
    ) -> None:
        self.layer_ids = layer_ids
        self.has_load = np.zeros(num_layers, dtype=bool)
        self.filled: list[NDArray[np.bool_]] = []
        self.kinds: set[np.dtype[Any]] = set()
        self._shape = num_layers, num_experts
        self._per_window = steps_per_window
        self._keep = keep
        self._seen = 0
        self._total: NDArray[Any] = np.zeros(num_layers, dtype=np.int64)
        self._open: NDArray[Any] | None = None
        self._in_open = 0
        self._waiting: list[NDArray[Any]] = []
        self._stored: list[NDArray[Any]] = []

    def add(self, steps: NDArray[Any], *, num_steps: int = 2) -> None:
        """Take in ``[steps, layers, experts]``; ``num_steps`` of the whole tells how a fault is named.

        Raises
        ------
        TraceError
            Names step, layer and column of what is not a count, or the layer of a total above 2**53.
        """
        block = max(1, _BLOCK // (self._shape[0] * self._shape[1]))
        for start in range(0, len(steps), block):
            self._add(steps[start : start + block], num_steps)

    def _add(self, steps: NDArray[Any], num_steps: int) -> None:
        for piece in pieces(steps.shape):
            window, layer, column = (part.start for part in piece)
            refuse_faults(
                steps[piece], self._seen + window, layer, column, num_windows=num_steps, layer_ids=self.layer_ids
            )
        self._seen += len(steps)
        kind = narrowest(steps)
        steps = steps.astype(kind, copy=False)
        filled: NDArray[np.bool_] = np.asarray(steps.any(axis=(1, 2)))
        self.filled.append(filled)
        self.has_load |= steps.any(axis=(0, 2))
        self.kinds.add(kind)
        self._count(steps)
        if not self._keep:
            return
        for window in self._windows(steps if filled.all() else steps[filled]):
            self._waiting.append(window)
        if sum(window.size for window in self._waiting) >= _BLOCK:
            self._put_away()

    def _count(self, steps: NDArray[Any]) -> None:
        """Refuse a layer whose total passes 2**53, before any sum of its counts could be rounded or wrap."""
        rounded = steps.sum(axis=(0, 2), dtype=np.float64)
        exact = steps.dtype.kind != "f" and rounded.max(initial=0) < 2**60
        self._total = self._total + (steps.sum(axis=(0, 2), dtype=np.int64) if exact else rounded)
        beyond = np.flatnonzero(self._total > MAX_TOTAL)
        if beyond.size:
            layer = int(beyond[0])
            total = self._total[layer]
            raise TraceError(
                f"layer {id_of(layer, self.layer_ids)}: totals {total} tokens by step {self._seen - 1}, more than 2**53"
            )

    def _windows(self, steps: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Add up the steps of every window; the last one stays open."""
        if self._per_window is None:
            yield steps
            return
        start = 0
        while start < len(steps):
            taken = steps[start : start + self._per_window - self._in_open]
            summed = taken.sum(axis=0, dtype=np.float64 if taken.dtype.kind == "f" else np.int64)
            self._open = summed if self._open is None else self._open + summed
            self._in_open += len(taken)
            start += len(taken)
            if self._in_open == self._per_window:
                yield self._close()

    def _close(self) -> NDArray[Any]:
        assert self._open is not None
        window, self._open, self._in_open = self._open[None], None, 0
        return window

    def _put_away(self) -> None:
        if self._waiting:
            windows = np.concatenate(self._waiting)
            self._stored.append(windows.astype(narrowest(windows), copy=False))
            self._waiting = []

    def trace(self, source: str, sha256: str | None, *, ordered: bool = True, note: str = "") -> Trace:
        """Return the trace of all that came in, without layers and steps that have no load; once only.

        Raises
        ------
        TraceError
            Where nothing has load.
        """
        if self._open is not None:
            self._waiting.append(self._close())
        self._put_away()
        layers = self.loaded_layers()
        num_windows = sum(map(len, self._stored))
        shape = num_windows, len(layers), self._shape[1]
        kinds = [stored.dtype for stored in self._stored]
        windows = np.empty(shape, dtype=kept_dtype(num_windows * len(layers) * self._shape[1], kinds))
        start = 0
        self._stored.reverse()
        while self._stored:  # each part is freed once it is copied
            part = self._stored.pop()
            windows[start : start + len(part)] = part if len(layers) == self._shape[0] else part[:, layers]
            start += len(part)
        if windows.dtype.kind == "f":
            windows += 0.0  # no -0.0
        return self.trace_of(windows, source, sha256, ordered=ordered, note=note)

    def loaded_layers(self) -> NDArray[np.intp]:
        """Layers with load, by position; TraceError where there are none."""
        layers = np.flatnonzero(self.has_load)
        if layers.size == 0:
            raise TraceError("every count is zero")
        return layers

    def trace_of(
        self, windows: NDArray[Any], source: str, sha256: str | None, *, ordered: bool = True, note: str = ""
    ) -> Trace:
        """Return the trace of ``windows``, counts that this recording has checked, without copying them."""
        windows.setflags(write=False)
        ids = tuple(id_of(int(layer), self.layer_ids) for layer in self.loaded_layers())
        empty = Trace(np.zeros((1, len(ids), 1), dtype=np.int64), ids, printable(source, 80), sha256, ordered, note)
        return part_of(empty, windows)
