"""Summary rows from layer rows, and the two ways a table is shown: markdown and terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from moeopt import metrics
from moeopt.report.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SHOWN_NOTES = 2
"""Reasons of one method that a summary row repeats; ``layers.csv`` has all."""

HEADINGS = ("method", "mean gap %", "max gap %", "step gap %", "imbal.", "sigma", "moves", "opt. %", "run ms")


@dataclass(frozen=True)
class SummaryRow:
    """One method on one setting: the fields are the columns of ``summary.csv``.

    Numbers speak of the layers that have a placement, runtimes of all layers together over the repeats;
    what is not known is NaN, or None for ``moves``.
    """

    trace: str
    num_gpus: int
    num_slots: int
    num_nodes: int
    num_groups: int
    method: str
    layers: int
    layers_solved: int
    mean_gap: float = math.nan
    max_gap: float = math.nan
    step_gap: float = math.nan
    mean_imbalance: float = math.nan
    sigma: float = math.nan
    moves: int | None = None
    share_optimal: float = 0.0
    runtime_ms_mean: float = math.nan
    runtime_ms_std: float = math.nan
    runtime_ms_min: float = math.nan
    runtime_ms_max: float = math.nan
    runtime_ms_median: float = math.nan
    policy_price: float = math.nan
    note: str = ""


def layer_table(studies: Iterable[Study]) -> pd.DataFrame:
    """All layer rows of all settings: ``layers.csv``."""
    import pandas as pd

    tables = []
    for study in studies:
        table = study.layers.copy()
        table.attrs = {}
        table.insert(3, "num_nodes", study.problem.num_nodes)
        table.insert(4, "num_groups", study.problem.num_groups)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary_table(studies: Iterable[Study]) -> pd.DataFrame:
    """A row per trace, setting and method: ``summary.csv``."""
    import pandas as pd

    rows = [asdict(row) for study in studies for row in summarise(study)]
    return pd.DataFrame(rows, columns=[field.name for field in fields(SummaryRow)]).astype({"moves": "Int64"})


def summarise(study: Study) -> list[SummaryRow]:
    """One row per method of the setting, in the order of its runs."""
    return [_summarise(study, name) for name in study.runs]


def _summarise(study: Study, name: str) -> SummaryRow:
    problem, run = study.problem, study.runs[name]
    rows = study.layers[study.layers.method == name]
    solved = rows[rows.makespan.notna()]
    counts = Counter(note for note in rows.note if note)
    notes = [note if n == len(rows) else f"{note} ({n} layers)" for note, n in counts.most_common(SHOWN_NOTES)]
    row = SummaryRow(
        trace=problem.load.source,
        num_gpus=problem.num_gpus,
        num_slots=problem.slots,
        num_nodes=problem.num_nodes,
        num_groups=problem.num_groups,
        method=name,
        layers=len(rows),
        layers_solved=len(solved),
        share_optimal=float((rows.status == "OPTIMAL").mean()),
        policy_price=rows.lower_bound.sum() / rows.global_bound.sum() if problem.hierarchical else math.nan,
        note="; ".join(notes) + ("; ..." if len(counts) > SHOWN_NOTES else ""),
    )
    if len(solved):
        row = replace(
            row,
            mean_gap=float(solved.gap.mean()),
            max_gap=float(solved.gap.max()),
            step_gap=metrics.step_gap(solved.makespan, solved.lower_bound),
            mean_imbalance=float(solved.imbalance.mean()),
            sigma=metrics.sigma(run.found.gpu_load[run.found.solved]),
            moves=int(solved.moves.sum()),
        )
    if run.seconds:
        milliseconds = np.array(run.seconds) * 1e3
        row = replace(
            row,
            runtime_ms_mean=float(milliseconds.mean()),
            runtime_ms_std=float(milliseconds.std()),
            runtime_ms_min=float(milliseconds.min()),
            runtime_ms_max=float(milliseconds.max()),
            runtime_ms_median=float(np.median(milliseconds)),
        )
    return row


def reasons(rows: Iterable[SummaryRow]) -> list[str]:
    """Return ``method: reason`` for every summary row that carries a note."""
    return [f"{row.method}: {row.note}" for row in rows if row.note]


def cells(row: SummaryRow) -> list[str]:
    """One summary row as the cells under ``HEADINGS``; a dash where there is no placement.

    A method that has placements on some layers only says on how many, in brackets.
    """
    if not row.layers_solved:
        return [row.method, *["-"] * (len(HEADINGS) - 1)]
    name = row.method
    if row.layers_solved < row.layers:
        name += f" ({row.layers_solved}/{row.layers})"
    return [
        name,
        *(percent(value) for value in (row.mean_gap, row.max_gap, row.step_gap)),
        f"{row.mean_imbalance:.4f}",
        f"{row.sigma:.2g}",
        f"{row.moves:d}",
        f"{100 * row.share_optimal:.0f}",
        milliseconds(row.runtime_ms_median),
    ]


def percent(value: float) -> str:
    """Return a fraction in percent with three decimals; never shows a real gap as 0.000."""
    if 0 < value < 5e-6:
        return "<0.001"
    return f"{100 * value:.3f}"


def milliseconds(value: float) -> str:
    """Return milliseconds with the decimals that matter."""
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a pipe table, the first column left, the others right."""
    lines = [" | ".join(headings), " | ".join([":--", *["--:"] * (len(headings) - 1)])]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def terminal(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for rich that fits 100 columns."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
