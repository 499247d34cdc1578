"""The way in: find a trace's format from its content and read it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from moeopt._files import MAX_BYTES, file_reason
from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.traces import load_history, matrix, omni_dumps, sglang, trtllm_statistics
from moeopt.traces.csv_folder import read_csv_folder
from moeopt.traces.json_lines import JsonLines
from moeopt.traces.npy import read_npy_folder, read_npy_trace, read_npz_trace
from moeopt.traces.opened import GZIP_MAGIC, ZSTD_MAGIC, Opened
from moeopt.traces.recording import tidy
from moeopt.traces.request import Request
from moeopt.traces.routed_experts import RoutedTokens, add_responses, holds_routed_experts, ids_of
from moeopt.traces.sglang_ranks import read_rank_files, read_records
from moeopt.traces.torch_file import load_pt
from moeopt.traces.trace import Trace
from moeopt.traces.vllm_statistics import is_statistics, read_statistics

_LONGEST_HEADER = 10**8  # of .safetensors, as its library has it


def read_trace(
    path: str | os.PathLike[str],
    *,
    steps_per_window: int | None = None,
    window_tokens: int | None = None,
    routed_experts: bool = False,
    num_experts: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    single_rank: bool = False,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Trace:
    """Read recorded loads from a file or folder whose format is found from its content.

    Parameters
    ----------
    path
        SGLang's ``stat`` dump, or the folder of its ``per_pass`` or ``per_token`` files of all ranks;
        vLLM's statistics (JSON Lines); the folder of TensorRT-LLM's statistics; ADRS' ``load_history``;
        the folder of OmniInfer's dumps; responses with routed experts (JSON, JSON Lines); JSON with
        ``logical_count`` or a bare list; ``.npy``; ``.npz`` (``FILE:NAME`` picks one of several
        arrays); a CSV matrix, or a folder of one CSV per layer. Files may be compressed (gzip, zstd).
        See ``docs/formats.md``.
    steps_per_window
        Add up so many recorded steps with load to one window while reading, instead of one window
        per step; the last window holds what is left.
    window_tokens
        Cut routed experts into windows of so many tokens; by default every request is a window.
    routed_experts
        Whether an array (``.npy``, ``.npz``, a bare JSON list, a folder of ``.npy``) is
        ``[tokens, layers, top_k]`` of routed experts, and not ``[windows, layers, experts]`` of loads.
    num_experts
        Experts per layer, which routed experts do not say; elsewhere what the file must have.
    num_layers, top_k
        Layers and experts per token of SGLang's routed experts, which come without their shape.
    single_rank
        Take what is there for the load although files of other ranks are missing.
    max_bytes
        The most bytes of a file, and of what it unpacks to. By default 4 GiB, and 1 GiB where a
        compressed file must be unpacked in memory.
    progress
        Show a bar on stderr.

    Returns
    -------
    Trace
        ``[windows, layers, experts]`` without the layers and windows that have no load at all, with
        the ``sha256`` of the bytes that were read, whether the windows' order is known, and a note.

    Raises
    ------
    TraceError
        Names the file and the layer (window) and column of what is wrong. Nothing that a file
        carries is ever run.
    InputError
        For options that are no positive integers.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "loads.json")
    ...     _ = path.write_text('{"logical_count": [[[9, 5, 4, 2]], [[8, 0, 0, 7]]]}')
    ...     trace = read_trace(path)
    >>> trace.windows.shape, trace.total().values.tolist()
    ((2, 1, 4), [[17, 5, 4, 9]])
    """
    request = Request(
        steps_per_window=steps_per_window,
        window_tokens=window_tokens,
        routed_experts=routed_experts,
        num_experts=num_experts,
        num_layers=num_layers,
        top_k=top_k,
        single_rank=single_rank,
        max_bytes=max_bytes,
    )
    file, name = _split_name(path)
    try:
        entries = [entry for entry in file.iterdir() if not entry.name.startswith(".")] if file.is_dir() else None
    except (OSError, ValueError) as error:
        raise TraceError(f"{printable(path)}: cannot be read: {file_reason(error)}") from None
    with _bar(file, entries) if progress else _no_bar() as tick:
        request = replace(request, tick=tick)
        if entries is not None:
            return _read_folder(file, entries, request)
        with request.opened(file) as opened:
            return _read_file(opened, request, name)


def _read_file(file: Opened, request: Request, name: str | None) -> Trace:
    kind = _kind(file, request)
    if name is not None and kind != "npz":
        raise TraceError(f"only a .npz file has arrays to name, and {printable(name, 40)!r} names one")
    if kind == "npz":
        return read_npz_trace(file, request, name)
    if kind == "npy":
        return read_npy_trace(file, request)
    if kind == "json":
        return _read_json(file, request)
    request.refuse_tokens()
    if kind == "safetensors":
        raise TraceError(
            "a single .safetensors file is one rank's share: give TensorRT-LLM's folder, meta_info.json in it"
        )
    if kind == "csv" and omni_dumps.NAME.fullmatch(file.path.name):
        raise TraceError("a single dump of OmniInfer is one rank's share of one step: give the folder")
    if kind == "csv":
        return _trace(matrix.read_csv_matrix(file.rest()), file, request)
    document = load_pt(file.seekable())
    if isinstance(document, dict) and "records" in document and "logical_count" not in document:
        return _trace(read_records(document, file.path, request), file, request)
    counts = sglang.counts_from_pt(document)
    return _trace(counts, file, request, sglang.ring_note(counts) if isinstance(document, dict) else "")


def _read_json(file: Opened, request: Request) -> Trace:
    lines = JsonLines(file.stream)
    if is_statistics(lines.first):
        request.refuse_tokens()
        return read_statistics(file, lines, request)
    tokens: RoutedTokens | None = None
    if isinstance(lines.first, dict) and holds_routed_experts(lines.first):
        tokens = RoutedTokens(request)
        for number, document in lines:
            try:
                add_responses(tokens, document, request)
            except TraceError as error:
                raise TraceError(f"line {number}: {error}") from None
        return tokens.trace(file.source, file.sha256)
    document = lines.whole(file.rest())
    if holds_routed_experts(document) or request.routed_experts:
        tokens = RoutedTokens(request)
        if holds_routed_experts(document):
            add_responses(tokens, document, request)
        elif isinstance(document, dict):
            raise TraceError(f"no routed_experts in the JSON; it holds {sglang.keys_of(document)}")
        else:
            tokens.add(ids_of("the list", document, request))
            tokens.end_request()
        return tokens.trace(file.source, file.sha256)
    request.refuse_tokens()
    if isinstance(document, dict) and load_history.KEY in document:
        return _trace(load_history.counts_from_history(document), file, request)
    return _trace(sglang.counts_from_json(document), file, request)


def _trace(counts: NDArray[Any], file: Opened, request: Request, unordered: str = "") -> Trace:
    trace = tidy(
        counts,
        file.source,
        sha256=file.sha256,
        steps_per_window=request.steps_per_window,
        ordered=not unordered,
        note=unordered,
    )
    request.check_experts(trace.num_experts)
    return trace


def _read_folder(folder: Path, entries: list[Path], request: Request) -> Trace:
    def ending(*endings: str) -> list[Path]:
        names = tuple(end + packed for end in endings for packed in ("", ".gz", ".zst"))
        return [entry for entry in entries if entry.name.lower().endswith(names)]

    ranks = [entry for entry in entries if trtllm_statistics.NAME.fullmatch(entry.name)]
    dumps = [entry for entry in entries if omni_dumps.NAME.fullmatch(entry.name)]
    recordings: dict[str, tuple[list[Path], Callable[[Path, list[Path], Request], Trace]]] = {
        "rank*.safetensors": (ranks, trtllm_statistics.read_rank_statistics),
        "activation_counts_recordstep_*.txt": (dumps, omni_dumps.read_dumps),
        ".pt": (ending(".pt"), _read_pt_files),
        ".csv": (ending(".csv"), read_csv_folder),
        ".npy": (ending(".npy") if request.routed_experts else [], read_npy_folder),
    }
    found = {kind: recording for kind, recording in recordings.items() if recording[0]}
    if not found:
        raise TraceError(
            f"{printable(folder)}: the folder holds no .csv file, and none of SGLang's, TensorRT-LLM's or OmniInfer's "
            "recordings"
        )
    if len(found) > 1:
        raise TraceError(f"{printable(folder)}: holds files of {' and of '.join(found)}: which are the recording?")
    ((kind, (files, read)),) = found.items()
    if kind != ".npy":
        request.refuse_tokens()
    return read(folder, files, request)


def _read_pt_files(folder: Path, files: list[Path], request: Request) -> Trace:
    if len(files) > 1:
        return read_rank_files(folder, files, request)
    with request.opened(files[0]) as opened:
        return _read_file(opened, request, None)


def _kind(file: Opened, request: Request) -> str:
    head = file.head()
    if head.startswith(b"PK"):
        kind = archive_kind(file.seekable(), request.max_bytes or MAX_BYTES)
        file.seekable().seek(0)
        return kind
    if len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        return "safetensors"
    return content_kind(head)


def content_kind(content: bytes) -> str:
    """``npy``, ``npz``, ``pt``, ``json`` or ``csv``, from the first bytes of a file; an archive must be whole."""
    if content.startswith(matrix.NPY_MAGIC):
        return "npy"
    if content.startswith(b"PK"):
        return archive_kind(io.BytesIO(content), MAX_BYTES)
    if content.startswith(b"\x80"):
        return "pt"  # the format torch wrote before 1.6, or a bare pickle, which load_pt refuses
    for magic, name in ((GZIP_MAGIC, "gzip"), (ZSTD_MAGIC, "zstd")):
        if content.startswith(magic):
            raise TraceError(f"{name}-compressed: unpack it first")
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "json" if text[:1] in (b"{", b"[") else "csv"


def archive_kind(file: BinaryIO, max_bytes: int) -> str:
    """``pt`` or ``npz``, for an archive that says it unpacks to at most ``max_bytes``."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        raise TraceError(f"a damaged or truncated archive (.pt or .npz): {parser_reason(error)}") from None
    unpacked = sum(member.file_size for member in members)
    if unpacked > max_bytes:
        raise TraceError(f"an archive of {unpacked} bytes when unpacked, at most {max_bytes} are read")
    return "pt" if any(member.filename.endswith("data.pkl") for member in members) else "npz"


@contextmanager
def _bar(path: Path, entries: list[Path] | None) -> Iterator[Callable[[int], None]]:
    """Show the bytes that were read; all are read twice, to hash them first."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    files = [path] if entries is None else entries
    total = 2 * sum(file.stat().st_size for file in files if file.is_file())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"reading {printable(path.name, 40)}", total=total)
        yield lambda count: bar.update(task, advance=count)
        bar.update(task, completed=total)


@contextmanager
def _no_bar() -> Iterator[None]:
    yield None


def _split_name(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Take ``FILE:NAME`` apart; an existing file called ``FILE:NAME`` wins."""
    file, _, name = os.fspath(path).rpartition(":")
    try:
        if file and name and not Path(path).exists() and Path(file).is_file():
            return Path(file), name
    except OSError:
        pass  # said where the file is opened
    return Path(path), None
