"""Arrays in, read-only numpy out: the one place where loads and maps are converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import InputError


def to_numpy(name: str, values: Any) -> NDArray[Any]:
    """Return lists, numpy arrays and (CPU or GPU) torch tensors as a numeric numpy array."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        if not hasattr(np, str(tensor.dtype).removeprefix("torch.")):
            tensor = tensor.float()  # bfloat16 has no numpy twin; float32 holds it exactly
        values = tensor.numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} must be a rectangular array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold numbers, got dtype {array.dtype}")
    return array


def exact_integers(name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    """Return ``array`` as int64, refusing any value that would change."""
    with np.errstate(invalid="ignore"):
        integers = array.astype(np.int64)
    if not np.array_equal(integers, array):
        where = tuple(int(i) for i in np.argwhere(integers != array)[0])
        raise InputError(f"{name} must hold integers that fit 64 bits, got {array[where]} at {where}")
    return integers


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous read-only array that no caller's array shares memory with."""
    copy = np.array(array, order="C", copy=True)
    copy.setflags(write=False)
    return copy


LayerIndex = int | slice | Sequence[int] | NDArray[np.intp]
"""What selects layers: ``problem[i]``, ``problem[i:j]``, ``problem[[i, j]]``."""


class ArrayFields:
    """Equality, hash and pickling for frozen dataclasses that hold arrays.

    The generated ``==`` raises on arrays, the generated hash fails, and unpickled arrays come
    back writeable; these objects travel to worker processes, so all three matter.
    """

    _array_fields: tuple[str, ...] = ()
    __dataclass_fields__: dict[str, Any]

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self._state(), other._state()
        return all(_same(mine[name], theirs[name]) for name in mine)

    def __hash__(self) -> int:
        return hash(tuple(_hashable(value) for value in self._state().values()))

    def __getstate__(self) -> dict[str, Any]:
        return self._state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        floats = a.dtype.kind == "f" and b.dtype.kind == "f"
        return bool(np.array_equal(a, b, equal_nan=floats))
    return bool(type(a) is type(b) and a == b)


def _hashable(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return repr(value)
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def layer_indices(index: LayerIndex, num_layers: int) -> NDArray[np.intp]:
    """Turn ``problem[i]``, ``problem[i:j]`` or ``problem[[i, j]]`` into layer numbers."""
    try:
        return np.atleast_1d(np.arange(num_layers)[index])
    except (IndexError, TypeError) as error:
        raise IndexError(f"layer index {index!r} for {num_layers} layers: {error}") from None
