"""performance.md and its pictures: what scripts/benchmark.py measured, as tables a newcomer can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from moeopt.report.benchmark import Row, exponent
from moeopt.report.tables import markdown, milliseconds, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_OPEN = 12
"""Layers without proof that the page lists, widest interval first."""

PANELS = ((8, 256), (32, 256), (32, 288), (72, 288), (96, 288), (144, 288))
"""Settings (GPUs, slots) drawn, as far as they were measured."""


@dataclass(frozen=True)
class Results:
    """Rows of every part that was run; an empty part is left out of the page."""

    duels: list[Row] = field(default_factory=list)
    balancers: list[Row] = field(default_factory=list)
    exact: list[Row] = field(default_factory=list)
    scaling: dict[str, list[Row]] = field(default_factory=dict)
    cold: list[Row] = field(default_factory=list)
    memory: list[Row] = field(default_factory=list)


def page(results: Results, facts: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the page as markdown; ``facts`` say what was run where, ``pictures`` are names of files."""
    parts = ["# Performance: how fast, and how close to the best possible", summary(results, facts)]
    if facts["impossible"]:
        parts.append("\n".join(f"* left out: {reason}" for reason in facts["impossible"]))
    if results.duels:
        parts += ["## Beside plain versions", DUELS, duel_table(results.duels)]
    if results.balancers:
        overview = [row for row in results.balancers if row["method"] not in FEWER_MOVES]
        text = BALANCERS.format(rounds=facts["repeats"], bounds=_bounds(results))
        parts += ["## Balancers: speed and quality", fill(text, WIDTH)]
        parts += ["Mean gap to the proven bound, %, mean over traces:", matrix(overview, "mean_gap", percent)]
        parts += ["Median runtime of all layers, ms, mean over traces:", matrix(overview, "ms", milliseconds)]
        parts += _picture("speed_quality", "Gap against runtime by method", pictures)
    if results.exact:
        parts += ["## Proven optimal", EXACT.format(limit=facts["time_limit"])]
        for trace in dict.fromkeys(row["trace"] for row in results.exact):
            parts += [f"{trace}:", exact_table([row for row in results.exact if row["trace"] == trace])]
        parts.append(open_table(results.exact))
    if results.scaling:
        parts += ["## Growth with the size of the problem", SCALING]
        parts += [f"{name}:\n\n{scaling_table(rows)}" for name, rows in results.scaling.items()]
        parts += _picture("scaling", "Runtime against experts and GPUs", pictures)
    if results.cold:
        parts += ["## Cold start", COLD, cold_table(results.cold)]
    if results.memory:
        parts += ["## Memory", MEMORY, memory_table(results.memory)]
    if results.balancers:
        parts.append("## Every trace and setting")
        for trace in dict.fromkeys(row["trace"] for row in results.balancers):
            parts += [f"### {trace}", balancer_table([r for r in results.balancers if r["trace"] == trace])]
    parts += ["## How to reproduce", _reproduce(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(results: Results, facts: Mapping[str, Any]) -> str:
    """The paragraph to quote: only what this run measured."""
    sentences = [f"Measured on {facts['cpu']} ({facts['cores']} cores), medians over rounds."]
    own = [row["ours_ms"] for row in results.duels if row["ours"] == DROP_IN]
    if own:
        sentences.append(
            f"EPLB for {facts['layers']} layers takes {milliseconds(min(own))} to {milliseconds(max(own))} ms "
            "through the torch drop-in (in brackets: GPUs / slots)."
        )
    for rival in dict.fromkeys(row["rival"] for row in results.duels if row["ours"] == DROP_IN):
        spans = [f"{r['times']:.0f} ({r['num_gpus']} / {r['num_slots']})" for r in results.duels if r["rival"] == rival]
        sentences.append(f"Times as fast as {rival}: {', '.join(spans)}.")
    best = {}
    for name in ("eplb", "search"):
        rows = [row for row in results.balancers if row["method"] == name and "ms" in row and _roomy(row)]
        if rows:
            best[name] = np.mean([row["mean_gap"] for row in rows]), np.mean([row["ms"] for row in rows])
    if best:
        texts = [f"{name} {percent(gap)} % in {milliseconds(ms)} ms" for name, (gap, ms) in best.items()]
        sentences.append(
            "Mean gap to a proven lower bound over all settings with three or more slots a GPU, and mean runtime: "
            f"{', '.join(texts)}."
        )
    if results.exact:
        proven, layers = (sum(row[key] for row in results.exact) for key in ("proven", "layers"))
        worst = max(row["max_gap"] for row in results.exact)
        sentences.append(
            f"The exact method proves {proven} of {layers} layers optimal within 0.01 %; "
            f"no layer is left with more than {percent(worst)} % unexplained."
        )
    return fill(" ".join(sentences), WIDTH)


WIDTH = 100
"""Columns of paragraphs that are put together here."""

DROP_IN = "drop-in"
"""How ``moeopt.rebalance_experts`` is called in tables."""

FEWER_MOVES = ("minimize_moves", "relabel")
"""Balancers that are after moves, not balance: in the tables of every setting only."""

DUELS = """\
The rivals run in turn with ours in the same rounds, single-threaded, all layers of one trace in one
call. *Times as fast* is the median over rounds of rival / ours, the least and the most in brackets.
*Same* is the share of layers placed alike, slot by slot (BLDM: GPU by GPU, and equal sums may be
merged in another order). The plain versions are the transcriptions that the tests use as oracles,
written from the description, not the published code: they grant replicas row by row, which published
EPLB does for all layers at once, so with replicas the ratio to published EPLB is smaller than the one
to the plain version. Plain BLDM gets its replicas for nothing. The numpy version works on all layers
at once: what an engine without compiled kernels can have. `--peer FILE` times any other
`rebalance_experts` here, such as the published one. Reported elsewhere for 58 layers x 256 experts on
two cores of this class, not measured here: published torch EPLB 226 ms (8 GPUs, 256 slots), 649 ms
(32, 288), 1164 ms (72, 288), 1788 ms (144, 288); vLLM's numpy version 24 to 29 ms."""

BALANCERS = """\
All layers of a trace in one call, warm, {rounds} rounds in which the methods take turns. The gap is
fullest GPU / proven lower bound - 1, so a method is *at most* that far from the best possible; {bounds}.
*Proven* is the share of layers within 0.01 % of the bound. A dash: the method does not take the setting."""

EXACT = """\
`solvers.solve`, one layer at a time, at most {limit:g} s each. A layer counts as proven when its
placement is within 0.01 % of the bound. *Closed by* counts which bound closed how many layers."""

SCALING = """\
Seconds for one layer, warm. *Growth* is the power of the size with which the time grew over the last
three sizes measured: 1 is linear, 2 quadratic. A dash: not measured, because the call could take too
long or the method does not take the size."""

COLD = """\
A fresh process each time; starting Python itself is not counted. *Warm* is the median with compiled
kernels on disk, *without* is one run with an empty kernel cache, as after an installation. Steps follow
each other in the same process, so a later one finds loaded what an earlier one needed."""

MEMORY = """\
Peak resident memory of a fresh process (MB): with the problem made, with the kernels loaded, and after
the call."""


def duel_table(rows: Sequence[Row]) -> str:
    """Rivals and ours, a row per setting and rival."""
    headings = ("GPUs / slots", "rival", "rival ms", "ours", "ours ms", "times as fast", "same %")
    return markdown(
        headings,
        [
            [
                _shape(row), row["rival"], milliseconds(row["rival_ms"]), row["ours"], milliseconds(row["ours_ms"]),
                f"{row['times']:.0f} ({row['times_low']:.0f} to {row['times_high']:.0f})", f"{100 * row['same']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def matrix(rows: Sequence[Row], column: str, write: Callable[[float], str]) -> str:
    """Settings down, methods across; the mean over traces of one column."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for shape in dict.fromkeys(_shape(row) for row in rows):
        cells = [shape]
        for method in methods:
            values = [r[column] for r in rows if r["method"] == method and _shape(r) == shape and column in r]
            cells.append(write(float(np.mean(values))) if values else "-")
        lines.append(cells)
    return markdown(("GPUs / slots", *(method.replace("_", " ") for method in methods)), lines)


def balancer_table(rows: Sequence[Row]) -> str:
    """Every method on every setting of one trace."""
    headings = (
        "GPUs / slots", "method", "ms", "quartiles", "imbal.", "worst imbal.", "gap %", "worst gap %", "proven %"
    )  # fmt: skip
    lines, seen = [], None
    for row in rows:
        shape = _shape(row)
        start = ["" if shape == seen else shape, row["method"]]
        seen = shape
        if "ms" not in row:
            lines.append([*start, *["-"] * (len(headings) - 2)])
            continue
        spread = f"{milliseconds(row['ms_low'])}-{milliseconds(row['ms_high'])}"
        quality = [f"{row[c]:.4f}" for c in ("mean_imbalance", "worst_imbalance")]
        quality += [percent(row[c]) for c in ("mean_gap", "max_gap")]
        lines.append([*start, milliseconds(row["ms"]), spread, *quality, f"{100 * row['proven']:.0f}"])
    return markdown(headings, lines)


def exact_table(rows: Sequence[Row]) -> str:
    """What the exact method proved of one trace, a row per setting."""
    headings = ("GPUs / slots", "proven", "gap %", "worst gap %", "s a layer", "worst s", "closed by")
    return markdown(
        headings,
        [
            [
                _shape(row), f"{row['proven']}/{row['layers']}", percent(row["mean_gap"]),
                percent(row["max_gap"]), f"{row['mean_seconds']:.3f}", f"{row['max_seconds']:.2f}",
                ", ".join(f"{source} {count}" for source, count in row["closed"]) or "-",
            ]
            for row in rows
        ],
    )  # fmt: skip


def open_table(rows: Sequence[Row]) -> str:
    """The layers without proof and the interval that holds their optimum."""
    undecided = [(row, *layer) for row in rows for layer in row["open"]]
    if not undecided:
        return "Every layer is proven."
    undecided.sort(key=lambda item: -item[4] if math.isfinite(item[4]) else -math.inf)
    text = f"{len(undecided)} layers are open: their optimum lies between bound and best makespan."
    if len(undecided) > SHOWN_OPEN:
        text += f" The {SHOWN_OPEN} widest intervals:"
    lines = [
        [row["trace"], _shape(row), str(layer), f"{low:.10g}", f"{high:.10g}", percent(gap)]
        for row, layer, low, high, gap in undecided[:SHOWN_OPEN]
    ]
    headings = ("trace", "GPUs / slots", "layer", "lower bound", "best makespan", "width %")
    return text + "\n\n" + markdown(headings, lines)


def scaling_table(rows: Sequence[Row]) -> str:
    """Seconds by size, and the growth of the largest sizes."""
    methods = [name for name in rows[0] if name not in ("experts", "gpus", "slots")]
    lines = [
        [f"{row['experts']:,}", f"{row['gpus']:,}", f"{row['slots']:,}", *(_seconds(row[m]) for m in methods)]
        for row in rows
    ]
    sizes = [float(max(row["experts"] / rows[0]["experts"], row["gpus"] / rows[0]["gpus"])) for row in rows]
    powers = [exponent(sizes, [row[method] for row in rows]) for method in methods]
    lines.append(["growth", "", "", *("-" if math.isnan(power) else f"{power:.1f}" for power in powers)])
    return markdown(("experts", "GPUs", "slots", *methods), lines)


def cold_table(rows: Sequence[Row]) -> str:
    """Imports and first calls."""
    lines = [[row["step"], milliseconds(row["warm_ms"]), milliseconds(row["cold_ms"])] for row in rows]
    return markdown(("step", "warm ms", "without cache ms"), lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Peak memory by size and method."""
    lines = [
        [
            f"{row['layers']} x {row['experts']:,}", f"{row['gpus']:,} / {row['slots']:,}", row["method"],
            *(f"{row[column] / 2**20:.0f}" for column in ("problem", "kernels", "peak")),
            f"{(row['peak'] - row['kernels']) / 2**20:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    headings = ("layers x experts", "GPUs / slots", "method", "problem", "kernels", "after call", "call adds")
    return markdown(headings, lines)


def pictures(results: Results) -> dict[str, bytes]:
    """PNG bytes by name of every picture whose part was run."""
    from moeopt.report.figures import _png

    drawn = {}
    if any("ms" in row for row in results.balancers):
        drawn["speed_quality.png"] = _png(lambda: speed_quality(results.balancers))
    if results.scaling:
        drawn["scaling.png"] = _png(lambda: scaling(results.scaling))
    return drawn


def speed_quality(rows: Sequence[Row]) -> Figure:
    """Mean gap against runtime, a panel per setting, a mark per method and trace."""
    import matplotlib.pyplot as plt

    from moeopt.report.figures import FLOOR, MARKERS, _colours, _gap_axis, _plain

    measured = [row for row in rows if "ms" in row]
    shapes = list(dict.fromkeys((row["num_gpus"], row["num_slots"]) for row in measured))
    chosen = [shape for shape in PANELS if shape in shapes] or shapes[: len(PANELS)]
    methods = list(dict.fromkeys(row["method"] for row in measured))
    colours = _colours(methods)
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.4 * columns + 1.8, 3.0 * lines + 0.5),
        squeeze=False, sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axes, (gpus, slots) in zip(grid.flat, chosen, strict=False):
        for row in measured:
            if (row["num_gpus"], row["num_slots"]) == (gpus, slots):
                number = methods.index(row["method"])
                (handles[row["method"]],) = axes.plot(
                    row["ms"], max(100 * row["mean_gap"], FLOOR), MARKERS[number % len(MARKERS)], linestyle="none",
                    color=colours[row["method"]], markeredgecolor="black", markeredgewidth=0.6, markersize=7,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{gpus} GPUs, {slots} slots", fontsize=10)
        _plain(axes, "both")
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    _gap_axis(grid[0][0], "")  # shared by all panels, so after everything is drawn
    figure.supxlabel("runtime for all layers [ms]", fontsize=10)
    figure.supylabel("mean gap to the proven bound [%]", fontsize=10)
    named = {name.replace("_", " "): handles[name] for name in methods}
    figure.legend(named.values(), named.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle("Lower left is better; a mark per trace", fontsize=11)
    return figure


def scaling(curves: Mapping[str, Sequence[Row]]) -> Figure:
    """Seconds against the size that grows, a panel per curve, with linear and quadratic guides."""
    import matplotlib.pyplot as plt

    from moeopt.report.figures import MARKERS, _colours, _plain

    figure, grid = plt.subplots(
        1, len(curves), figsize=(3.6 * len(curves) + 1.2, 3.8), squeeze=False, sharey=True, layout="constrained"
    )
    methods = [name for name in next(iter(curves.values()))[0] if name not in ("experts", "gpus", "slots")]
    colours = _colours(methods)
    finite = [row[name] for rows in curves.values() for row in rows for name in methods if np.isfinite(row[name])]
    low, high = min(finite, default=1e-6), max(finite, default=1.0)
    for axes, (title, rows) in zip(grid[0], curves.items(), strict=True):
        grows = "experts" if rows[0]["experts"] != rows[-1]["experts"] else "gpus"
        sizes = np.array([row[grows] for row in rows], dtype=float)
        for number, name in enumerate(methods):
            axes.plot(
                sizes,
                [row[name] for row in rows],
                marker=MARKERS[number],
                markersize=5,
                color=colours[name],
                label=name,
            )
        for power, style in ((1, ":"), (2, "--")):
            guide = low * (sizes / sizes[0]) ** power
            label = {1: "linear", 2: "quadratic"}[power]
            axes.plot(sizes, guide, style, color="0.6", linewidth=1, label=label, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(low / 2, high * 3)
        axes.set_xlabel({"experts": "experts", "gpus": "GPUs"}[grows])
        axes.set_title(title, fontsize=9)
        _plain(axes, "both")
    grid[0][0].set_ylabel("seconds for one layer")
    grid[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


def _picture(name: str, text: str, available: Sequence[str]) -> list[str]:
    return [f"![{text}](figures/performance/{name}.png)"] if f"{name}.png" in available else []


def _bounds(results: Results) -> str:
    if results.exact:
        return "the bound is the best of the combinatorial ones and those of the exact method below"
    return "the bound is combinatorial, so where it is weak a gap says more about the bound than about the method"


def _reproduce(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    traces = ", ".join(f"{name} ({origin})" for name, origin in facts["traces"].items())
    record = (
        f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores, {facts['platform']}; {versions}. "
        f"Torch and BLAS on one thread; search uses two threads on large problems. Traces: {traces}."
    )
    return f"```text\n{facts['command']}\n```\n\n{fill(record, WIDTH)}"


def _roomy(row: Row) -> bool:
    return bool(row["num_slots"] >= 3 * row["num_gpus"])


def _shape(row: Row) -> str:
    return f"{row['num_gpus']} / {row['num_slots']}"


def _seconds(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.2g}" if value < 10 else f"{value:.0f}"
