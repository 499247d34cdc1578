"""The report's files: made whole in memory, then put into their folder as one.

``write`` stages everything in a hidden folder inside ``out``, renames that folder to say that it is
complete, moves the files to their places and the manifest last. Killed before the rename, the earlier
report stays; killed after it, the next writer finishes the job. Meanwhile ``is_whole`` is False.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moeopt._files import file_reason, write_whole
from moeopt._text import printable
from moeopt.errors import InputError

MANIFEST, CERTIFICATES = "run.json", "certificates.json"
FOLDERS = ("placements", "figures")

_STAGING, _READY, _LOCK = ".report-staging", ".report-ready", ".report-lock"
_PATIENCE = 60.0  # seconds for another writer to finish; writing takes less than one


def check_folder(out: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Raise InputError unless ``out`` is, or can become, a folder that takes a report; leaves no trace.

    Nor may it be one of the folders among ``inputs`` or lie inside one: the report's tables would be
    read as layers of the trace.
    """
    shown = printable(out)
    folder = existing = _resolved(out)
    try:
        while not _is_there(existing):
            existing = existing.parent
        for place in [existing, *(folder / name for name in FOLDERS if _is_there(folder / name))]:
            if not place.is_dir():
                raise InputError(f"out={shown}: {printable(place)} is not a folder")
            try:
                with tempfile.TemporaryFile(dir=place):
                    pass
            except OSError as error:
                reason = file_reason(error)
                raise InputError(f"out={shown}: {printable(place)} cannot be written to: {reason}") from None
        for source in inputs:
            if os.path.isdir(source) and any(_same(place, source) for place in (folder, *folder.parents)):  # noqa: PTH112
                raise InputError(f"out={shown} must not be, or lie in, the folder that is read: {printable(source)}")
    except OSError as error:
        raise InputError(f"out={shown}: {file_reason(error)}") from None


def manifest(facts: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Return the manifest of ``files``: the run's facts, and the sha256 of every file by its path."""
    hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    return (json.dumps({**facts, "files": hashes}, indent=2, default=str) + "\n").encode()


def read_manifest(out: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of the report in ``out``, None where there is none that names its files' hashes."""
    record = _json(Path(out) / MANIFEST)
    files = record.get("files")
    return record if isinstance(files, dict) and all(map(_is_inside, files)) else None


def is_whole(out: str | os.PathLike[str]) -> bool:
    """Whether ``out`` holds one report: every file that the manifest names is the one that it was written for."""
    record = read_manifest(out)
    return record is not None and all(_sha256(Path(out, name)) == digest for name, digest in record["files"].items())


def write(out: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write a report, its manifest among the ``files``, into ``out``; one writer at a time.

    Files of an earlier report there that this one lacks go, unless somebody changed them. Interrupted
    at any moment, ``out`` holds the earlier report, or this one, or is finished by the next ``write``.

    Raises
    ------
    InputError
        If the file system refuses, or another writer does not finish within a minute.
    """
    shown = printable(out)
    folder, is_new = _resolved(out), False
    try:
        is_new = not _is_there(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), _uninterrupted():
            _finish(folder)
            _refuse_blocked(folder, files)
            try:
                for name, content in files.items():
                    staged = folder / _STAGING / name
                    staged.parent.mkdir(parents=True, exist_ok=True)
                    staged.write_bytes(content)
                (folder / _STAGING).replace(folder / _READY)
                _finish(folder)
            except BaseException:  # what is complete comes into force, what is not goes
                _finish(folder)
                raise
    except InputError as error:
        raise InputError(f"out={shown}: {error}") from None
    except OSError as error:
        raise InputError(f"out={shown}: {file_reason(error)}") from None
    finally:
        if is_new:
            with suppress(OSError):  # it holds the report
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out; the lock ends with its process."""
    lock = FileLock(folder / _LOCK, timeout=_PATIENCE)
    try:
        try:
            lock.acquire()
        except Timeout:
            raise InputError("another report is being written there") from None
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # removed while it is held, so that nobody else's is
                (folder / _LOCK).unlink()
            lock.release()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the moment that writing takes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # it does not arrive here, or cannot be held back
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)


def _finish(folder: Path) -> None:
    """Bring a report that was staged completely into force, and remove one that was not."""
    _remove(folder / _STAGING)
    ready = folder / _READY
    if (ready / MANIFEST).is_file():
        names = {path.relative_to(ready).as_posix() for path in ready.rglob("*") if path.is_file()}
        for name in sorted(names - {MANIFEST}):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _move(ready / name, folder / name)
        earlier, kept = _recorded(folder), _recorded(ready).keys() | {MANIFEST}
        for name in sorted(earlier.keys() - kept):
            if (folder / name).is_file() and earlier[name] in (None, _sha256(folder / name)):
                (folder / name).unlink()
        _move(ready / MANIFEST, folder / MANIFEST)
    _remove(ready)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_whole(target, source.read_bytes())  # a folder of the report lies on a device of its own
        source.unlink()


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def _refuse_blocked(folder: Path, files: Mapping[str, bytes]) -> None:
    """Refuse names that a folder, or something that is none, has taken, before anything is replaced."""
    if MANIFEST not in files:
        raise InputError(f"the files must hold the manifest {MANIFEST}")
    for name in files:
        if (folder / name).is_dir():
            raise InputError(f"{name} is a folder, and the report has a file of that name")
        parent = (folder / name).parent
        if _is_there(parent) and not parent.is_dir():
            raise InputError(f"{parent.name} is not a folder, and the report has one of that name")


def _recorded(folder: Path) -> dict[str, str | None]:
    """Files of the report in ``folder`` and their hashes; None in reports of version 0.1, which had none."""
    files = _json(folder / MANIFEST).get("files")
    if isinstance(files, dict):
        return {name: str(digest) for name, digest in files.items() if _is_inside(name)}
    own = [name for name in files if isinstance(name, str) and _is_inside(name)] if isinstance(files, list) else []
    return {name: None for name in own if name == CERTIFICATES or Path(name).parent.as_posix() in FOLDERS}


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_inside(name: str) -> bool:
    """Whether the name of a file stays inside its folder."""
    path = Path(name)
    return "\0" not in name and path.name != "" and not path.is_absolute() and ".." not in path.parts


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _resolved(out: str | os.PathLike[str]) -> Path:
    """``out`` without links, so that a link to a folder yet to be made is followed too."""
    try:
        return Path(os.path.realpath(out))
    except ValueError as error:  # a null byte
        raise InputError(f"out={printable(out)}: {error}") from None


def _is_there(path: Path) -> bool:
    """Whether anything has this name, a broken link too; OSError where nothing can have it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _same(folder: Path, other: str | os.PathLike[str]) -> bool:
    return folder.exists() and folder.samefile(other)
