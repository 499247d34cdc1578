"""TensorRT-LLM's expert statistics: ``meta_info.json`` and one ``rank{r}.safetensors`` per rank, added up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import InputError, TraceError
from moeopt.load import MAX_TOTAL
from moeopt.traces.json_numbers import parse_json
from moeopt.traces.matrix import refuse_too_many
from moeopt.traces.ranks import complete_steps, refuse_missing
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.trace import MAX_LAYERS, Trace, narrowest, refuse_faults

META = "meta_info.json"
NAME = re.compile(r"rank(0|[1-9][0-9]{0,8})\.safetensors")
_KEY = re.compile(r"([0-9]{1,15})_([0-9]{1,9})")
_BLOCK = 2**20  # counts added up over the ranks in one go
_MAPPED = 2**27  # bytes of a file that are looked at before their pages are given back


def read_rank_statistics(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Add up the ranks' counts of every iteration and layer; the iterations are windows, in order.

    Layer ids are the model's own (3 to 60 for DeepSeek-V3). Iterations that some ranks lack are left
    out at either end, and refused in the middle.

    Raises
    ------
    TraceError
        Names the file and the iteration and layer of what cannot be used, and the ranks that are missing.
    """
    paths = {int(NAME.fullmatch(path.name)[1]): path for path in files}  # type: ignore[index]
    digest = hashlib.sha256()
    num_experts, num_ranks = _meta(folder / META, request, digest)
    holders: dict[int, dict[int, frozenset[int]]] = {}
    for path in sorted(files):
        (rank,) = (rank for rank, other in paths.items() if other == path)
        with request.opened(path, digest):
            for iteration, layers in _layers_by_iteration(path).items():
                holders.setdefault(iteration, {})[rank] = layers
    try:
        if not request.single_rank:
            refuse_missing(paths, num_ranks)
        iterations, note = complete_steps("iteration", holders, paths)
        layers = holders[iterations[0]][min(paths)]
        for iteration in iterations:
            for rank, held in holders[iteration].items():
                if held != layers:
                    odd = min(held ^ layers)
                    raise TraceError(f"iteration {iteration}: rank {rank} differs from others in layer {odd}")
        ids = tuple(sorted(layers))
        if len(ids) > MAX_LAYERS:
            raise TraceError(f"{len(ids)} layers, at most {MAX_LAYERS} are read")
        refuse_too_many("the folder", (len(iterations), len(ids), num_experts))
        recording = Recording(len(ids), num_experts, layer_ids=ids, steps_per_window=request.steps_per_window)
        for piece in _sums([paths[rank] for rank in sorted(paths)], iterations, ids, num_experts):
            recording.add(piece)
        return recording.trace(folder.resolve().name, digest.hexdigest(), note=note and f"iterations: {note}")
    except InputError as error:
        raise TraceError(f"{printable(folder)}: {error}") from None


def _meta(path: Path, request: Request, digest: Any) -> tuple[int, int]:
    """Return the number of experts, and of ranks where the file says it (else 0)."""
    with request.opened(path, digest) as file:
        document = parse_json(file.rest())
        found = document.get("num_experts") if isinstance(document, dict) else None
        if type(found) is not int or found < 1:
            raise TraceError(f"num_experts must be a number, got {printable(found, 40)}")
        request.check_experts(found)
        ranks = document.get("ep_size")
        return found, ranks if type(ranks) is int and 0 < ranks < 2**20 else 0


def _layers_by_iteration(path: Path) -> dict[int, frozenset[int]]:
    with _safe_open(path) as tensors:
        names = tensors.keys()
        if not names:
            raise TraceError("holds no tensors")
        pairs = np.empty((len(names), 2), dtype=np.int64)
        for number, name in enumerate(names):
            match = _KEY.fullmatch(name)
            if not match:
                raise TraceError(f"a tensor called '{printable(name, 40)}', expected iteration_layer")
            pairs[number] = int(match[1]), int(match[2])
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    iterations, starts = np.unique(pairs[:, 0], return_index=True)
    layers = np.split(pairs[:, 1], starts[1:])
    same: dict[bytes, frozenset[int]] = {}  # nearly all iterations have the same layers
    return {
        iteration: same.setdefault(held.tobytes(), frozenset(held.tolist()))
        for iteration, held in zip(iterations.tolist(), layers, strict=True)
    }


def _sums(
    paths: Sequence[Path], iterations: Sequence[int], layers: Sequence[int], num_experts: int
) -> Iterator[NDArray[Any]]:
    """Counts of all ranks together, some iterations at a time; rank by rank, in as few bits as they need."""
    step = max(1, _BLOCK // (len(layers) * num_experts))
    blocks = [iterations[start : start + step] for start in range(0, len(iterations), step)]
    sums: list[NDArray[Any]] = [np.zeros((len(block), len(layers), num_experts), dtype=np.int8) for block in blocks]
    for path in paths:
        for number, counts in enumerate(_blocks(path, blocks, layers, num_experts)):
            counts += sums[number]
            refuse_faults(counts)
            sums[number] = counts.astype(narrowest(counts))
    sums.reverse()
    while sums:
        yield sums.pop()


def _blocks(
    path: Path, blocks: Sequence[Sequence[int]], layers: Sequence[int], num_experts: int
) -> Iterator[NDArray[np.int64]]:
    """Counts of one rank, block by block.

    The library maps the file: what was looked at counts as memory of this process until it is closed.
    """
    at = 0
    while at < len(blocks):
        with _safe_open(path) as tensors:
            looked_at = 0
            while at < len(blocks) and looked_at < _MAPPED:
                counts = np.empty((len(blocks[at]), len(layers), num_experts), dtype=np.int64)
                for i, iteration in enumerate(blocks[at]):
                    for j, layer in enumerate(layers):
                        counts[i, j] = _counts(path, tensors, f"{iteration}_{layer}", num_experts)
                looked_at += counts.nbytes
                at += 1
                yield counts


def _counts(path: Path, tensors: Any, key: str, num_experts: int) -> NDArray[Any]:
    try:
        counts: NDArray[Any] = tensors.get_tensor(key)
        if counts.shape != (num_experts,) or counts.dtype.kind not in "iu":
            raise TraceError(f"{printable(counts.shape, 60)} of {counts.dtype}, expected [{num_experts}] integers")
        if counts.min() < 0 or counts.max() > MAX_TOTAL:
            refuse_faults(counts[None, None])
        return counts
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"{printable(path.name, 80)}: tensor {key}: {parser_reason(error)}") from None


def _safe_open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise TraceError(f"not a readable .safetensors file: {parser_reason(error)}") from None
