"""vLLM's EPLB statistics as JSON Lines: the load of every slot, and what the slots held, step after step."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeopt._text import printable
from moeopt.errors import TraceError
from moeopt.traces.json_lines import JsonLines
from moeopt.traces.json_numbers import number_array
from moeopt.traces.opened import Opened
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.slots import SlotMap
from moeopt.traces.trace import Trace, refuse_faults

STATS, META, MAPPING = "eplb_load_stats", "eplb_load_meta", "eplb_initial_mapping"


def is_statistics(document: Any) -> bool:
    """Whether a line is of vLLM's statistics."""
    return isinstance(document, dict) and isinstance(document.get("record_type"), str)


def read_statistics(file: Opened, lines: JsonLines, request: Request) -> Trace:
    """Add up the slots of every line to experts, by the line's own ``p2l_map``.

    Both revisions are read: ``num_ranks`` in every line, or a line ``eplb_load_meta`` that says it once.
    Lines of other types, which tools put in between, are passed over.

    Raises
    ------
    TraceError
        Names the line, and layer and slot of what is wrong.
    """
    reader = _Lines(request)
    for number, record in lines:
        try:
            reader.take(record)
        except TraceError as error:
            raise TraceError(f"line {number}: {error}") from None
    if reader.recording is None:
        held = f"; it holds a placement ({MAPPING})" if reader.has_mapping else ""
        raise TraceError(f"no line of record_type {STATS}{held}")
    return reader.recording.trace(file.source, file.sha256)


class _Lines:
    def __init__(self, request: Request) -> None:
        self.recording: Recording | None = None
        self.has_mapping = False
        self._request = request
        self._meta: dict[str, Any] = {}
        self._map: tuple[Any, SlotMap] | None = None
        self._shape: tuple[int, int] | None = None

    def take(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise TraceError(f"expected an object with a record_type, got {type(record).__name__}")
        kind = record.get("record_type")
        self.has_mapping |= kind == MAPPING
        if kind not in (META, STATS):
            return
        if record.get("version") != 1:
            raise TraceError(f"{kind} of version {printable(record.get('version'), 40)}; version 1 is read")
        if kind == META:
            self._take_meta(record)
        else:
            self._take_stats(record)

    def _take_meta(self, record: dict[str, Any]) -> None:
        said = {name: record.get(name) for name in ("num_ranks", "num_layers", "num_redundant_experts")}
        for name, value in said.items():
            if type(value) is not int or value < 0:
                raise TraceError(f"{META}: {name} must be a number, got {printable(value, 40)}")
        if self._meta and self._meta != said:
            raise TraceError(f"a second {META}, which says something else than the first")
        self._meta = said

    def _take_stats(self, record: dict[str, Any]) -> None:
        for name in ("expert_load", "p2l_map"):
            if name not in record:
                raise TraceError(f"{STATS} has no {name}")
        if self._map is None or self._map[0] != record["p2l_map"]:
            self._map = record["p2l_map"], SlotMap("p2l_map", number_array("p2l_map", record["p2l_map"]))
        slots = self._map[1]
        load = number_array("expert_load", record["expert_load"])
        if load.shape != slots.shape:
            raise TraceError(f"expert_load has shape {printable(load.shape, 60)}, p2l_map has {slots.shape}")
        self._check(record, slots)
        refuse_faults(load[None])
        if load.sum(axis=1).max() > 2**53:
            raise TraceError("a layer totals more than 2**53 tokens")
        shape = slots.shape[0], slots.num_experts
        if self.recording is None:
            self._request.check_experts(slots.num_experts)
            self.recording = Recording(*shape, steps_per_window=self._request.steps_per_window)
            self._shape = shape
        if shape != self._shape:
            raise TraceError(f"{shape[0]} layers of {shape[1]} experts, the lines before have {self._shape}")
        experts = slots.experts(load)
        self.recording.add((experts if (experts % 1).any() else experts.astype(np.int64))[None])

    def _check(self, record: dict[str, Any], slots: SlotMap) -> None:
        """Compare a line with what the file or the line itself says about its shape."""
        layers, num_slots = slots.shape
        ranks = record.get("num_ranks", self._meta.get("num_ranks"))
        if ranks is None:
            raise TraceError(f"neither num_ranks nor a line {META} before it")
        if type(ranks) is not int or ranks < 1 or num_slots % ranks:
            raise TraceError(f"{num_slots} slots are not a multiple of num_ranks={printable(ranks, 40)}")
        said = self._meta
        if said and (ranks != said["num_ranks"] or layers != said["num_layers"]):
            raise TraceError(
                f"{layers} layers on {ranks} ranks, but {META} says num_layers={said['num_layers']}, "
                f"num_ranks={said['num_ranks']}"
            )
        if said and num_slots - slots.num_experts != said["num_redundant_experts"]:
            raise TraceError(
                f"{num_slots} slots of {slots.num_experts} experts, but {META} says "
                f"num_redundant_experts={said['num_redundant_experts']}"
            )
