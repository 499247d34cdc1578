"""LoadMatrix: how many tokens every expert of every layer received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import integer, shown
from moeopt._arrays import ArrayFields, LayerIndex, exact_integers, frozen, layer_indices, to_numpy
from moeopt.errors import InputError

MAX_TOTAL = 2**53
"""The most tokens a layer may total: up to here every sum of counts is exact in float64."""

MIN_LOAD = 1e-300
"""The least positive load: shares and differences of smaller ones leave the normal floats."""

_SUMMANDS = 512  # so many numbers up to 2**53 add up to less than 2**63


@dataclass(frozen=True, eq=False)
class LoadMatrix(ArrayFields):
    """Tokens routed to every expert in a window, ``[layers, experts]``.

    Parameters
    ----------
    values
        ``[layers, experts]`` (or ``[experts]``, which is one layer): list, numpy array or torch
        tensor, finite and >= 0, of at most 2**53 tokens a layer; positive ones are at least
        1e-300. Integers are kept as int64, anything else as float64.
    layer_ids
        The trace's own number of each layer; ``0..layers-1`` by default. Readers drop all-zero
        (dense) layers and remember the ids of the others here.
    source
        Where the loads come from, for tables and file names.
    steps
        ``[steps, layers, experts]`` loads of the steps that ``values`` is the sum of, in time order;
        None where only the sum is known.

    Raises
    ------
    InputError
        For anything that is not a non-empty matrix of finite numbers >= 0, and for steps whose sum
        is not ``values``.

    Examples
    --------
    >>> LoadMatrix([[3, 1, 0, 4]]).values.shape
    (1, 4)
    """

    values: NDArray[np.int64] | NDArray[np.float64]
    layer_ids: tuple[int, ...] = ()
    source: str = "loads"
    steps: NDArray[np.int64] | NDArray[np.float64] | None = None

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(
            self, values: Any, layer_ids: tuple[int, ...] = (), source: str = "loads", steps: Any = None
        ) -> None: ...

    def __post_init__(self) -> None:
        array = np.atleast_2d(to_numpy("load", self.values))
        if array.ndim != 2 or array.size == 0:
            raise InputError(f"load must be [layers, experts] and not empty, got shape {array.shape}")
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
                array = array.astype(float) + 0.0  # no -0.0
        _refuse_first(array, ~np.isfinite(array), "finite")
        _refuse_first(array, array < 0, ">= 0")
        if array.dtype.kind == "f":
            _refuse_first(array, (array > 0) & (array < MIN_LOAD), f"0 or at least {MIN_LOAD:g}")
        else:
            array = exact_integers("load", array)
        if beyond := beyond_total(array[None]):
            layer, total = beyond
            raise InputError(f"load must total at most 2**53 tokens in every layer, got {total} in layer {layer}")
        object.__setattr__(self, "values", frozen(array))
        object.__setattr__(self, "layer_ids", checked_ids(self.layer_ids, len(array)))
        if self.steps is not None:
            object.__setattr__(self, "steps", self._checked_steps(to_numpy("steps", self.steps)))

    def _checked_steps(self, steps: NDArray[Any]) -> NDArray[Any]:
        if steps.shape[1:] != self.values.shape or not len(steps):
            layers, experts = self.values.shape
            raise InputError(f"steps must be [steps, {layers}, {experts}], got shape {steps.shape}")
        if not np.all(np.isfinite(steps)) or (steps < 0).any():
            raise InputError("steps must be finite and >= 0")
        total = steps.sum(axis=0, dtype=self.values.dtype)
        wrong = total != self.values if self.is_integer else ~np.isclose(total, self.values, rtol=1e-9, atol=0)
        if wrong.any():
            layer, expert = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"steps must add up to the load, got {total[layer, expert]} for {self.values[layer, expert]} "
                f"at layer {layer}, expert {expert}"
            )
        if steps.dtype.kind != self.values.dtype.kind:
            steps = steps.astype(self.values.dtype)
        return frozen(steps) if steps.flags.writeable else steps  # a trace's windows are shared, in their few bits

    @property
    def num_layers(self) -> int:
        """Layers."""
        return int(self.values.shape[0])

    @property
    def num_experts(self) -> int:
        """Experts per layer."""
        return int(self.values.shape[1])

    @property
    def is_integer(self) -> bool:
        """Whether the loads are counts (int64), for which partition makespans are integers."""
        return self.values.dtype.kind == "i"

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: LayerIndex) -> LoadMatrix:
        rows = layer_indices(index, self.num_layers)
        steps = None
        if self.steps is not None:
            steps = self.steps[:, rows]
            steps.setflags(write=False)
        return LoadMatrix(self.values[rows], tuple(self.layer_ids[i] for i in rows), self.source, steps)


def as_load(values: Any) -> LoadMatrix:
    """Return ``values`` as a LoadMatrix; a trace is summed over its windows, which become the ``steps``."""
    if isinstance(values, LoadMatrix):
        return values
    if hasattr(values, "windows") and hasattr(values, "total"):
        total = values.total()
        return LoadMatrix(total.values, total.layer_ids, total.source, values.windows)
    return LoadMatrix(values)


def checked_ids(layer_ids: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return the layers' own numbers, ``0..num_layers-1`` where none are given, or raise InputError."""
    if not hasattr(layer_ids, "__len__") or not hasattr(layer_ids, "__getitem__"):
        raise InputError(f"layer_ids must be a sequence of integers, got {shown(layer_ids)}")
    ids = tuple(integer("layer_ids", i, -(2**63), 2**63 - 1) for i in layer_ids) or tuple(range(num_layers))
    if len(ids) != num_layers:
        raise InputError(f"layer_ids must name every layer: {len(ids)} ids for {num_layers} layers")
    return ids


def beyond_total(windows: NDArray[Any]) -> tuple[int, int | float] | None:
    """Return the first layer of ``[windows, layers, experts]`` that totals more than 2**53, and its total.

    Exact for integers up to 2**63 and floats: rounded sums only tell which layers need a closer look.
    """
    total: int | float
    with np.errstate(over="ignore"):
        rounded = windows.sum(axis=(0, 2), dtype=float)
    for layer in np.flatnonzero(rounded > MAX_TOTAL * (1 - 1e-6)).tolist():  # n additions lose n * 2**-53 at most
        values = windows[:, layer].ravel()
        if values.dtype.kind != "f":
            total = _exact_sum(values)
            beyond = total > MAX_TOTAL
        elif rounded[layer] > MAX_TOTAL * (1 + 1e-6):
            total, beyond = float(rounded[layer]), True
        else:
            total, beyond = math.fsum(values), math.fsum([-MAX_TOTAL, *values.tolist()]) > 0
        if beyond:
            return layer, total
    return None


def _exact_sum(values: NDArray[Any]) -> int:
    if values.size and int(values.max()) > MAX_TOTAL:
        return sum(values.tolist())
    starts = range(0, values.size, _SUMMANDS)
    return sum(int(values[i : i + _SUMMANDS].sum()) for i in starts)


def _refuse_first(array: NDArray[Any], bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        layer, expert = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"load must be {rule}, got {array[layer, expert]} at layer {layer}, expert {expert}")
