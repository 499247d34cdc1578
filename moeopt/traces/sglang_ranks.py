"""SGLang's ``per_pass`` and ``per_token`` recordings: one ``.pt`` per rank, which is that rank's share of the load."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import printable
from moeopt.errors import InputError, TraceError
from moeopt.traces.matrix import refuse_too_many
from moeopt.traces.ranks import complete_steps, listed, refuse_missing
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.sglang import as_array, keys_of
from moeopt.traces.slots import SlotMap
from moeopt.traces.torch_file import load_pt
from moeopt.traces.trace import Trace, as_counts, refuse_faults

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
    share = _Share(document)
    if share.ranks and not request.single_rank:
        others = (share.ranks | _ranks_beside(path)) - share.ranks
        below = set(range(max(share.ranks))) - share.ranks
        if len(share.ranks) == 1 or below:
            missing = listed(others | below) if others | below else "the ranks above 0"
            missing += " are" if others else " and perhaps higher ones are" if below else " are"
            there = "; give the folder that holds all" if others else ""
            raise TraceError(
                f"holds the share of {listed(share.ranks)} only, and the load is the sum over all ranks: {missing} "
                f"missing{there} (single_rank=True, --single-rank, takes the share for the load)"
            )
    passes = sorted(share.passes) if share.ids_are_numbers else list(share.passes)
    return np.stack([share.passes[key] for key in passes])


def read_rank_files(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Add up the files of all ranks, pass by pass; a pass that only some ranks recorded is left out at either end.

    Raises
    ------
    TraceError
        Names the file and record that cannot be used, and the ranks or passes that are missing.
    """
    shares, digest = _Shares(), hashlib.sha256()
    for path in sorted(files):
        with request.opened(path, digest) as file:
            document = load_pt(file.seekable())
            if not isinstance(document, dict) or "records" not in document:
                raise TraceError(f"no records, and the folder holds several .pt files; it holds {keys_of(document)}")
            shares.add(_Share(document), printable(path.name, 80))
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


class _Shares:
    """The sum of the ranks' shares so far, ``[layers, experts]`` of every pass, and which ranks are in it."""

    def __init__(self) -> None:
        self.passes: dict[int, NDArray[Any]] = {}
        self._files: dict[int, dict[int, str]] = {}
        self._used: dict[int, NDArray[np.bool_]] = {}
        self._counted: dict[int, list[str]] = {}

    def add(self, share: _Share, file: str) -> None:
        if len(share.ranks) != 1 or not share.ids_are_numbers:
            raise TraceError("its records must all have one rank and a forward_pass_id that is a number")
        (rank,) = share.ranks
        if any(used.shape != share.used.shape for used in self._used.values()):
            raise TraceError(f"{share.used.size} slots, other ranks have {next(iter(self._used.values())).size}")
        for number, counts in share.passes.items():
            files = self._files.setdefault(number, {})
            if rank in files:
                raise TraceError(f"holds forward pass {number} of rank {rank}, as does {files[rank]}")
            files[rank] = file
            before = self.passes.get(number)
            if before is not None and before.shape != counts.shape:
                raise TraceError(
                    f"forward pass {number} of {list(counts.shape)} layers and experts, other ranks have "
                    f"{list(before.shape)}"
                )
            self.passes[number] = counts if before is None else _added(before, counts)
        self._used[rank] = self._used.get(rank, share.used) | share.used
        self._counted.setdefault(rank, []).append(share.fingerprint)

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


class _Share:
    """One file: ``[layers, experts]`` of every pass by its id, the ranks of its records, and the slots used."""

    def __init__(self, document: dict[Any, Any]) -> None:
        records = document["records"]
        if not isinstance(records, list | tuple) or not records:
            raise TraceError("records is not a list with at least one record")
        if _MAP not in document:
            raise TraceError(f"records need {_MAP} to turn slots into experts")
        phy2log = as_array(_MAP, document[_MAP])
        refuse_too_many("records", (len(records), *phy2log.shape))
        slots = SlotMap(_MAP, phy2log)
        self.ranks: set[int] = set()
        by_pass: dict[Any, NDArray[Any]] = {}
        for number, record in enumerate(records):
            counts = _slot_counts(record, slots.shape, f"record {number}")
            if isinstance(record.get("rank"), int) and 0 <= record["rank"] < 2**31:
                self.ranks.add(record["rank"])
            key = record.get("forward_pass_id")
            key = key if isinstance(key, int | str) else ("record", number)
            if key in by_pass:  # two numbers up to 2**53 cannot wrap
                counts = _checked(by_pass[key] + counts, f"record {number}, added to those before it")
            by_pass[key] = counts
        self.ids_are_numbers = all(isinstance(key, int) for key in by_pass)
        stacked = as_counts(np.stack(list(by_pass.values())))  # at most 2**53 per layer, so that no sum is rounded
        self.used: NDArray[np.bool_] = np.asarray(stacked.any(axis=(0, 1)))
        self.fingerprint = hashlib.sha256(repr(list(by_pass)).encode() + stacked.tobytes()).hexdigest()
        self.passes = {key: _narrow(slots.experts(counts)) for key, counts in zip(by_pass, stacked, strict=True)}


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


def _checked(counts: NDArray[Any], record: str) -> NDArray[Any]:
    try:
        refuse_faults(counts[None])
    except TraceError as error:
        raise TraceError(f"{record}: {error}") from None
    return counts


def _narrow(counts: NDArray[Any]) -> NDArray[Any]:
    """Very many passes wait for the other ranks' shares."""
    return counts.astype(np.int32) if counts.dtype.kind == "i" and counts.max(initial=0) < 2**31 else counts


def _added(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    wide = np.float64 if "f" in (first.dtype.kind, second.dtype.kind) else np.int64
    return _narrow(first.astype(wide) + second)


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
