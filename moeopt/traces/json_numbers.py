"""JSON text to arrays of numbers, with the place of whatever is not a number."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.traces.trace import MAX_TOTAL

_AXES = {1: ("column",), 2: ("layer", "column"), 3: ("window", "layer", "column")}


def parse_json(content: bytes) -> Any:
    """Return the JSON document, or raise TraceError."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not readable JSON: {error}") from None


def number_array(name: str, values: Any) -> NDArray[np.float64]:
    """Return nested lists of numbers, one to three deep, as float64.

    Raises
    ------
    TraceError
        Names window, layer and column of what is no number, or the list that has another length.
    """
    if not isinstance(values, list):
        raise TraceError(f"{name} must be a list of lists of numbers, got {_shown(values)}")
    shape: list[int] = []
    level: Any = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    if len(shape) not in _AXES:
        raise TraceError(f"{name} must have one to three dimensions, got {len(shape)}")
    _check(name, values, shape, ())
    return np.array(values, dtype=np.float64).reshape(shape)


def _check(name: str, values: Any, shape: list[int], where: tuple[int, ...]) -> None:
    axes = _AXES[len(shape)]
    place = ", ".join([name, *(f"{axis} {i}" for axis, i in zip(axes, where, strict=False))])
    if not isinstance(values, list):
        raise TraceError(f"{place}: expected a list, got {_shown(values)}")
    expected = shape[len(where)]
    if len(values) != expected or not values:
        raise TraceError(
            f"{place}: has {len(values)} entries, the first has {expected}" if values else f"{place}: empty"
        )
    if len(where) + 1 < len(shape):
        for i, part in enumerate(values):
            _check(name, part, shape, (*where, i))
    elif not set(map(type, values)) <= {int, float}:
        column = next(i for i, value in enumerate(values) if type(value) not in (int, float))
        raise TraceError(f"{place}, column {column}: {_shown(values[column])} is not a number")
    elif max(values) > MAX_TOTAL and max(values) != float("inf"):
        raise TraceError(f"{place}, column {values.index(max(values))}: the number is above 2**53")
    elif min(values) < -MAX_TOTAL:
        raise TraceError(f"{place}, column {values.index(min(values))}: the number is below -2**53")


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, list | dict) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."
