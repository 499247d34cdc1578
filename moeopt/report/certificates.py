"""Everything a report prints, held against exact arithmetic, and the record of what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pandas as pd

from moeopt.bounds import Bound
from moeopt.certificates import SettingRecord, encoded, setting_record
from moeopt.compare import against, reference_placement
from moeopt.problem import PlacementProblem
from moeopt.report.settings import placements_file, title
from moeopt.report.study import Study
from moeopt.solution import Solution
from moeopt.verify import LayerVerdict, verify, verify_bound

TABLE_SLACK = Fraction(1, 10**9)
"""Relative distance that a printed number may have from the exact one, for being rounded to a float."""


@dataclass(frozen=True)
class Certificates:
    """What was checked: the content of ``certificates.json``, one line of summary, and what was rejected."""

    content: bytes
    summary: str
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """Verdicts on one study: of its shared bound, and of every method's rows."""

    study: Study
    bound: tuple[LayerVerdict, ...]
    methods: dict[str, tuple[LayerVerdict, ...]]


@dataclass(frozen=True)
class CheckedMoves:
    """What was checked of all Moves sections together."""

    placements: int
    proven: int
    rejected: tuple[str, ...]


def certify(studies: Sequence[Study]) -> Certificates:
    """Check every row and every shared bound of the studies, those of a policy's relaxation included.

    A bound is checked once, from its certificate. A method's placement, makespan, moves, status and gap
    are checked as its rows of the table print them.
    """
    checked = [_check(s) for study in studies for s in (study.without_groups, study) if s is not None]
    rejected: list[str] = []
    for done in checked:
        layers = done.study.problem.load.layer_ids
        for name, verdicts in {"shared bound": done.bound, **done.methods}.items():
            where = f"{title(done.study.problem)}: {name}"
            rejected += [f"{where}, layer {i}: {v.reason}" for i, v in zip(layers, verdicts, strict=True) if not v.ok]
    placed = sum(v.placement_ok is not None for done in checked for found in done.methods.values() for v in found)
    kinds = [verdict.bound for done in checked for verdict in done.bound]
    proven, claimed, unknown = (kinds.count(kind) for kind in ("proven", "solver's claim", "unknown"))
    moves = _check_moves(studies)
    rejected += moves.rejected
    summary = f"verified: {placed} placements, {proven} bounds proven exactly, {claimed} rest on a solver's search"
    if unknown:
        summary += f", {unknown} not decided"
    if moves.placements:
        summary += f"; moves: {moves.placements} placements, {moves.proven} bounds proven exactly"
    if rejected:
        summary += f"; REJECTED: {len(rejected)}"
    written = {id(study) for study in studies}
    records = [_record(done, id(done.study) in written) for done in checked]
    content = encoded(records, [done.study.problem.load for done in checked])
    return Certificates(content, summary, tuple(rejected))


def _check_moves(studies: Sequence[Study]) -> CheckedMoves:
    """Check every placement of the Moves sections within its ceiling, and every bound on moves."""
    placements, proven, rejected = 0, 0, []
    for study in studies:
        found = study.moves
        if found is None:
            continue
        claims = {name: Solution(found.problem, one.placement) for name, one in found.fixed.items()}
        for point, one in enumerate(found.repaired):
            posed = found.posed(point)
            claims[f"repair, {found.ceilings[point]:.1%} above"] = Solution(posed, one.placement, found.proven[point])
        for name, claim in claims.items():
            verdicts = verify(claim.problem, claim).layers
            placements += sum(verdict.placement_ok is not None for verdict in verdicts)
            proven += sum(verdict.bound == "proven" for verdict in verdicts)
            where = f"{title(study.problem)}: moves of {name}"
            layers = zip(study.problem.load.layer_ids, verdicts, strict=True)
            rejected += [f"{where}, layer {i}: {verdict.reason}" for i, verdict in layers if not verdict.ok]
    return CheckedMoves(placements, proven, tuple(rejected))


def _check(study: Study) -> Checked:
    problem = replace(study.problem, reference=reference_placement(study.problem))
    known = study.known
    methods = {
        name: _check_rows(problem, against(known, run.found), study.layers[study.layers.method == name])
        for name, run in study.runs.items()
    }
    return Checked(study, verify_bound(problem, known.bound).layers, methods)


def _check_rows(problem: PlacementProblem, found: Solution, rows: pd.DataFrame) -> tuple[LayerVerdict, ...]:
    """Check what a method found, its bound left aside, and that its rows of the table say the same."""
    claimed = replace(found, problem=problem, bound=Bound(found.bound.value, found.bound.source))
    verified = verify(problem, claimed, tolerance=claimed.tolerance).layers
    verdicts = []
    for i, (verdict, row) in enumerate(zip(verified, rows.itertuples(), strict=True)):
        faults = _faults(row, claimed, i, verdict.makespan) if verdict.ok else []
        if faults:
            verdict = replace(verdict, status_ok=False, reason=f"REJECTED: the table says {', '.join(faults)}")
        verdicts.append(verdict)
    return tuple(verdicts)


def _faults(row: Any, claimed: Solution, i: int, makespan: Fraction | None) -> list[str]:
    """Say which entries of a row are not what was checked, and what they should be.

    Makespan and gap are held against their exact values; the others are those of ``claimed``, in
    which they were checked.
    """
    bound = float(claimed.lower_bound[i])
    gap = None
    if makespan is not None and bound > 0:
        gap = makespan / Fraction(bound) - 1
    elif makespan == 0 == bound:
        gap = Fraction(0)
    right = {
        "status": row.status == str(claimed.status[i]),
        "lower_bound": _equal(row.lower_bound, bound, 0),
        "moves": _equal(row.moves, None if math.isnan(claimed.moves[i]) else claimed.moves[i], 0),
        "makespan": _equal(row.makespan, makespan, TABLE_SLACK * (makespan or 0)),
        "gap": _equal(row.gap, gap, TABLE_SLACK * (1 + (gap or 0))),
    }
    exact = {"makespan": makespan, "gap": gap, "moves": claimed.moves[i], "lower_bound": bound}
    return [
        f"{name} {getattr(row, name)}, not {exact.get(name, claimed.status[i])!s}"
        for name, holds in right.items()
        if not holds
    ]


def _equal(stated: Any, true: Fraction | float | None, slack: Fraction | float) -> bool:
    """Whether a printed number is the true one; a number that is not known must not be printed."""
    if pd.isna(stated) or true is None:
        return bool(pd.isna(stated)) and true is None
    return abs(Fraction(float(stated)) - Fraction(true)) <= slack


def _record(done: Checked, written: bool) -> SettingRecord:
    """Record a study; placements too, where they are ``written`` as files of the report."""
    study = done.study
    methods = done.methods if written else {}
    files = {
        name: placements_file(study.problem, name) for name in methods if study.runs[name].found.placement is not None
    }
    return setting_record(study.problem, study.known.bound, done.bound, methods, files=files)
