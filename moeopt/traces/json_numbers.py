"""JSON text to arrays of numbers, with the place of whatever is not a number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.load import MAX_TOTAL
from moeopt.traces.matrix import MAX_NUMBERS, refuse_too_many

_AXES = {1: ("column",), 2: ("layer", "column"), 3: ("window", "layer", "column")}


def parse_json(content: bytes) -> Any:
    """Return the JSON document, or raise TraceError."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not readable JSON: {parser_reason(error)}") from None


def number_array(name: str, values: Any, most: int = MAX_NUMBERS) -> NDArray[np.float64]:
    """Return nested lists of at most ``most`` numbers, one to three deep, as float64.

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
    refuse_too_many(name, shape, most)
    array = np.empty(shape)
    _fill(array, name, values, ())
    return array


def _fill(array: NDArray[np.float64], name: str, values: Any, where: tuple[int, ...]) -> None:
    """Write ``values``, nested lists, into ``array``; ``where`` says which part of the whole this is."""
    axes = _AXES[array.ndim + len(where)]
    place = ", ".join([name, *(f"{axis} {i}" for axis, i in zip(axes, where, strict=False))])
    if not isinstance(values, list):
        raise TraceError(f"{place}: expected a list, got {_shown(values)}")
    if not values:
        raise TraceError(f"{place}: empty")
    if len(values) != len(array):
        raise TraceError(f"{place}: has {len(values)} entries, the first has {len(array)}")
    if array.ndim > 1:
        for i, part in enumerate(values):
            _fill(array[i], name, part, (*where, i))
        return
    if not set(map(type, values)) <= {int, float}:
        column = next(i for i, value in enumerate(values) if type(value) not in (int, float))
        raise TraceError(f"{place}, column {column}: {_shown(values[column])} is not a number")
    suspects: Sequence[int]
    try:
        array[:] = values
        suspects = np.flatnonzero(np.abs(array) >= MAX_TOTAL).tolist()
    except OverflowError:  # an integer beyond all floats
        suspects = range(len(values))
    for column in suspects:
        if MAX_TOTAL < abs(values[column]) < math.inf:  # infinity is named with all that is not finite, later
            side = "above 2**53" if values[column] > 0 else "below -2**53"
            raise TraceError(f"{place}, column {column}: the number is {side}")


def _shown(value: Any) -> str:
    return printable(type(value).__name__ if isinstance(value, list | dict) else json.dumps(value), 40)
