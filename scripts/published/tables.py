"""The tables of the page, one function each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moeopt.balancers import BALANCERS
from moeopt.problem import PlacementProblem
from moeopt.report.facts import TraceRecord
from moeopt.report.tables import markdown, milliseconds, percent
from published.measure import Contest, Quality, Row
from published.projects import Project

HEADINGS = (
    "method", "gap %", "worst %", "layer", "step gap %", "moves", "doubled", "ahead", "CPU ms", "x eplb", "x search"
)  # fmt: skip

BESIDE = ("eplb", "search", "solve")
"""Ours in the first table."""


def best(contests: Sequence[Contest]) -> str:
    """A row per setting: the published balancer that comes closest to the bound, beside ours."""
    headings = ("trace", "GPUs/slots", "closest published", "gap %", "x eplb", *(f"{name} gap %" for name in BESIDE))
    lines = []
    for one in contests:
        found = {row.method: row.quality for row in one.rows if row.quality is not None}
        others = [name for name in found if name not in (*BALANCERS, "solve")]
        name = min(others, key=lambda name: (found[name].mean_gap, found[name].ms), default="")
        theirs = [name, percent(found[name].mean_gap), times(found[name].times_eplb)] if name else ["-"] * 3
        ours = [percent(found[name].mean_gap) for name in BESIDE]
        lines.append([one.problem.load.source, shape(one.problem), *theirs, *ours])
    return markdown(headings, lines)


def matrix(contests: Sequence[Contest], write: Callable[[Quality], str]) -> str:
    """Methods down, settings across: one value of each."""
    lines = []
    for method in methods(contests):
        found = [next((row.quality for row in one.rows if row.method == method), None) for one in contests]
        lines.append([method, *("-" if quality is None else write(quality) for quality in found)])
    return markdown(("method", *(shape(one.problem) for one in contests)), lines)


def setting(one: Contest) -> str:
    """Every method on one setting."""
    return markdown(HEADINGS, map(_cells, one.rows))


def _cells(row: Row) -> list[str]:
    found = row.quality
    if found is None:
        return [row.method, *["-"] * (len(HEADINGS) - 1)]
    return [
        row.method, percent(found.mean_gap), percent(found.worst_gap), str(found.worst_layer), percent(found.step_gap),
        str(found.moves), str(found.doubled), str(found.ahead), milliseconds(found.ms), times(found.times_eplb),
        times(found.times_search),
    ]  # fmt: skip


def origins(projects: Sequence[Project]) -> str:
    """Where the balancers come from, and notes on how they were called."""
    headings = ("method", "project", "version", "file", "licence", "get it from")
    rows = [[p.name, p.project, p.version, f"`{p.file}`", p.licence, f"<{p.source}>"] for p in projects]
    notes = [f"* {p.name}: {p.note}" for p in projects if p.note]
    return "\n\n".join([markdown(headings, rows), "\n".join(notes)]).strip()


def loads(traces: Sequence[TraceRecord], older: Sequence[TraceRecord]) -> str:
    """The traces, and what the placement in force was made for."""
    before = [f"EPLB's on {record.origin}" for record in older] or ["contiguous"] * len(traces)
    headings = ("trace", "origin", "layers x experts", "placement in force", "sha256")
    return markdown(
        headings,
        [
            [record.name, record.origin, f"{record.layers} x {record.experts}", placement, record.sha256[:12]]
            for record, placement in zip(traces, before, strict=True)
        ],
    )


def methods(contests: Sequence[Contest]) -> list[str]:
    """Names of all methods."""
    return list(dict.fromkeys(row.method for one in contests for row in one.rows))


def shape(problem: PlacementProblem) -> str:
    """GPUs and slots, and nodes where there are such."""
    nodes = f", {problem.num_nodes} nodes" if problem.hierarchical else ""
    return f"{problem.num_gpus}/{problem.slots}{nodes}"


def times(value: float) -> str:
    """Return a multiple with the decimals that matter."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
