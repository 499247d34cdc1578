"""SGLang's expert statistics: the ``stat`` dump (``.pt``) and JSON ``logical_count``."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import to_numpy
from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.traces.json_numbers import number_array
from moeopt.traces.matrix import refuse_too_many

_LONGEST_LIST = 2**24  # numbers of a list in a .pt file, where a few bytes can name very many


RING_NOTE = (
    "all {} rows of SGLang's ring buffer are filled: if it went round, the windows are not in time order "
    "(--expert-distribution-recorder-buffer-size -1 keeps all)"
)


def counts_from_pt(document: Any) -> NDArray[Any]:
    """Counts of a ``stat`` dump, or of a bare tensor, two- or three-dimensional."""
    if isinstance(document, dict) and "logical_count" in document:
        return as_array("logical_count", document["logical_count"])
    if hasattr(document, "detach"):
        return as_array("the tensor", document)
    raise TraceError(f"no logical_count and no records in the dump; it holds {keys_of(document)}")


def ring_note(counts: NDArray[Any]) -> str:
    """Say that the order of a ``stat`` dump's rows is not known, "" where it is.

    The recorder writes into a ring buffer of rows that begin as zeros, and the dump does not say
    where in it the last step went. Where the first or the last row is empty, it did not go round.
    """
    if counts.ndim != 3 or len(counts) < 2 or not (counts[0].any() and counts[-1].any()):
        return ""
    return RING_NOTE.format(len(counts))


def counts_from_json(document: Any) -> NDArray[np.float64]:
    """Counts of ``{"logical_count": [...]}`` or of a bare list, two- or three-dimensional."""
    if isinstance(document, dict):
        if "logical_count" not in document:
            raise TraceError(f"no logical_count in the JSON; it holds {keys_of(document)}")
        return number_array("logical_count", document["logical_count"])
    return number_array("the list", document)


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Numpy array of a tensor (or nested list) found in a dump, checked before any memory is taken.

    A tensor may repeat one number, and a list may hold one list, any number of times.
    """
    if isinstance(value, list):
        number_array(name, value, _LONGEST_LIST)
        return to_numpy(name, value)
    try:
        refuse_too_many(name, getattr(value, "shape", ()))
        return to_numpy(name, value)
    except TraceError:
        raise
    except Exception as error:  # a tensor can be of many a kind
        raise TraceError(f"{name} is not a plain array of numbers: {parser_reason(error)}") from None


def keys_of(document: Any) -> str:
    """What a document holds, for an error message."""
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    keys = [key if isinstance(key, str | int) else f"a {type(key).__name__}" for key in islice(document, 8)]
    names = [printable(key, 40) for key in keys]
    return ("the keys " + ", ".join(names) + (", ..." if len(document) > 8 else "")) if names else "nothing"
