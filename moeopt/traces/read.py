"""The way in: find a trace's format from its content and read it."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moeopt._files import MAX_BYTES, file_reason, read_whole
from moeopt._text import parser_reason, printable
from moeopt.errors import InputError, TraceError
from moeopt.traces import matrix, sglang
from moeopt.traces.csv_folder import read_csv_folder
from moeopt.traces.json_numbers import parse_json
from moeopt.traces.torch_file import load_pt
from moeopt.traces.recording import tidy
from moeopt.traces.trace import Trace


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Read recorded loads from a file or folder whose format is found from its content.

    Parameters
    ----------
    path
        A folder of per-layer CSVs; an SGLang ``.pt`` dump; JSON with ``logical_count`` or a bare
        list; ``.npy``; ``.npz`` (``FILE:NAME`` picks one of several arrays); or a CSV matrix.
        See ``docs/formats.md``.

    Returns
    -------
    Trace
        ``[windows, layers, experts]`` without the layers and windows that have no load at all, with
        the ``sha256`` of the bytes that were read.

    Raises
    ------
    TraceError
        Names the file and the layer (window) and column of what is wrong. Nothing that a file
        carries is ever run.
    """
    try:
        file, name = _split_name(path)
        is_folder = file.is_dir()
    except OSError as error:
        raise TraceError(f"{printable(path)}: cannot be read: {file_reason(error)}") from None
    if is_folder:
        return read_csv_folder(file)
    content = read_whole(file)
    try:
        kind = content_kind(content)
        if name is not None and kind != "npz":
            raise TraceError(f"only a .npz file has arrays to name, and {printable(name, 40)!r} names one")
        counts = matrix.pick_array(matrix.read_npz(content), name) if kind == "npz" else _READERS[kind](content)
        source = file.stem if name is None else f"{file.stem}_{name}"
        return tidy(counts, source, sha256=hashlib.sha256(content).hexdigest())
    except InputError as error:
        raise TraceError(f"{printable(file)}: {error}") from None


_READERS: dict[str, Callable[[bytes], NDArray[Any]]] = {
    "npy": matrix.read_npy,
    "pt": lambda content: sglang.counts_from_pt(load_pt(content)),
    "json": lambda content: sglang.counts_from_json(parse_json(content)),
    "csv": matrix.read_csv_matrix,
}


def content_kind(content: bytes) -> str:
    """``npy``, ``npz``, ``pt``, ``json`` or ``csv``, from the first bytes of a file."""
    if content.startswith(matrix.NPY_MAGIC):
        return "npy"
    if content.startswith(b"PK"):
        try:
            with zipfile.ZipFile(BytesIO(content)) as archive:
                members = archive.infolist()
        except Exception as error:  # a broken or hostile file can fail anywhere in the parser
            raise TraceError(f"a damaged or truncated archive (.pt or .npz): {parser_reason(error)}") from None
        unpacked = sum(member.file_size for member in members)
        if unpacked > MAX_BYTES:
            raise TraceError(f"an archive of {unpacked} bytes when unpacked, at most {MAX_BYTES} are read")
        return "pt" if any(member.filename.endswith("data.pkl") for member in members) else "npz"
    if content.startswith(b"\x80"):
        return "pt"  # the format torch wrote before 1.6, or a bare pickle, which load_pt refuses
    if content.startswith(b"\x1f\x8b"):
        raise TraceError("gzip-compressed: unpack it first")
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "json" if text[:1] in (b"{", b"[") else "csv"


def _split_name(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Take ``FILE:NAME`` apart; an existing file called ``FILE:NAME`` wins."""
    file, _, name = os.fspath(path).rpartition(":")
    if file and name and not Path(path).exists() and Path(file).is_file():
        return Path(file), name
    return Path(path), None
