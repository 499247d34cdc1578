"""The files of a report, made whole in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from moeopt.report.document import document
from moeopt.report.facts import Facts
from moeopt.report.files import CERTIFICATES
from moeopt.report.settings import label
from moeopt.report.study import Study
from moeopt.report.tables import layer_table, summary_table


def contents(
    studies: Sequence[Study], pictures: Mapping[str, bytes], facts: Facts, certificates: bytes | None
) -> dict[str, bytes]:
    """Return every file of the report by its path in the report's folder."""
    files: dict[str, bytes] = {
        "report.md": document(studies, pictures, facts).encode(),
        "layers.csv": layer_table(studies).to_csv(index=False, lineterminator="\n").encode(),
        "summary.csv": summary_table(studies).to_csv(index=False, lineterminator="\n").encode(),
    }
    for study in studies:
        for name, run in study.runs.items():
            if run.found.placement is not None:
                rows = run.found.placement.phy2log[run.found.solved].tolist()
                files[f"placements/{label(study.problem)}_{name}.json"] = _placement_json(rows)
    if certificates is not None:
        files[CERTIFICATES] = certificates
    files |= {f"figures/{name}": picture for name, picture in pictures.items()}
    files["run.json"] = _manifest(facts, files)
    return files


def _manifest(facts: Facts, files: Mapping[str, bytes]) -> bytes:
    """The run's facts, and the sha256 of every file by its path."""
    hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    return (json.dumps({**asdict(facts), "files": hashes}, indent=2, default=str) + "\n").encode()


def _placement_json(rows: list[list[int]]) -> bytes:
    """Only this one key, or SGLang refuses the file; one layer a line."""
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f'{{"physical_to_logical_map": [\n{lines}\n]}}\n'.encode()
