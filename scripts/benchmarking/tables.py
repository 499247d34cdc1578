"""The tables of the page, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarking.measure import exponent
from benchmarking.records import BalancerRow, ColdRow, Duel, ExactRow, GrowthRow, Measured, MemoryRow, MovesRow
from moeopt.report.tables import markdown, milliseconds, percent

SHOWN_OPEN = 12
"""Layers without proof that the page lists, widest interval first."""


def duel_table(rows: Sequence[Duel]) -> str:
    """Rivals and ours, a row per setting and rival."""
    headings = ("GPUs / slots", "rival", "rival ms", "ours", "ours ms", "times as fast", "same %")
    return markdown(
        headings,
        [
            [
                _shape(row), row.rival, milliseconds(row.rival_ms), row.ours, milliseconds(row.ours_ms),
                f"{row.times:.0f} ({row.times_low:.0f} to {row.times_high:.0f})", f"{100 * row.same:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def matrix(rows: Sequence[BalancerRow], value: Callable[[Measured], float], write: Callable[[float], str]) -> str:
    """Settings down, methods across; the mean over traces of one value."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = []
    for shape in dict.fromkeys(_shape(row) for row in rows):
        cells = [shape]
        for method in methods:
            values = [value(r.measured) for r in rows if r.method == method and _shape(r) == shape and r.measured]
            cells.append(write(float(np.mean(values))) if values else "-")
        lines.append(cells)
    return markdown(("GPUs / slots", *(method.replace("_", " ") for method in methods)), lines)


def balancer_table(rows: Sequence[BalancerRow]) -> str:
    """Every method on every setting of one trace."""
    headings = (
        "GPUs / slots", "method", "ms", "quartiles", "imbal.", "worst imbal.", "gap %", "worst gap %", "proven %"
    )  # fmt: skip
    lines, seen = [], None
    for row in rows:
        shape, found = _shape(row), row.measured
        start = ["" if shape == seen else shape, row.method]
        seen = shape
        if found is None:
            lines.append([*start, *["-"] * (len(headings) - 2)])
            continue
        spread = f"{milliseconds(found.ms_low)}-{milliseconds(found.ms_high)}"
        quality = [f"{value:.4f}" for value in (found.mean_imbalance, found.worst_imbalance)]
        quality += [percent(value) for value in (found.mean_gap, found.max_gap)]
        lines.append([*start, milliseconds(found.ms), spread, *quality, f"{100 * found.proven:.0f}"])
    return markdown(headings, lines)


def exact_table(rows: Sequence[ExactRow]) -> str:
    """What the exact method proved of one trace, a row per setting."""
    headings = ("GPUs / slots", "proven", "gap %", "worst gap %", "s per layer", "worst s", "closed by")
    return markdown(
        headings,
        [
            [
                _shape(row), f"{row.proven}/{row.layers}", percent(row.mean_gap), percent(row.max_gap),
                f"{row.mean_seconds:.3f}", f"{row.max_seconds:.2f}",
                ", ".join(f"{source} {count}" for source, count in row.closed) or "-",
            ]
            for row in rows
        ],
    )  # fmt: skip


def open_table(rows: Sequence[ExactRow]) -> str:
    """The layers without proof and the interval that holds their optimum."""
    undecided = [(row, layer) for row in rows for layer in row.still_open]
    if not undecided:
        return "Every layer is proven."
    undecided.sort(key=lambda item: -item[1].gap if math.isfinite(item[1].gap) else -math.inf)
    text = f"{len(undecided)} layers are open: their optimum lies between bound and best makespan."
    if len(undecided) > SHOWN_OPEN:
        text += f" The {SHOWN_OPEN} widest intervals:"
    lines = [
        [
            row.trace, _shape(row), str(layer.layer), f"{layer.lower_bound:.10g}", f"{layer.makespan:.10g}",
            percent(layer.gap),
        ]
        for row, layer in undecided[:SHOWN_OPEN]
    ]  # fmt: skip
    headings = ("trace", "GPUs / slots", "layer", "lower bound", "best makespan", "width %")
    return text + "\n\n" + markdown(headings, lines)


def moves_table(rows: Sequence[MovesRow]) -> str:
    """What repairs cost, a row per setting and trace."""
    headings = ("GPUs / slots", "loads", "placement made for", "repair ms", "moves per layer", "reached", "eplb moves")
    return markdown(
        headings,
        [
            [
                _shape(row), row.trace, row.older, milliseconds(row.ms), f"{row.moves:.1f}",
                f"{row.reached}/{row.layers}", f"{row.eplb_moves:.1f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def growth_table(rows: Sequence[GrowthRow]) -> str:
    """Seconds by size, and the growth of the largest sizes."""
    methods = list(rows[0].seconds)
    lines = [
        [f"{row.experts:,}", f"{row.gpus:,}", f"{row.slots:,}", *(_seconds(row.seconds[name]) for name in methods)]
        for row in rows
    ]
    sizes = [float(max(row.experts / rows[0].experts, row.gpus / rows[0].gpus)) for row in rows]
    powers = [exponent(sizes, [row.seconds[name] for row in rows]) for name in methods]
    lines.append(["growth", "", "", *("-" if math.isnan(power) else f"{power:.1f}" for power in powers)])
    return markdown(("experts", "GPUs", "slots", *methods), lines)


def cold_table(rows: Sequence[ColdRow]) -> str:
    """Imports and first calls."""
    lines = [[row.step, milliseconds(row.warm_ms), milliseconds(row.cold_ms)] for row in rows]
    return markdown(("step", "warm ms", "without cache ms"), lines)


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """Peak memory by size and method."""
    lines = [
        [
            f"{row.layers} x {row.experts:,}", f"{row.gpus:,} / {row.slots:,}", row.method,
            *(f"{value / 2**20:.0f}" for value in (row.problem, row.kernels, row.peak, row.peak - row.kernels)),
        ]
        for row in rows
    ]  # fmt: skip
    headings = ("layers x experts", "GPUs / slots", "method", "problem", "kernels", "after call", "call adds")
    return markdown(headings, lines)


def _shape(row: Duel | BalancerRow | ExactRow | MovesRow) -> str:
    return f"{row.num_gpus} / {row.num_slots}"


def _seconds(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.2g}" if value < 10 else f"{value:.0f}"
