"""Traces of ``.npy`` and ``.npz`` files, read in pieces; a large ``.npy`` stays on disk."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import InputError, TraceError
from moeopt.traces.matrix import NpyHeader, array_of, npy_header, npz_headers, pick_array
from moeopt.traces.opened import Opened
from moeopt.traces.recording import Recording, tidy
from moeopt.traces.request import Request
from moeopt.traces.routed_experts import ROUTED_NAMES, RoutedTokens
from moeopt.traces.trace import LARGE, MAX_LAYERS, Trace, kept_dtype

_PIECE_BYTES = 2**23


def read_npy_trace(file: Opened, request: Request) -> Trace:
    """Read ``[windows, layers, experts]`` or ``[layers, experts]``, or routed experts where asked for.

    More than 2**25 numbers stay on disk, mapped into memory, where the file holds them as they are
    to be read: not compressed, and layers and windows with load next to each other.
    """
    header = npy_header(file.stream, file.size)
    if request.routed_experts:
        tokens = RoutedTokens(request)
        _add_request(tokens, file.stream, header)
        return tokens.trace(file.source, file.sha256)
    request.refuse_tokens()
    maps = (
        not file.compressed
        and header.count > LARGE
        and request.steps_per_window is None
        and _is_plain(header)
        and header.dtype.isnative
    )
    if not maps:
        return _stored(file.stream, header, request, file.source, file.sha256)
    start = file.file.tell()
    recording = _recorded(file.stream, header, request, keep=False)
    windows = _mapped(file.file, start, header, recording)
    if windows is None:
        file.file.seek(start)
        return _stored(file.stream, header, request, file.source, file.sha256)
    return recording.trace_of(windows, file.source, file.sha256)


def read_npy_folder(folder: Path, files: Sequence[Path], request: Request) -> Trace:
    """Read routed experts, a ``.npy`` per request, in the order of their names."""
    tokens, digest = RoutedTokens(request), hashlib.sha256()
    for path in sorted(files):
        with request.opened(path, digest) as file:
            _add_request(tokens, file.stream, npy_header(file.stream, file.size))
    try:
        return tokens.trace(folder.resolve().name, digest.hexdigest())
    except InputError as error:
        raise TraceError(f"{printable(folder)}: {error}") from None


def _add_request(tokens: RoutedTokens, stream: BinaryIO, header: NpyHeader) -> None:
    for piece in pieces_of(stream, header):
        tokens.add(piece)
    tokens.end_request()


def read_npz_trace(file: Opened, request: Request, name: str | None) -> Trace:
    """Read one array of a ``.npz``: the one called ``name``, or that obviously holds loads or routed experts."""
    source = file.source if name is None else f"{file.source}_{name}"
    try:
        with zipfile.ZipFile(file.seekable()) as archive:
            headers = npz_headers(archive)
            shapes = {key: header for key, (_, header) in headers.items()}
            routed = [key for key in ROUTED_NAMES if key in headers] if name is None else []
            if routed or request.routed_experts:
                tokens = RoutedTokens(request)
                for key in routed or ([name] if name is not None else list(headers)):
                    member, header = headers[pick_array(shapes, key)]
                    with archive.open(member) as stream:
                        npy_header(cast(BinaryIO, stream))
                        _add_request(tokens, cast(BinaryIO, stream), header)
                return tokens.trace(source, file.sha256)
            request.refuse_tokens()
            member, header = headers[pick_array(shapes, name)]
            with archive.open(member) as stream:
                npy_header(cast(BinaryIO, stream))
                return _stored(cast(BinaryIO, stream), header, request, source, file.sha256)
    except InputError:
        raise
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"not a readable .npz file: {parser_reason(error)}") from None


def _is_plain(header: NpyHeader) -> bool:
    """Whether steps come one after another as numbers; anything else is read as a whole, to be read or refused."""
    shape = header.shape
    return (
        header.dtype.kind in "iuf"
        and not header.fortran
        and len(shape) in (1, 2, 3)
        and header.count > 0
        and (len(shape) == 1 or shape[-2] <= MAX_LAYERS)
    )


def pieces_of(stream: BinaryIO, header: NpyHeader) -> Iterator[NDArray[Any]]:
    """The array in pieces along its first axis, of some megabytes or one entry of that axis each."""
    if header.fortran or not header.shape or not header.count:
        yield array_of(_taken(stream, header.count * header.dtype.itemsize), header)
        return
    row = header.count // header.shape[0] * header.dtype.itemsize
    step = max(1, _PIECE_BYTES // row)
    for start in range(0, header.shape[0], step):
        shape = min(step, header.shape[0] - start), *header.shape[1:]
        yield array_of(_taken(stream, shape[0] * row), NpyHeader(shape, False, header.dtype))


def _taken(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise TraceError(f"not a readable array: it ends {size - len(data)} bytes or more before its header says")
    return data


def _recorded(stream: BinaryIO, header: NpyHeader, request: Request, *, keep: bool) -> Recording:
    steps, layers, experts = (1,) * (3 - len(header.shape)) + header.shape
    recording = Recording(layers, experts, steps_per_window=request.steps_per_window, keep=keep)
    request.check_experts(experts)
    for piece in pieces_of(stream, NpyHeader((steps, layers, experts), False, header.dtype)):
        recording.add(piece, num_steps=steps)
    return recording


def _stored(stream: BinaryIO, header: NpyHeader, request: Request, source: str, sha256: str) -> Trace:
    if _is_plain(header):
        return _recorded(stream, header, request, keep=True).trace(source, sha256)
    array = array_of(_taken(stream, header.count * header.dtype.itemsize), header)
    trace = tidy(array, source, sha256=sha256, steps_per_window=request.steps_per_window)
    request.check_experts(trace.num_experts)
    return trace


def _mapped(file: BinaryIO, start: int, header: NpyHeader, recording: Recording) -> NDArray[Any] | None:
    """Windows as a view of the file, or None where it does not hold them as they are to be kept."""
    windows, layers = np.flatnonzero(np.concatenate(recording.filled)), recording.loaded_layers()
    needed = kept_dtype(header.count, list(recording.kinds))
    signed = np.dtype(f"i{header.dtype.itemsize}") if header.dtype.kind == "u" else header.dtype
    gaps = len(windows) != windows[-1] - windows[0] + 1 or len(layers) != layers[-1] - layers[0] + 1
    if gaps or (signed.kind == "i" and needed.itemsize > signed.itemsize):
        return None
    shape = (1,) * (3 - len(header.shape)) + header.shape
    array = np.asarray(np.memmap(file, signed, "r", start, shape))
    return array[windows[0] : windows[-1] + 1, layers[0] : layers[-1] + 1]
