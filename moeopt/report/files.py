"""The report's files: made whole in memory, written whole, the record last."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moeopt.errors import InputError
from moeopt.report.document import document
from moeopt.report.settings import label
from moeopt.report.study import Study
from moeopt.report.tables import layer_table, summary_table

CERTIFICATES = "certificates.json"


def check_folder(out: Path) -> None:
    """Raise InputError unless ``out`` is, or can become, a folder that takes files."""
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"--out {out}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {existing} cannot be written to")


def contents(
    studies: Sequence[Study], pictures: Mapping[str, bytes], facts: Mapping[str, Any], certificates: bytes | None
) -> dict[str, bytes]:
    """Return every file of the report by its path in the report's folder."""
    summary = summary_table(studies)
    files: dict[str, bytes] = {
        "report.md": document(studies, summary, pictures, dict(facts)).encode(),
        "layers.csv": layer_table(studies).to_csv(index=False, lineterminator="\n").encode(),
        "summary.csv": summary.to_csv(index=False, lineterminator="\n").encode(),
    }
    for study in studies:
        for name, run in study.runs.items():
            if run.placement is not None and run.solved.size:
                rows = run.placement.phy2log[run.solved].tolist()
                files[f"placements/{label(study.problem)}_{name}.json"] = _placement_json(rows)
    if certificates is not None:
        files[CERTIFICATES] = certificates
    files |= {f"figures/{name}": picture for name, picture in pictures.items()}
    files["run.json"] = (json.dumps({**facts, "files": sorted(files)}, indent=2, default=str) + "\n").encode()
    return files


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a report into ``out``; files of an earlier report there that this one lacks go.

    Everything is written to a folder beside ``out`` first, so that an interruption leaves either
    the earlier report or this one, and no file is ever half there.

    Raises
    ------
    InputError
        If the file system refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            for name in _earlier(out):
                (out / name).unlink(missing_ok=True)
            for name in files:
                target = out / name
                target.parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).replace(target)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}") from None


def _earlier(out: Path) -> list[str]:
    """Files that the earlier report's record names, and nothing outside the report's own folders."""
    try:
        names = json.loads((out / "run.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = [name for name in names if isinstance(name, str)]
    return [n for n in names if n == CERTIFICATES or Path(n).parent.as_posix() in ("placements", "figures")]


def _placement_json(rows: list[list[int]]) -> bytes:
    """Only this one key, or SGLang refuses the file; one layer a line."""
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f'{{"physical_to_logical_map": [\n{lines}\n]}}\n'.encode()
