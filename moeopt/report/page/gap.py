"""report.html: what every method found in every setting and layer, as data for its page."""

from __future__ import annotations

import base64
import json
import math
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.report.document import PROBLEM, agreement, headline, in_force, meaning
from moeopt.report.facts import Facts
from moeopt.report.moves import MovesStudy
from moeopt.report.moves_tables import front_cells, front_headings, stay
from moeopt.report.page.shell import numbers, page
from moeopt.report.page.slots import more_slots
from moeopt.report.settings import label, placements_file, title
from moeopt.report.study import Study
from moeopt.report.tables import summarise
from moeopt.solution import SolveStatus
from moeopt.traces.engines import ENGINES

TITLE = "Gap report: how far from the best possible placement"

_LONGEST = 20_000
"""Characters of a certificate that the page shows; ``certificates.json`` has all."""


def gap_page(studies: Sequence[Study], facts: Facts) -> bytes:
    """Return report.html."""
    return page(gap_data(studies, facts))


def gap_data(studies: Sequence[Study], facts: Facts) -> dict[str, Any]:
    """Return what the page shows: settings, loads ``[layers, experts]`` by trace, and how to get it again."""
    small = [study for study in studies if study.problem.load.source in facts.small]
    return {
        "kind": "gap",
        "title": TITLE,
        "intro": " ".join(PROBLEM.split()),
        "names": list(dict.fromkeys(name for study in studies for name in study.runs)),
        "in_force": in_force(facts),
        "tolerance": facts.effort.tolerance,
        "settings": [_setting(study, study in small) for study in studies],
        "small": agreement(small) if small else "",
        "more_slots": more_slots(studies),
        "loads": {study.problem.load.source: study.problem.load.values.tolist() for study in studies},
        "statuses": [str(status) for status in SolveStatus],
        "engines": [
            {"name": name, **{key: value for key, value in vars(engine).items() if key != "encode"}}
            for name, engine in ENGINES.items()
        ],
        "meaning": meaning(facts),
        "impossible": list(facts.impossible),
        "verification": facts.verification,
        "reproduce": reproduce(facts),
    }


def reproduce(facts: Facts) -> dict[str, Any]:
    """Return command, machine, versions and the hashes of what was read."""
    read = (*facts.traces, *(() if facts.reference is None else (facts.reference,)))
    where = f"; exact methods on {facts.cluster}" if facts.cluster else ""
    return {
        "command": shlex.join(facts.command),
        "machine": f"{facts.machine}{where}. Seed {facts.arguments.seed}.",
        "versions": facts.versions,
        "traces": [
            {key: getattr(trace, key) for key in ("name", "origin", "layers", "experts", "tokens", "sha256", "note")}
            for trace in read
        ],
    }


def packed(slots: NDArray[np.int64]) -> str:
    """Return ``phy2log [layers, slots]`` in base64: low bytes of expert + 1, then high bytes, deflated by zlib."""
    shifted = (slots + 1).astype("<u2")
    planes = (shifted & 255).astype(np.uint8).tobytes() + (shifted >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(planes, 9)).decode()


def _setting(study: Study, small: bool) -> dict[str, Any]:
    problem, known = study.problem, study.known
    summary = {row.method: row for row in summarise(study)}
    return {
        "label": label(problem),
        "title": title(problem),
        "trace": problem.load.source,
        "small": small,
        "gpus": problem.num_gpus,
        "slots": problem.slots,
        "nodes": problem.num_nodes,
        "groups": problem.num_groups,
        "experts": problem.num_experts,
        "words": headline(study),
        "layers": list(problem.load.layer_ids),
        "bound": numbers(known.lower_bound),
        "source": list(known.bound_source),
        "certificate": [_certificate(known.certificate[i]) for i in range(known.num_layers)],
        "best": numbers(known.makespan),
        "proven": [status is SolveStatus.OPTIMAL for status in known.status],
        "methods": [
            {"name": name, "summary": _known(asdict(summary[name])), **_found(study, name)} for name in study.runs
        ],
        "moves": None if study.moves is None else _moves(study.moves),
    }


def _found(study: Study, name: str) -> dict[str, Any]:
    """Return what one method found, layer by layer, as its rows of ``layers.csv`` have it."""
    rows = study.layers[study.layers.method == name]
    order = [str(status) for status in SolveStatus]
    placement = study.runs[name].found.placement
    return {
        "exact": name in study.exact,
        "status": [order.index(status) for status in rows.status],
        "makespan": numbers(rows.makespan),
        "gap": numbers(rows.gap),
        "imbalance": numbers(rows.imbalance),
        "moves": numbers(rows.moves.astype(float)),
        "note": {str(i): note for i, note in enumerate(rows.note) if note},
        "slots": None if placement is None else packed(placement.phy2log),
        "file": placements_file(study.problem, name),
    }


def _moves(found: MovesStudy) -> dict[str, Any]:
    staying = stay(found)
    return {
        "ceilings": numbers(found.ceilings),
        "repair": numbers([one.moves.mean() for one in found.repaired]),
        "needed": numbers([np.nan_to_num(found.needed(point).value).mean() for point in range(len(found.ceilings))]),
        "stay": {"mean": float(staying.mean()), "worst": float(staying.max())},
        "fixed": [
            {
                "name": name,
                "moves": float(np.nanmean(one.moves)),
                "least": float(np.nanmin(found.above(one))),
                "worst": float(np.nanmax(found.above(one))),
            }
            for name, one in found.fixed.items()
        ],
        "headings": front_headings(found),
        "cells": front_cells(found),
    }


def _certificate(certificate: Mapping[str, Any] | None) -> str | None:
    """Return a certificate as JSON, the empty string for one too long to show, None where there is none."""
    if certificate is None:
        return None
    text = json.dumps(certificate, separators=(",", ":"))
    return text if len(text) <= _LONGEST else ""


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()}
