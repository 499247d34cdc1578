"""The files of a report, made whole in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from moeopt.placement import Placement
from moeopt.report.document import document
from moeopt.report.facts import Facts
from moeopt.report.files import CERTIFICATES, MANIFEST, manifest
from moeopt.report.moves_tables import moves_table
from moeopt.report.page.gap import gap_page
from moeopt.report.settings import placements_file
from moeopt.report.study import Study
from moeopt.report.tables import layer_table, summary_table
from moeopt.traces.engines import encoded


def contents(
    studies: Sequence[Study], pictures: Mapping[str, bytes], facts: Facts, certificates: bytes | None
) -> dict[str, bytes]:
    """Return every file of the report by its path in the report's folder."""
    files: dict[str, bytes] = {
        "report.md": document(studies, pictures, facts).encode(),
        "report.html": gap_page(studies, facts),
        "layers.csv": layer_table(studies).to_csv(index=False, lineterminator="\n").encode(),
        "summary.csv": summary_table(studies).to_csv(index=False, lineterminator="\n").encode(),
    }
    for study in studies:
        for name, run in study.runs.items():
            if run.found.placement is not None:
                placed = run.found.placement[run.found.solved]
                files[placements_file(study.problem, name)] = _slots(placed)
        for name, placement in _migrations(study).items():
            files[placements_file(study.problem, f"moves_{name}")] = _slots(placement)
    if any(study.moves is not None for study in studies):
        table = moves_table(studies, facts.arguments.expert_bytes)
        files["moves.csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    if certificates is not None:
        files[CERTIFICATES] = certificates
    files |= {f"figures/{name}": picture for name, picture in pictures.items()}
    files[MANIFEST] = manifest(asdict(facts), files)
    return files


def _slots(placement: Placement) -> bytes:
    content = encoded(placement, "csv")
    assert isinstance(content, str)
    return content.encode()


def _migrations(study: Study) -> dict[str, Placement]:
    """The placement in force and those that moves are counted to, by name; without layers that have none."""
    if study.moves is None:
        return {}
    reference = study.moves.problem.reference
    assert reference is not None
    placed = {"reference": reference}
    placed |= {name: found.placement for name, found in study.moves.fixed.items()}
    for above, found in zip(study.moves.ceilings, study.moves.repaired, strict=True):
        there = np.flatnonzero((found.placement.phy2log >= 0).any(axis=1))
        if there.size:
            placed[f"repair_{above:g}"] = found.placement[there]
    return placed
