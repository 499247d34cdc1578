"""SGLang's expert statistics: the ``stat`` and ``per_pass`` dumps (``.pt``) and JSON ``logical_count``."""

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
from moeopt.traces.trace import as_counts, refuse_faults

_LONGEST_LIST = 2**24  # numbers of a list in a .pt file, where a few bytes can name very many


def counts_from_pt(document: Any) -> NDArray[Any]:
    """Counts of a ``stat`` or ``per_pass`` dump, or of a bare tensor, two- or three-dimensional."""
    if isinstance(document, dict) and "logical_count" in document:
        return as_array("logical_count", document["logical_count"])
    if isinstance(document, dict) and "records" in document:
        return _counts_from_records(document)
    if hasattr(document, "detach"):
        return as_array("the tensor", document)
    raise TraceError(f"no logical_count and no records in the dump; it holds {keys_of(document)}")


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


def _counts_from_records(document: dict[Any, Any]) -> NDArray[Any]:
    """Sum each forward pass's slot counts over the slots of an expert; one pass = one window.

    The records of one pass (its ranks, and the halves of an overlapped batch) are added up.
    """
    records = document["records"]
    if not isinstance(records, list | tuple) or not records:
        raise TraceError("records is not a list with at least one record")
    if "last_physical_to_logical_map" not in document:
        raise TraceError("records need last_physical_to_logical_map to turn slots into experts")
    phy2log = as_array("last_physical_to_logical_map", document["last_physical_to_logical_map"])
    if phy2log.ndim != 2 or phy2log.size == 0 or phy2log.dtype.kind not in "iu" or phy2log.min() < 0:
        raise TraceError("last_physical_to_logical_map must be [layers, slots] of expert ids")
    refuse_too_many("records", (len(records), *phy2log.shape))
    passes: dict[Any, NDArray[Any]] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict) or "global_physical_count" not in record:
            raise TraceError(f"record {number}: no global_physical_count")
        counts = _slot_counts(record["global_physical_count"], phy2log.shape, f"record {number}")
        key = record.get("forward_pass_id")
        key = key if isinstance(key, int | str) else ("record", number)
        if key in passes:  # two numbers up to 2**53 cannot wrap
            counts = _checked(passes[key] + counts, f"record {number}, added to those before it")
        passes[key] = counts
    num_experts = int(phy2log.max()) + 1
    if num_experts > phy2log.shape[1]:
        raise TraceError(f"last_physical_to_logical_map names expert {num_experts - 1} with {phy2log.shape[1]} slots")
    slots = as_counts(np.stack(list(passes.values())))  # no layer totals more than 2**53, so that no sum is rounded
    flat = (np.arange(len(phy2log))[:, None] * num_experts + phy2log.astype(np.int64)).ravel()
    logical = np.zeros((len(slots), len(phy2log) * num_experts), dtype=slots.dtype)
    for counts, summed in zip(slots, logical, strict=True):
        summed[:] = np.bincount(flat, counts.ravel(), minlength=summed.size)
    return logical.reshape(*slots.shape[:2], num_experts)


def _slot_counts(value: Any, shape: tuple[int, ...], record: str) -> NDArray[Any]:
    """``[layers, slots]`` counts of one record, wide enough to be added up."""
    counts = as_array("global_physical_count", value)
    if counts.shape != shape:
        raise TraceError(f"{record}: shape {printable(counts.shape, 60)}, but the slot map has {shape}")
    if counts.dtype.kind not in "iuf":
        raise TraceError(f"{record}: counts must be numbers, got {counts.dtype}")
    return _checked(counts, record).astype(np.float64 if counts.dtype.kind == "f" else np.int64)


def _checked(counts: NDArray[Any], record: str) -> NDArray[Any]:
    try:
        refuse_faults(counts[None])
    except TraceError as error:
        raise TraceError(f"{record}: {error}") from None
    return counts
