"""SGLang's ``per_pass`` and ``per_token`` recordings: one ``.pt`` per rank, which is that rank's share of the load."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import shown
from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.load import beyond_total
from moeopt.traces.matrix import refuse_too_many
from moeopt.traces.opened import Opened
from moeopt.traces.ranks import complete_steps, listed, refuse_missing
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.sglang import as_array, keys_of
from moeopt.traces.slots import SlotMap
from moeopt.traces.torch_file import load_pt
from moeopt.traces.trace import Trace, narrowest, refuse_faults

_MOST_RANKS = 2**16
_MAP = "last_physical_to_logical_map"
_NAME = re.compile(r"expert_distribution_recorder_[0-9.]+_([0-9]{1,9})\.pt(\.gz|\.zst)?")


def read_records(document: dict[Any, Any], path: Path, request: Request) -> NDArray[Any]:
    """Return ``[passes, layers, experts]`` of one file, in the order of the passes' ids.

    The records of one pass (the halves of an overlapped batch, or ranks that were put together) are
    added up.

    Raises
    ------
    TraceError
        Unless asked for, for the file of a single rank, which is not the load; names the ranks that are missing.
    """
    file = _File(document)
    if file.ranks and not request.single_rank:
        others = (file.ranks | _ranks_beside(path)) - file.ranks
        below = set(range(max(file.ranks))) - file.ranks
        if len(file.ranks) == 1 or below:
            missing = listed(others | below) if others | below else "the ranks above 0"
            missing += " are" if others else " and perhaps higher ones are" if below else " are"
            there = "; give the folder that holds all" if others else ""
            raise TraceError(
                f"holds the share of {listed(file.ranks)} only, and the load is the sum over all ranks: {missing} "
                f"missing{there} (single_rank=True, --single-rank, takes the share for the load)"
            )
    passes: dict[Any, NDArray[Any]] = {}
    for name, key, counts in file.counts():
        passes[key] = _added(passes.get(key), file.slots.experts(counts), name)
    return np.stack([passes[key] for key in (sorted(passes) if file.ids_are_numbers else passes)])


def read_rank_files(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Add up the files of all ranks, pass by pass; a pass that only some ranks recorded is left out at either end.

    Raises
    ------
    TraceError
        Names the file and record that cannot be used, and the ranks or passes that are missing.
    """
    shares, digest = _Shares(), hashlib.sha256()
    for path in sorted(files):
        with request.opened(path, digest) as opened:
            shares.add(_loaded(opened), printable(path.name, 80))  # no file outlives its turn: they are large
    try:
        if not request.single_rank:
            shares.refuse_missing()
        passes, note = shares.whole_passes()
        shapes = {shares.passes[number].shape for number in passes}
        if len(shapes) > 1:
            raise TraceError(f"forward passes of several shapes: {printable(sorted(shapes), 60)}")
        recording = Recording(*shapes.pop(), steps_per_window=request.steps_per_window)
        for number in passes:
            recording.add(shares.passes.pop(number)[None])
        trace = recording.trace(folder.resolve().name, digest.hexdigest(), note=note)
        request.check_experts(trace.num_experts)
        return trace
    except InputError as error:
        raise TraceError(f"{printable(folder)}: {error}") from None


def _loaded(opened: Opened) -> _File:
    document = load_pt(opened.seekable())
    if not isinstance(document, dict) or "records" not in document:
        raise TraceError(f"no records, and the folder holds several .pt files; it holds {keys_of(document)}")
    return _File(document)


class _Shares:
    """The sum of the ranks' shares so far, ``[layers, experts]`` of every pass, and which ranks are in it."""

    def __init__(self) -> None:
        self.passes: dict[int, NDArray[Any]] = {}
        self._files: dict[int, dict[int, str]] = {}
        self._used: dict[int, NDArray[np.bool_]] = {}
        self._counted: dict[int, list[str]] = {}

    def add(self, file: _File, name: str) -> None:
        """Add the records of one rank, one by one: all passes of all ranks wait here, and take memory."""
        if len(file.ranks) != 1 or not file.ids_are_numbers:
            raise TraceError("its records must all have one rank and a forward_pass_id that is a number")
        (rank,) = file.ranks
        num_slots = file.slots.shape[1]
        if any(used.size != num_slots for used in self._used.values()):
            raise TraceError(f"{num_slots} slots, other ranks have {next(iter(self._used.values())).size}")
        used, counted = self._used.setdefault(rank, np.zeros(num_slots, dtype=bool)), hashlib.sha256()
        for record, number, counts in file.counts():
            files = self._files.setdefault(number, {})
            if files.setdefault(rank, name) != name:
                raise TraceError(f"holds forward pass {number} of rank {rank}, as does {files[rank]}")
            self.passes[number] = _added(self.passes.get(number), file.slots.experts(counts), record)
            used |= counts.any(axis=0)
            counted.update(f"{number} {counts.dtype}".encode() + counts.tobytes())
        self._counted.setdefault(rank, []).append(counted.hexdigest())

    @property
    def alike(self) -> bool:
        """Whether every rank counted the same, as in plain tensor parallelism."""
        first = sorted(next(iter(self._counted.values())))
        return all(sorted(prints) == first for prints in self._counted.values())

    def refuse_missing(self) -> None:
        ranks, num_slots = self._used, next(iter(self._used.values())).size
        if len(ranks) == 1:
            raise TraceError(
                f"holds the share of {listed(ranks)} only, and the load is the sum over all ranks "
                "(single_rank=True, --single-rank, takes the share for the load)"
            )
        refuse_missing(ranks, _ranks_of_shares(ranks))
        if not self.alike and num_slots % len(ranks):
            raise TraceError(
                f"{len(ranks)} ranks cannot hold {num_slots} slots evenly: are files missing? (single_rank=True, "
                "--single-rank, takes what is there)"
            )

    def whole_passes(self) -> tuple[list[int], str]:
        """Passes that all ranks hold, and what there is to say about the sum."""
        whole, left_out = complete_steps("forward pass", self._files, self._used)
        notes = [f"forward passes: {left_out}"] if left_out else []
        if self.alike and len(self._used) > 1:
            notes.append(f"all ranks counted the same tokens: the loads are {len(self._used)} times too large")
        return whole, "; ".join(notes)


class _File:
    """One file, looked through: the ranks of its records, the ids of its passes, and what its slots held."""

    def __init__(self, document: dict[Any, Any]) -> None:
        records = document["records"]
        if not isinstance(records, list | tuple) or not records:
            raise TraceError("records is not a list with at least one record")
        if _MAP not in document:
            raise TraceError(f"records need {_MAP} to turn slots into experts")
        phy2log = as_array(_MAP, document[_MAP])
        refuse_too_many("records", (len(records), *phy2log.shape))
        self.slots = SlotMap(_MAP, phy2log)
        self._records = records
        known = [record if isinstance(record, dict) else {} for record in records]
        self.ranks = {_rank(record, number) for number, record in enumerate(known) if "rank" in record}
        self._keys = [record.get("forward_pass_id") for record in known]
        self.ids_are_numbers = all(isinstance(key, int) for key in self._keys)

    def counts(self) -> Iterator[tuple[str, Any, NDArray[Any]]]:
        """Name, pass and checked ``[layers, slots]`` of every record."""
        for number, (record, key) in enumerate(zip(self._records, self._keys, strict=True)):
            name = f"record {number}"
            counts = _slot_counts(record, self.slots.shape, name)
            yield name, key if isinstance(key, int | str) else ("record", number), counts


def _rank(record: dict[Any, Any], number: int) -> int:
    rank = record["rank"]
    if type(rank) is not int or not 0 <= rank < _MOST_RANKS:
        raise TraceError(f"record {number}: rank must be a number from 0 to {_MOST_RANKS - 1}, got {shown(rank)}")
    return rank


def _slot_counts(record: Any, shape: tuple[int, int], name: str) -> NDArray[Any]:
    """``[layers, slots]`` counts of one record, wide enough to be added up."""
    if isinstance(record, dict) and "global_physical_count" in record:
        counts = as_array("global_physical_count", record["global_physical_count"])
    elif isinstance(record, dict) and "topk_ids_of_layer" in record:
        counts = _counted(as_array("topk_ids_of_layer", record["topk_ids_of_layer"]), shape, name)
    else:
        raise TraceError(f"{name}: no global_physical_count and no topk_ids_of_layer")
    if counts.shape != shape:
        raise TraceError(f"{name}: shape {printable(counts.shape, 60)}, but the slot map has {shape}")
    if counts.dtype.kind not in "iuf":
        raise TraceError(f"{name}: counts must be numbers, got {counts.dtype}")
    return _checked(counts, name).astype(np.float64 if counts.dtype.kind == "f" else np.int64)


def _counted(ids: NDArray[Any], shape: tuple[int, int], name: str) -> NDArray[Any]:
    """``[layers, slots]`` counts of ``ids [layers, tokens, top_k]``, slots or -1."""
    layers, slots = shape
    if ids.ndim != 3 or len(ids) != layers or ids.dtype.kind not in "iu":
        raise TraceError(f"{name}: topk_ids_of_layer must be [{layers}, tokens, top_k] of slots")
    if ids.size and not -1 <= ids.min() <= ids.max() < slots:
        raise TraceError(f"{name}: topk_ids_of_layer must be slots from 0 to {slots - 1}, or -1")
    at = ids.astype(np.int64) + (np.arange(layers) * slots)[:, None, None]
    return np.bincount(at[ids >= 0], minlength=layers * slots).reshape(shape)


def _checked(counts: NDArray[Any], name: str) -> NDArray[Any]:
    """Refuse what is no count, and a layer of more than 2**53 tokens, below which no sum is rounded."""
    try:
        refuse_faults(counts[None])
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    if beyond := beyond_total(counts[None]):
        layer, total = beyond
        raise TraceError(f"{name}: layer {layer}: totals {total} tokens, more than 2**53")
    return counts


def _added(before: NDArray[Any] | None, counts: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the sum of ``[layers, experts]`` so far, in as few bits as it needs."""
    if before is not None and before.shape != counts.shape:
        raise TraceError(f"{name}: {list(counts.shape)} layers and experts, other ranks have {list(before.shape)}")
    if before is not None:  # two numbers up to 2**53 cannot wrap
        counts = _checked(counts + before, f"{name}, added to those before it")
    return counts.astype(narrowest(counts[None]))


def _ranks_beside(path: Path) -> set[int]:
    """Ranks of the files beside ``path``, by the names that SGLang gives them."""
    try:
        names = [_NAME.fullmatch(entry.name) for entry in path.parent.iterdir()] if _NAME.fullmatch(path.name) else []
    except OSError:
        return set()
    return {int(name[1]) for name in names if name}


def _ranks_of_shares(used: dict[int, NDArray[np.bool_]]) -> int:
    """How many ranks there must have been, where each counted its own slots only; 0 where that says nothing.

    DeepEP's low-latency dispatch counts on the rank that owns a slot. Then the ranks' counts lie
    in different shares of the slots, and how wide these are tells how many ranks share them.
    """
    sizes = {slots.size for slots in used.values()}
    if len(sizes) != 1 or not all(slots.any() for slots in used.values()):
        return 0
    num_slots, least = sizes.pop(), max(used) + 1
    for num_ranks in range(least, num_slots + 1):
        width, rest = divmod(num_slots, num_ranks)
        if not rest and all(_within(slots, rank * width, width) for rank, slots in used.items()):
            return num_ranks
    return 0


def _within(slots: NDArray[np.bool_], start: int, width: int) -> bool:
    where = np.flatnonzero(slots)
    return bool(start <= where[0] and where[-1] < start + width)
