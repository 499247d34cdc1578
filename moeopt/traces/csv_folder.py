"""The original notebook's recordings: a folder with one headerless CSV per layer.

Row = forward pass, column = expert, layers in natural order of the file names.
"""

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
from moeopt.traces.matrix import refuse_column_numbers, refuse_too_many
from moeopt.traces.recording import tidy
from moeopt.traces.request import Request
from moeopt.traces.trace import Trace, as_counts


def read_csv_folder(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Read every one of ``files``, the CSVs of ``folder``, as one layer.

    Every row becomes a window where all layers have the same number of rows; otherwise rows
    cannot be matched up and are summed to one window. Layer ids are the numbers in the file names
    where exactly one number differs from file to file, else ``0..layers-1``.

    Raises
    ------
    TraceError
        Names file, line and column of what is not a count, or the file that does not fit the others.
    """
    files = sorted(files, key=_natural)
    ids = layer_ids([file.name.partition(".csv")[0] for file in files])
    numbers = dict(zip(files, ids, strict=True))
    digest, read = hashlib.sha256(), {}
    for file in sorted(files):
        with request.opened(file, digest) as opened:
            read[file] = _parse_layer(opened.rest(), numbers[file])
    layers, first = [read[file] for file in files], files[0]
    for file, layer in zip(files, layers, strict=True):
        if layer.shape[1] != layers[0].shape[1]:
            other = f"{printable(first.name, 80)} has {layers[0].shape[1]}"
            raise TraceError(f"{printable(file)}: {layer.shape[1]} columns, but {other}")
    note = ""
    if len({len(layer) for layer in layers}) > 1:
        layers = [layer.sum(axis=0, keepdims=True) for layer in layers]
        note = "layers have different numbers of rows: all are added up"
    try:
        refuse_too_many("the folder", (len(layers), *layers[0].shape))
        request.check_experts(layers[0].shape[1])
        return tidy(
            np.stack(layers, axis=1),
            folder.resolve().name,
            ids,
            digest.hexdigest(),
            steps_per_window=request.steps_per_window,
            note=note,
        )
    except InputError as error:
        raise TraceError(f"{printable(folder)}: {error}") from None


def layer_ids(names: list[str]) -> tuple[int, ...]:
    """Layer numbers of file ``names``: the one number that differs between all of them, else 0, 1, ..."""
    numbers = [[int(number) for number in re.findall(r"\d+", name, re.ASCII)] for name in names]
    if len({len(row) for row in numbers}) == 1:
        distinct = [column for column in zip(*numbers, strict=True) if len(set(column)) == len(names)]
        if len(distinct) == 1 and max(distinct[0]) < 2**31:
            return distinct[0]
    return tuple(range(len(names)))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.name, re.ASCII)
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _parse_layer(content: bytes, layer: int) -> NDArray[Any]:
    try:
        rows = parse_csv(content, "forward pass")
        refuse_column_numbers(rows)
    except TraceError as error:
        raise TraceError(f"layer {layer}: {error}") from None
    return as_counts(rows[:, None], (layer,))[:, 0]
