"""A recorded file, opened: regular, of bounded size, hashed, and unpacked where it is compressed."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from moeopt._files import MAX_BYTES, file_reason
from moeopt._text import parser_reason, printable
from moeopt.errors import InputError, TraceError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MAX_UNPACKED = 2**30
"""The most bytes of a compressed file that are unpacked into memory unless more is allowed: 1 GiB."""

_CHUNK = 2**20


class Opened:
    """One file whose bytes are read in pieces.

    Attributes
    ----------
    path
        Where it is.
    file
        Its very bytes, seekable.
    stream
        The same, unpacked where the file is compressed; read forward only.
    compressed
        Whether it is.
    sha256
        Of its very bytes.
    """

    def __init__(self, path: Path, file: BinaryIO, sha256: str, max_bytes: int | None) -> None:
        self.path, self.file, self.sha256 = path, file, sha256
        self._max_bytes = max_bytes
        self._unpacked: BinaryIO | None = None
        magic = file.read(len(ZSTD_MAGIC))
        file.seek(0)
        unpacked = _unpacked(magic, file)
        self.compressed = unpacked is not None
        if unpacked is None:
            self.stream = file
        else:
            self.stream = cast(BinaryIO, io.BufferedReader(_Bounded(*unpacked, max_bytes or MAX_BYTES), _CHUNK))

    def head(self, size: int = 4096) -> bytes:
        """Return the first bytes without taking them from the stream."""
        if not self.compressed:
            start = self.file.read(size)
            self.file.seek(0)
            return start
        return cast(io.BufferedReader, self.stream).peek(size)[:size]

    def rest(self) -> bytes:
        """Return all that is left of the stream; a compressed file of at most 1 GiB unless more is allowed."""
        if not self.compressed or self._max_bytes is not None:
            return self.stream.read()
        content = self.stream.read(MAX_UNPACKED + 1)
        if len(content) > MAX_UNPACKED:
            raise TraceError(_too_large("more than", MAX_UNPACKED, " when unpacked"))
        return content

    def seekable(self) -> BinaryIO:
        """Return the bytes as something that can be read in any order."""
        if self.compressed and self._unpacked is None:
            self._unpacked = io.BytesIO(self.rest())
        return self._unpacked or self.file

    @property
    def source(self) -> str:
        """The file's name without its endings."""
        name = Path(self.path.stem) if self.compressed and self.path.suffix in (".gz", ".zst") else self.path
        return name.stem

    @property
    def size(self) -> int | None:
        """Bytes of the stream, None where that is not known before all is unpacked."""
        return None if self.compressed else os.fstat(self.file.fileno()).st_size


@contextmanager
def opened(
    path: Path, max_bytes: int | None = None, tick: Callable[[int], Any] | None = None, digest: Hash | None = None
) -> Iterator[Opened]:
    """Open a regular, non-empty file of at most ``max_bytes`` (4 GiB); every error begins with its path.

    Nothing else is opened: a pipe, a device or a file of ``/proc`` (whose size is 0) could block for ever.
    ``tick`` is told how many bytes were read, and the bytes of the file are read twice: to hash them first,
    by themselves or after those that ``digest`` has seen.
    """
    try:
        with _regular(path, max_bytes or MAX_BYTES) as raw:
            file = cast(BinaryIO, io.BufferedReader(_Ticking(raw, tick), _CHUNK)) if tick else raw
            hashed = hashlib.file_digest(
                cast(io.BufferedReader, file), hashlib.sha256 if digest is None else lambda: digest
            )
            file.seek(0)
            yield Opened(path, file, hashed.hexdigest(), max_bytes)
    except InputError as error:
        raise TraceError(f"{printable(path)}: {error}") from None
    except OSError as error:
        raise TraceError(f"{printable(path)}: cannot be read: {file_reason(error)}") from None


def _regular(path: Path, max_bytes: int) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= max_bytes:
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TraceError(f"cannot be read: {file_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise TraceError("not a regular file")
    raise TraceError(_too_large(status.st_size, max_bytes) if status.st_size else "the file is empty")


def _unpacked(magic: bytes, file: BinaryIO) -> tuple[str, BinaryIO] | None:
    """Return the compression's name and what comes out of it."""
    if magic.startswith(GZIP_MAGIC):
        return "gzip", cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if magic.startswith(ZSTD_MAGIC):
        return "zstd", cast(BinaryIO, _zstd().ZstdFile(file))
    return None


def _zstd() -> Any:
    """Python's module, of 3.14 or its backport; it takes windows of at most 128 MiB, as zstd's command does."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise TraceError('zstd-compressed: unpack it first, or pip install "moeopt[zstd]"')


def _too_large(size: int | str, most: int, when: str = "") -> str:
    text = f"{size} {most} bytes" if isinstance(size, str) else f"{size} bytes"
    return f"{text}{when}, at most {most} are read; max_bytes allows more"


class _Bounded(io.RawIOBase):
    """What a decompressor gives, up to a bound, with one error for all that is wrong with it."""

    def __init__(self, name: str, source: BinaryIO, most: int) -> None:
        self._name, self._source, self._most, self._given = name, source, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(min(len(buffer), _CHUNK))
        except Exception as error:  # a broken or hostile file can fail anywhere in the decompressor
            raise TraceError(f"damaged or truncated {self._name} data: {parser_reason(error)}") from None
        self._given += len(data)
        if self._given > self._most:
            raise TraceError(_too_large("more than", self._most, " when unpacked"))
        buffer[: len(data)] = data
        return len(data)


class _Ticking(io.RawIOBase):
    """A file that says how many bytes are read of it."""

    def __init__(self, file: BinaryIO, tick: Callable[[int], Any]) -> None:
        self._file, self._tick = file, tick

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._tick(count)
        return int(count)
