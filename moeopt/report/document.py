"""report.md: what was asked, what came out, what it means, how to get it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from moeopt import bounds, metrics
from moeopt.metrics import Floats
from moeopt.report.facts import Facts
from moeopt.report.moves_tables import section, sentence
from moeopt.report.settings import label, title
from moeopt.report.study import Study
from moeopt.report.tables import HEADINGS, SummaryRow, cells, markdown, milliseconds, percent, reasons, summarise
from moeopt.solution import Solution, SolveStatus

SHOWN_INTERVALS = 8

HINT = (
    ", starting from the best heuristic placement, whose time is not counted, and keeping it where it finds none "
    "better or is not given the time"
)

PROBLEM = """\
Every layer's experts are placed on GPUs so that the fullest GPU has the least load; copies of an
expert share its load equally. The problem is posed in its widest reading: a GPU may hold two
copies of one expert and a slot may stay empty. So one lower bound speaks for all methods."""

READINGS = (
    (
        "gap",
        "fullest GPU's load / proven lower bound - 1: a method is at most this far above the best possible. The bound "
        "is the best of the combinatorial bounds and of all exact methods' bounds, and every method is held against "
        "the same one. Where the bound is not tight, the true distance is smaller than the gap.",
    ),
    (
        "step gap",
        "gap of the sums over layers. Layers run one after another, so this is the share of expert time that a better "
        "placement could save at most.",
    ),
    ("imbal.", "fullest / mean GPU load, mean over layers; 1 is perfect balance, but not always possible."),
    ("sigma", "standard deviation of all GPUs' shares of their layer's load."),
    ("moves", "copies that are not yet on their GPU in the reference placement, all layers together."),
    ("opt. %", "share of layers proven within {tolerance:g} % of the best possible."),
    (
        "run ms",
        "median over repeats after a warm-up, all layers together, on one machine with nothing else of ours running; "
        "an exact method runs once{exact}.",
    ),
)
"""What the columns of the tables mean."""


def document(studies: Sequence[Study], pictures: Iterable[str], facts: Facts) -> str:
    """Return the report as markdown; ``pictures`` are file names under ``figures/``."""
    parts = ["# Gap report: how far from the best possible placement", PROBLEM, "## Traces", _traces(facts)]
    parts += [f"Moves count from {in_force(facts)}.", "## Results"]
    parts += ["\n".join(f"* **{title(study.problem)}**: {' '.join(headline(study))}" for study in studies)]
    available = set(pictures)
    if facts.verification:
        parts.append(f"Checked independently in exact arithmetic: {facts.verification} (`certificates.json`).")
    small = [study for study in studies if study.problem.load.source in facts.small]
    for study in studies:
        if study not in small:
            parts += _setting(study, available)
            parts += _moves(study, available, facts)
    if small:
        parts += ["## Small instances, where every exact method finishes", agreement(small)]
        for study in small:
            parts += _setting(study, available)
    if facts.impossible:
        parts += ["## Settings left out", "\n".join(f"* {reason}" for reason in facts.impossible)]
    told = [f"* **{name}** = {text}" for name, text in meaning(facts)]
    told.append(
        "* Numbers in brackets behind a name: the method has placements on so many of the layers, and its row speaks "
        "of those."
    )
    parts += ["## How to read the tables", "\n".join(told), "## How to reproduce", _reproduce(facts)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def headline(study: Study) -> list[str]:
    """Return what is proven, which heuristic won, where EPLB stands and what policy and dispatch cost."""
    rows = [row for row in summarise(study) if row.method not in study.exact and row.layers_solved == row.layers]
    sentences = [_proof(study)]
    if rows:
        best = min(rows, key=lambda row: (row.step_gap, row.runtime_ms_median))
        sentences.append(f"Best heuristic: {best.method}, {_speed(best)}.")
        sentences += [f"EPLB: {_speed(row)}." for row in rows if row.method == "eplb" != best.method]
    if study.without_groups is not None:
        sentences.append(price(study, study.without_groups))
    limited = study.problem.max_moves is not None or study.problem.max_makespan is not None
    if study.problem.num_redundant and study.known.solved.size and not limited:
        sentences.append(dispatch_price(study))
    if study.moves is not None:
        sentences.append(sentence(study.moves))
    return sentences


def meaning(facts: Facts) -> list[tuple[str, str]]:
    """Return what every column of the tables means."""
    exact = (f", on {facts.cluster}" if facts.cluster else "") + (HINT if facts.effort.warm else "")
    tolerance = 100 * facts.effort.tolerance
    return [(name, text.format(tolerance=tolerance, exact=exact)) for name, text in READINGS]


def in_force(facts: Facts) -> str:
    """Name the placement that moves count from."""
    if facts.reference is not None:
        older = facts.reference
        return f"EPLB's placement on the older loads of {older.origin} (sha256 {older.sha256[:12]})"
    return f"{facts.arguments.reference}" if facts.arguments.reference else "the contiguous (vanilla) layout"


def _speed(row: SummaryRow) -> str:
    return f"step gap {percent(row.step_gap)} %, {milliseconds(row.runtime_ms_median)} ms"


def agreement(studies: Sequence[Study]) -> str:
    """Say which exact methods proved every layer of these settings, and which did not.

    A method that does not take a problem is not counted for it.
    """
    finished: dict[str, list[bool]] = {}
    for study in studies:
        for name in study.exact:
            status = set(study.layers[study.layers.method == name].status)
            if status != {"SKIPPED"}:
                finished.setdefault(name, []).append(status == {"OPTIMAL"})
    proved = [name for name, done in finished.items() if all(done)]
    others = [name for name in finished if name not in proved]
    text = "Six or eight experts on 2 and 4 GPUs; no exact method is given a placement to start from."
    if proved:
        text += f" Proven optimal on every layer of every setting it takes, by each on its own: {', '.join(proved)}."
    if others:
        text += f" Not on every layer: {', '.join(others)}."
    return text


def price(study: Study, without: Study) -> str:
    """Say what the rule of groups and nodes costs, as a ratio of bounds and as a proven interval."""
    both = np.intersect1d(study.known.solved, without.known.solved)
    if not both.size:
        return "Price of the policy (groups kept on one node): not known, for want of placements."
    ours, free = study.known[both], without.known[both]
    layers = "" if len(both) == study.known.num_layers else f" (of the {len(both)} layers with placements)"
    spread = _spread(ours.lower_bound, ours.makespan, free.lower_bound, free.makespan)
    return f"Price of the policy (groups kept on one node): {spread}{layers}."


def dispatch_price(study: Study) -> str:
    """Say what it costs that copies share evenly, against the optimal split of tokens, likewise."""
    known = study.known[study.known.solved]
    free = Solution(replace(known.problem, split="optimal"), known.placement)
    spread = _spread(known.lower_bound, known.makespan, bounds.lower_bound(free.problem).value, free.makespan)
    return f"Price of the dispatch rule (copies share evenly): {spread}."


def _spread(bound: Floats, reached: Floats, free_bound: Floats, free_reached: Floats) -> str:
    """What a rule costs, from bounds and makespans with the rule and without."""
    least, most = bound.sum() / free_reached.sum(), reached.sum() / free_bound.sum()
    return (
        f"{percent(bound.sum() / free_bound.sum() - 1)} % as the ratio of the two bounds; proven to lie between "
        f"{percent(max(least - 1, 0.0))} and {percent(most - 1)} % of the step"
    )


def _proof(study: Study) -> str:
    known = study.known
    proven = known.status.count(SolveStatus.OPTIMAL)
    text = f"Optimum proven on {proven} of {known.num_layers} layers"
    if proven == known.num_layers:
        return f"{text}."
    if len(known.solved) < known.num_layers:
        return f"{text}; {known.num_layers - len(known.solved)} have no placement."
    return f"{text} (all layers together to {percent(metrics.step_gap(known.makespan, known.lower_bound))} %)."


def _setting(study: Study, available: set[str]) -> list[str]:
    rows = summarise(study)
    parts = [f"### {title(study.problem)}", markdown(HEADINGS, [cells(row) for row in rows])]
    notes = reasons(rows)
    if notes:
        parts.append("\n".join(f"* {note}" for note in notes))
    if study.without_groups is not None:
        text = price(study, study.without_groups)
        parts.append(f"The gap above is to the hierarchical bound: the method's own fault. {text}")
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


def _moves(study: Study, available: set[str], facts: Facts) -> list[str]:
    if study.moves is None:
        return []
    parts = section(study.moves, in_force(facts), facts.arguments.expert_bytes)
    name = f"{label(study.problem)}_moves.png"
    return [*parts, f"![Moves against balance](figures/{name})"] if name in available else parts


def _open_layers(study: Study) -> str:
    """Return the interval that holds the optimum of every layer without proof, widest first."""
    known = study.known
    still_open = known.still_open
    if not still_open.size:
        return "Every layer's optimum is proven."
    widest = known[still_open[np.argsort(-known.gap[still_open], kind="stable")][:SHOWN_INTERVALS]]
    rows = [
        [str(layer), f"{bound:.10g}", f"{best:.10g}", percent(width)]
        for layer, bound, best, width in zip(
            widest.problem.load.layer_ids, widest.lower_bound, widest.makespan, widest.gap, strict=True
        )
    ]
    text = f"{len(still_open)} of {len(known)} layers are open: their optimum lies between bound and best makespan."
    if len(still_open) > SHOWN_INTERVALS:
        text += f" The {SHOWN_INTERVALS} widest intervals (all are in `layers.csv`):"
    return text + "\n\n" + markdown(("layer", "lower bound", "best makespan", "width %"), rows)


def _traces(facts: Facts) -> str:
    rows = [[t.name, t.origin, f"{t.layers} x {t.experts}", f"{t.tokens:g}", t.sha256[:12]] for t in facts.traces]
    table = markdown(("trace", "origin", "layers x experts", "tokens", "sha256"), rows)
    return "\n\n".join([table, *(f"{t.name}: {t.note}." for t in facts.traces if t.note)])


def _reproduce(facts: Facts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    where = f"; exact methods on {facts.cluster}" if facts.cluster else ""
    record = f"{versions}; {facts.machine}{where}. Seed {facts.arguments.seed}; the whole record is in `run.json`."
    return f"```\n{shlex.join(facts.command)}\n```\n\n{record}" if facts.command else record
