"""OmniInfer's dumps: a text file per record step and rank, a line per layer, tabs between the rank's experts."""

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
from moeopt.traces.csv_matrix import parse_csv
from moeopt.traces.ranks import complete_steps, refuse_missing
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.trace import Trace

NAME = re.compile(r"activation_counts_recordstep_(0|[1-9][0-9]{0,14})_rank_(0|[1-9][0-9]{0,8})\.txt(\.gz|\.zst)?")


def read_dumps(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Put the experts of all ranks side by side, record step by record step.

    Expert ids are places: rank ``r`` of ``n`` experts holds ``[r*n, (r+1)*n)``, as it does where the
    engine runs without redundant experts. Newer releases write all places into rank 0's file, which
    ``num_experts`` tells apart from a single rank's.

    Raises
    ------
    TraceError
        Names file, line and column of what is not a count, and the ranks or steps that are missing.
    """
    holders: dict[int, dict[int, NDArray[Any]]] = {}
    digest = hashlib.sha256()
    shape: tuple[int, ...] | None = None
    for path in sorted(files):
        step, rank = (int(number) for number in NAME.fullmatch(path.name).groups()[:2])  # type: ignore[union-attr]
        with request.opened(path, digest) as file:
            lines = [line.rstrip(b"\t ").replace(b"\t", b",") for line in file.rest().splitlines()]
            counts = parse_csv(b"\n".join(lines), "layer")
            if shape is not None and counts.shape != shape:
                first = printable(min(files).name, 80)
                raise TraceError(f"{list(counts.shape)} layers and experts, {first} has {list(shape)}")
            shape = counts.shape
        holders.setdefault(step, {})[rank] = counts
    assert shape is not None
    ranks = {rank for step in holders.values() for rank in step}
    try:
        if ranks == {0} and not request.single_rank and request.num_experts != shape[1]:
            raise TraceError(
                f"all files are rank 0's, of {shape[1]} experts: either those of other ranks are missing, or rank 0 "
                f"wrote all, as newer releases do; num_experts={shape[1]} (or single_rank=True, --single-rank) says so"
            )
        if not request.single_rank:
            refuse_missing(ranks)
        steps, note = complete_steps("record step", holders, ranks)
        request.check_experts(shape[1] * len(ranks))
        recording = Recording(shape[0], shape[1] * len(ranks), steps_per_window=request.steps_per_window)
        for step in steps:
            recording.add(np.concatenate([holders[step][rank] for rank in sorted(ranks)], axis=1)[None])
        return recording.trace(folder.resolve().name, digest.hexdigest(), note=note and f"record steps: {note}")
    except InputError as error:
        raise TraceError(f"{printable(folder)}: {error}") from None
