"""Files in and out: whole-or-nothing writing, and reading with one clear error."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from moeopt._text import printable
from moeopt.errors import InputError, TraceError

MAX_BYTES = 2**32
"""The most bytes read from one file, or unpacked from one archive: 4 GiB."""


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) so that ``path`` holds all of it or is untouched.

    The bytes go to a temporary file in the same folder, which then takes the target's place.
    Missing parent folders are created; a symbolic link is written through. A file that could only be
    overwritten in place (its folder takes no new files, or it is a mount point of its own) is left
    alone: an interruption would leave half of it.

    Raises
    ------
    InputError
        If the target is not a regular file or cannot be replaced.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {printable(path)}: it exists and is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"cannot write {printable(path)}: {file_reason(error)}{_in_place(path)}") from None
    return target


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular, non-empty file of at most 4 GiB, or raise TraceError.

    Nothing else is opened: a pipe, a device or a file of ``/proc`` (whose size is 0) could block for ever.
    """
    shown = printable(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise TraceError(f"{shown}: not a regular file")
        if status.st_size > MAX_BYTES:
            raise TraceError(f"{shown}: {status.st_size} bytes, at most {MAX_BYTES} are read")
        content = Path(path).read_bytes() if status.st_size else b""
    except TraceError:
        raise
    except (OSError, ValueError) as error:
        raise TraceError(f"{shown}: cannot be read: {file_reason(error)}") from None
    if not content:
        raise TraceError(f"{shown}: the file is empty")
    return content


def file_reason(error: Exception) -> str:
    """What the operating system said, without the path that it repeats."""
    return getattr(error, "strerror", None) or printable(error)


def _in_place(path: str | os.PathLike[str]) -> str:
    """Explain the refusal where a file could be overwritten but not replaced."""
    if not (os.path.isfile(path) and os.access(path, os.W_OK)):  # noqa: PTH113 - false for impossible names
        return ""
    return " (it could only be overwritten in place, and an interruption would leave half of it)"
