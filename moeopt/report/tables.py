"""Summary rows from layer rows, and the two ways a table is shown: markdown and terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeopt import metrics
from moeopt.report.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SUMMARY_COLUMNS = (
    "trace", "num_gpus", "num_slots", "num_nodes", "num_groups", "method", "layers", "layers_solved",
    "mean_gap", "max_gap", "step_gap", "mean_imbalance", "sigma", "moves", "share_optimal",
    "runtime_ms_mean", "runtime_ms_std", "runtime_ms_min", "runtime_ms_max", "runtime_ms_median",
    "policy_price", "note",
)  # fmt: skip

SHOWN_NOTES = 2
"""Reasons of one method that a summary row repeats; ``layers.csv`` has all."""

HEADINGS = ("method", "mean gap %", "max gap %", "step gap %", "imbal.", "sigma", "moves", "opt. %", "run ms")


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

    rows = [_summarise(study, name) for study in studies for name in study.runs]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype({"moves": "Int64"})


def _summarise(study: Study, name: str) -> dict[str, Any]:
    """Numbers over the layers that have a placement; runtimes over repeats, all layers together."""
    problem, run = study.problem, study.runs[name]
    rows = study.layers[study.layers.method == name]
    solved = rows[rows.makespan.notna()]
    counts = Counter(note for note in rows.note if note)
    notes = [note if n == len(rows) else f"{note} ({n} layers)" for note, n in counts.most_common(SHOWN_NOTES)]
    row: dict[str, Any] = {
        "trace": problem.load.source,
        "num_gpus": problem.num_gpus,
        "num_slots": problem.slots,
        "num_nodes": problem.num_nodes,
        "num_groups": problem.num_groups,
        "method": name,
        "layers": len(rows),
        "layers_solved": len(solved),
        "share_optimal": float((rows.status == "OPTIMAL").mean()),
        "policy_price": rows.lower_bound.sum() / rows.global_bound.sum() if problem.hierarchical else np.nan,
        "note": "; ".join(notes) + ("; ..." if len(counts) > SHOWN_NOTES else ""),
    }
    if run.placement is not None and len(solved):
        index = run.solved.tolist()
        row |= {
            "mean_gap": solved.gap.mean(),
            "max_gap": solved.gap.max(),
            "step_gap": metrics.step_gap(solved.makespan, solved.lower_bound),
            "mean_imbalance": solved.imbalance.mean(),
            "sigma": metrics.sigma(metrics.gpu_load(problem.load[index], run.placement[index])),
            "moves": int(solved.moves.sum()),
        }
    if run.seconds:
        runtimes = np.array(run.seconds) * 1e3
        for statistic in ("mean", "std", "min", "max", "median"):
            row[f"runtime_ms_{statistic}"] = float(getattr(np, statistic)(runtimes))
    return row


def rows_of(summary: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the summary rows of one setting."""
    problem = study.problem
    same = (summary.trace == problem.load.source) & (summary.num_gpus == problem.num_gpus)
    return summary[same & (summary.num_slots == problem.slots)]


def reasons(rows: pd.DataFrame) -> list[str]:
    """Return ``method: reason`` for every summary row that carries a note."""
    return [f"{row.method}: {row.note}" for row in rows.itertuples() if row.note]


def cells(row: pd.Series[Any]) -> list[str]:
    """One summary row as the cells under ``HEADINGS``; a dash where there is no placement."""
    if not row.layers_solved:
        return [str(row.method), *["-"] * (len(HEADINGS) - 1)]
    name = str(row.method)
    if row.layers_solved < row.layers:
        name += f" ({row.layers_solved}/{row.layers})"
    return [
        name,
        *(percent(row[column]) for column in ("mean_gap", "max_gap", "step_gap")),
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
