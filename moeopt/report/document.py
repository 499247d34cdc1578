"""report.md: what was asked, what came out, what it means, how to get it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeopt import metrics
from moeopt.report.settings import label, title
from moeopt.report.study import Study, best_makespan, layer_bound
from moeopt.report.tables import HEADINGS, cells, markdown, milliseconds, percent, reasons, rows_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN_INTERVALS = 8

PROBLEM = """\
Every layer's experts are placed on GPUs so that the fullest GPU has the least load; copies of an
expert share its load equally. The problem is posed in its widest reading: a GPU may hold two
copies of one expert and a slot may stay empty. So one lower bound speaks for all methods."""

MEANING = """\
## How to read the tables

* **gap** = fullest GPU's load / proven lower bound - 1: a method is *at most* this far above the
  best possible. The bound is the best of the combinatorial bounds and of all exact methods' bounds,
  and every method is held against the same one. Where the bound is not tight, the true distance is
  smaller than the gap.
* **step gap** = gap of the sums over layers. Layers run one after another, so this is the share
  of expert time that a better placement could save at most.
* **imbal.** = fullest / mean GPU load, mean over layers; 1 is perfect balance, but not always possible.
* **sigma** = standard deviation of all GPUs' shares of their layer's load.
* **moves** = copies that are not yet on their GPU in the reference placement, all layers together.
* **opt. %** = share of layers proven within {gap:g} % of the best possible.
* **run ms** = median over repeats after a warm-up, all layers together; an exact method runs once{hint}.
"""


def document(
    studies: Sequence[Study],
    summary: pd.DataFrame,
    pictures: Iterable[str],
    facts: dict[str, Any],
) -> str:
    """Return the report as markdown.

    ``facts`` are those of ``run.json``; ``pictures`` are file names under ``figures/``.
    """
    arguments = facts["arguments"]
    parts = ["# Gap report: how far from the best possible placement", PROBLEM, "## Traces", _traces(facts)]
    parts += [f"Moves count from {arguments['reference'] or 'the contiguous (vanilla) layout'}.", "## Results"]
    parts += ["\n".join(f"* **{title(s.problem)}**: {' '.join(headline(s, rows_of(summary, s)))}" for s in studies)]
    available = set(pictures)
    if facts["verification"]:
        parts.append(f"Checked independently in exact arithmetic: {facts['verification']} (`certificates.json`).")
    small = [study for study in studies if study.problem.load.source in facts["small"]]
    for study in studies:
        if study not in small:
            parts += _setting(study, rows_of(summary, study), available)
    if small:
        parts += ["## Small instances, where every exact method finishes", agreement(small)]
        for study in small:
            parts += _setting(study, rows_of(summary, study), available)
    if facts["impossible"]:
        parts += ["## Settings left out", "\n".join(f"* {reason}" for reason in facts["impossible"])]
    hint = ", starting from the best heuristic placement, whose time is not counted" if facts["effort"]["hint"] else ""
    parts += [MEANING.format(gap=100 * facts["effort"]["gap"], hint=hint), "## How to reproduce", _reproduce(facts)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def headline(study: Study, rows: pd.DataFrame) -> list[str]:
    """Return what is proven, which heuristic won, where EPLB stands and what the policy costs."""
    done = rows[rows.layers_solved == rows.layers]
    exact = [name for name, run in study.runs.items() if run.solution is not None]
    heuristics = done[~done.method.isin(exact)].sort_values(["step_gap", "runtime_ms_median"], kind="stable")
    sentences = [_proof(study)]
    if len(heuristics):
        best = heuristics.iloc[0]
        sentences.append(
            f"Best heuristic: {best.method}, step gap {percent(best.step_gap)} %, "
            f"{milliseconds(best.runtime_ms_median)} ms."
        )
        if best.method != "eplb":
            sentences += [
                f"EPLB: step gap {percent(row.step_gap)} %, {milliseconds(row.runtime_ms_median)} ms."
                for row in heuristics[heuristics.method == "eplb"].itertuples()
            ]
    if study.without_groups is not None:
        sentences.append(price(study))
    return sentences


def agreement(studies: Sequence[Study]) -> str:
    """Say which exact methods proved every layer of these settings, and which did not."""
    finished: dict[str, list[bool]] = {}
    for study in studies:
        for name, run in study.runs.items():
            if run.solution is not None:
                rows = study.layers[study.layers.method == name]
                finished.setdefault(name, []).append(bool((rows.status == "OPTIMAL").all()))
    proved = [name for name, done in finished.items() if all(done)]
    others = [name for name in finished if name not in proved]
    text = "Six or eight experts on 2 and 4 GPUs; no exact method is given a placement to start from."
    if proved:
        text += f" Proven optimal on every layer of every setting, by each on its own: {', '.join(proved)}."
    if others:
        text += f" Not on every layer: {', '.join(others)}."
    return text


def price(study: Study) -> str:
    """Say what the rule of groups and nodes costs, as a ratio of bounds and as a proven interval."""
    assert study.without_groups is not None
    bound, above = layer_bound(study).value.sum(), layer_bound(study.without_groups).value.sum()
    least = bound / np.nansum(best_makespan(study.without_groups))
    most = np.nansum(best_makespan(study)) / above
    return (
        f"Price of the policy (groups kept on one node): {percent(bound / above - 1)} % as the ratio of the two "
        f"bounds; proven to lie between {percent(max(least - 1, 0.0))} and {percent(most - 1)} % of the step."
    )


def _proof(study: Study) -> str:
    best, bound = best_makespan(study), layer_bound(study).value
    proven = int(study.layers[study.layers.status == "OPTIMAL"].layer.nunique())
    text = f"Optimum proven on {proven} of {len(best)} layers"
    open_gap = metrics.step_gap(best, bound) if not np.isnan(best).any() else 0.0
    return text + ("." if proven == len(best) else f" (all layers together to {percent(open_gap)} %).")


def _setting(study: Study, rows: pd.DataFrame, available: set[str]) -> list[str]:
    parts = [f"### {title(study.problem)}", markdown(HEADINGS, [cells(row) for _, row in rows.iterrows()])]
    notes = reasons(rows)
    if notes:
        parts.append("\n".join(f"* {note}" for note in notes))
    if study.without_groups is not None:
        parts.append(f"The gap above is to the hierarchical bound: the method's own fault. {price(study)}")
    parts.append(_open_layers(study))
    for kind, text in (
        ("heatmap", "Load of every GPU relative to the mean"),
        ("boxplot", "Spread of GPU loads"),
        ("gap_by_layer", "Gap by layer"),
        ("gap_runtime", "Gap against runtime"),
    ):
        name = f"{label(study.problem)}_{kind}.png"
        if name in available:
            parts.append(f"![{text}](figures/{name})")
    return parts


def _open_layers(study: Study) -> str:
    """Return the interval that holds the optimum of every layer without proof, widest first."""
    proven = set(study.layers[study.layers.status == "OPTIMAL"].layer)
    best, bound = best_makespan(study), layer_bound(study)
    width = metrics.gap(best, bound.value)
    still_open = [i for i, layer in enumerate(study.problem.load.layer_ids) if layer not in proven]
    if not still_open:
        return "Every layer's optimum is proven."
    still_open.sort(key=lambda i: -width[i])
    rows = [
        [str(study.problem.load.layer_ids[i]), f"{bound.value[i]:.10g}", f"{best[i]:.10g}", percent(width[i])]
        for i in still_open[:SHOWN_INTERVALS]
    ]
    text = f"{len(still_open)} of {len(best)} layers are open: their optimum lies between bound and best makespan."
    if len(still_open) > SHOWN_INTERVALS:
        text += f" The {SHOWN_INTERVALS} widest intervals (all are in `layers.csv`):"
    return text + "\n\n" + markdown(("layer", "lower bound", "best makespan", "width %"), rows)


def _traces(facts: dict[str, Any]) -> str:
    rows = [
        [t["name"], t["origin"], f"{t['layers']} x {t['experts']}", f"{t['tokens']:g}", t["sha256"][:12]]
        for t in facts["traces"]
    ]
    return markdown(("trace", "origin", "layers x experts", "tokens", "sha256"), rows)


def _reproduce(facts: dict[str, Any]) -> str:
    command = shlex.join(["python", "scripts/gap_report.py", *facts["command"]])
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = ", ".join(str(value) for value in facts["machine"].values())
    return f"```\n{command}\n```\n\n{versions}; {machine}. Seed {facts['seed']}; the whole record is in `run.json`."
