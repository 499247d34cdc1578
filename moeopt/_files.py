"""Files in and out: whole-or-nothing writing, and reading with one clear error."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from moeopt.errors import InputError, TraceError


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) so that ``path`` holds all of it or is untouched.

    The bytes go to a temporary file in the same folder, which then takes the target's place.
    Missing parent folders are created; a symbolic link is written through.

    Raises
    ------
    InputError
        If the target is not a regular file or cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {path}: it exists and is not a regular file")
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
        raise InputError(f"cannot write {path}: {_reason(error)}") from None
    return target


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular, non-empty file, or raise TraceError."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise TraceError(f"{path}: not a regular file")
        content = Path(path).read_bytes()
    except TraceError:
        raise
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read: {_reason(error)}") from None
    if not content:
        raise TraceError(f"{path}: the file is empty")
    return content


def parser_reason(error: Exception) -> str:
    """What a foreign parser said about a broken file: one line, not too long."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
