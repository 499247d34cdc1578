"""LoadMatrix: how many tokens every expert of every layer received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import ArrayFields, LayerIndex, exact_integers, frozen, layer_indices, to_numpy
from moeopt.errors import InputError

_MAX_TOTAL = 2**53  # below it every sum of counts is exact in float64


@dataclass(frozen=True, eq=False)
class LoadMatrix(ArrayFields):
    """Tokens routed to every expert in a window, ``[layers, experts]``.

    Parameters
    ----------
    values
        ``[layers, experts]`` (or ``[experts]``, which is one layer): list, numpy array or torch
        tensor, finite and >= 0. Integers are kept as int64, anything else as float64.
    layer_ids
        The trace's own number of each layer; ``0..layers-1`` by default. Readers drop all-zero
        (dense) layers and remember the ids of the others here.
    source
        Where the loads come from, for tables and file names.

    Raises
    ------
    InputError
        For anything that is not a non-empty matrix of finite numbers >= 0.

    Examples
    --------
    >>> LoadMatrix([[3, 1, 0, 4]]).values.shape
    (1, 4)
    """

    values: NDArray[np.int64] | NDArray[np.float64]
    layer_ids: tuple[int, ...] = ()
    source: str = "loads"

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(self, values: Any, layer_ids: tuple[int, ...] = (), source: str = "loads") -> None: ...

    def __post_init__(self) -> None:
        array = np.atleast_2d(to_numpy("load", self.values))
        if array.ndim != 2 or array.size == 0:
            raise InputError(f"load must be [layers, experts] and not empty, got shape {array.shape}")
        _refuse_first(array, ~np.isfinite(array), "finite")
        _refuse_first(array, array < 0, ">= 0")
        array = exact_integers("load", array) if array.dtype.kind in "bui" else array.astype(float) + 0.0  # no -0.0
        if float(array.sum(axis=1, dtype=float).max()) > _MAX_TOTAL:
            raise InputError("load must total at most 2**53 tokens in every layer")
        object.__setattr__(self, "values", frozen(array))
        ids = tuple(int(i) for i in self.layer_ids) or tuple(range(len(array)))
        if len(ids) != len(array):
            raise InputError(f"layer_ids must name every layer: {len(ids)} ids for {len(array)} layers")
        object.__setattr__(self, "layer_ids", ids)

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
        return LoadMatrix(self.values[rows], tuple(self.layer_ids[i] for i in rows), self.source)


def as_load(values: Any) -> LoadMatrix:
    """Return ``values`` as a LoadMatrix; a windowed trace is summed over its windows."""
    if isinstance(values, LoadMatrix):
        return values
    if hasattr(values, "total"):
        return as_load(values.total())
    return LoadMatrix(values)


def _refuse_first(array: NDArray[Any], bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        layer, expert = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"load must be {rule}, got {array[layer, expert]} at layer {layer}, expert {expert}")
