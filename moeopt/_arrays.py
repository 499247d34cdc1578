"""Arrays in, read-only numpy out: the one place where loads and maps are converted."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import shown
from moeopt._text import parser_reason, printable
from moeopt.errors import InputError


def to_numpy(name: str, values: Any) -> NDArray[Any]:
    """Return lists, numeric tables, numpy arrays and (CPU or GPU) torch tensors as a numeric numpy array.

    Raises
    ------
    InputError
        For anything that is no dense, rectangular array of real numbers, in one line.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(f"{name} must hold numbers, got an array with masked entries")
    try:
        array = np.asarray(_from_tensor(name, values) if _is_tensor(values) else values)
    except InputError:
        raise
    except Exception as error:  # whatever a foreign type raises where it cannot become an array
        raise InputError(f"{name} must be a rectangular array of numbers: {parser_reason(error)}") from None
    if array.dtype.kind == "O" and hasattr(values, "iloc"):
        array = _from_table(values, array)
    if array.dtype.kind == "O":
        raise InputError(f"{name} must hold numbers, got dtype object{_first_odd(array)}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold numbers, got dtype {printable(array.dtype, 60)}")
    return array


def _is_tensor(values: Any) -> bool:
    """Whether this is a torch tensor, without importing torch: files have a ``detach`` too."""
    return hasattr(values, "detach") and hasattr(values, "is_complex")


def _from_tensor(name: str, values: Any) -> NDArray[Any]:
    refused = [
        ("nested", "is_nested", "torch.nested.to_padded_tensor"),
        ("meta", "is_meta", "a device that holds data"),
        ("quantised", "is_quantized", ".dequantize()"),
    ]
    for kind, flag, remedy in refused:
        if getattr(values, flag, False):
            raise InputError(f"{name} must be a dense tensor of real numbers, got a {kind} one; see {remedy}")
    if str(values.layout) != "torch.strided":
        layout = str(values.layout).removeprefix("torch.")
        raise InputError(f"{name} must be a dense tensor of real numbers, got layout {layout}; see .to_dense()")
    if values.is_complex():
        raise InputError(f"{name} must hold real numbers, got dtype {values.dtype}")
    tensor = values.detach().cpu().resolve_conj().resolve_neg()
    if not hasattr(np, str(tensor.dtype).removeprefix("torch.")):
        tensor = tensor.float()  # bfloat16 and the 8-bit floats have no numpy twin; float32 holds them exactly
    array: NDArray[Any] = tensor.numpy()
    return array


def _from_table(table: Any, objects: NDArray[Any]) -> NDArray[Any]:
    """Join a data frame's columns where each is numeric: together, those that can miss values become objects."""
    columns = [np.asarray(table.iloc[:, i]) for i in range(objects.shape[1])] if objects.ndim == 2 else []
    numeric = columns and all(column.dtype.kind in "iuf" for column in columns)
    return np.stack(columns, axis=1) if numeric else objects


def _first_odd(array: NDArray[Any]) -> str:
    """Say which entry of an object array is no number, or too large a one."""
    for where, value in np.ndenumerate(array):
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            return f": {shown(value)} at {where}" if where else f": {shown(value)}"
    return ""


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

    __dataclass_fields__: dict[str, Any]

    def _compared(self) -> list[str]:
        return [name for name, field in self.__dataclass_fields__.items() if field.compare]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self._compared())

    def __hash__(self) -> int:
        return hash(tuple(_hashable(getattr(self, name)) for name in self._compared()))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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
