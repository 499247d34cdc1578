"""performance.md: what scripts/benchmark.py measured, in words and tables that a newcomer can read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from textwrap import fill

import numpy as np

from benchmarking.measure import ABOVE_BEST
from benchmarking.records import DROP_IN, BalancerRow, Facts, Results
from benchmarking.tables import (
    balancer_table,
    cold_table,
    duel_table,
    exact_table,
    growth_table,
    matrix,
    memory_table,
    moves_table,
    open_table,
)
from moeopt.report.tables import milliseconds, percent

WIDTH = 100
"""Columns of paragraphs that are put together here."""

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
`solvers.solve`{where}, at most {limit:g} s per layer. A layer counts as proven when its
placement is within 0.01 % of the bound. *Closed by* counts which bound closed how many layers."""

MOVES = """\
`balancers.repair` of the placement that EPLB made for another trace's loads, until no GPU is more than {above:.0%}
above the makespan of `search`, which it is given: all layers in one call, warm, every slot full. Beside it the moves
of running EPLB again. *Reached* counts the layers brought under the ceiling."""

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


def page(results: Results, facts: Facts, pictures: Sequence[str]) -> str:
    """Return the page as markdown; ``facts`` say what was run where, ``pictures`` are names of files."""
    parts = ["# Performance: how fast, and how close to the best possible", summary(results, facts)]
    if facts.impossible:
        parts.append("\n".join(f"* left out: {reason}" for reason in facts.impossible))
    if results.duels:
        parts += ["## Beside plain versions", DUELS, duel_table(results.duels)]
    if results.balancers:
        overview = [row for row in results.balancers if row.method not in FEWER_MOVES]
        text = BALANCERS.format(rounds=facts.repeats, bounds=_bounds(results))
        parts += ["## Balancers: speed and quality", fill(text, WIDTH)]
        parts += [
            "Mean gap to the proven bound, %, mean over traces:",
            matrix(overview, lambda found: found.mean_gap, percent),
        ]
        parts += [
            "Median runtime of all layers, ms, mean over traces:",
            matrix(overview, lambda found: found.ms, milliseconds),
        ]
        parts += _picture("speed_quality", "Gap against runtime by method", pictures)
    if results.exact:
        where = f" on {facts.cluster}, a layer per thread" if facts.cluster else ", one layer at a time"
        parts += ["## Proven optimal", fill(EXACT.format(limit=facts.time_limit, where=where), WIDTH)]
        for trace in dict.fromkeys(row.trace for row in results.exact):
            parts += [f"{trace}:", exact_table([row for row in results.exact if row.trace == trace])]
        parts.append(open_table(results.exact))
    if results.moves:
        text = fill(MOVES.format(above=ABOVE_BEST), WIDTH)
        parts += ["## Moves: what repairing costs", text, moves_table(results.moves)]
    if results.growth:
        parts += ["## Growth with the size of the problem", SCALING]
        parts += [f"{name}:\n\n{growth_table(rows)}" for name, rows in results.growth.items()]
        parts += _picture("scaling", "Runtime against experts and GPUs", pictures)
    if results.cold:
        parts += ["## Cold start", COLD, cold_table(results.cold)]
    if results.memory:
        parts += ["## Memory", MEMORY, memory_table(results.memory)]
    if results.balancers:
        parts.append("## Every trace and setting")
        for trace in dict.fromkeys(row.trace for row in results.balancers):
            parts += [f"### {trace}", balancer_table([r for r in results.balancers if r.trace == trace])]
    parts += ["## How to reproduce", _reproduce(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(results: Results, facts: Facts) -> str:
    """The paragraph to quote: only what this run measured."""
    sentences = [f"Measured on {facts.machine.cpu} ({facts.machine.cores} cores), medians over rounds."]
    own = [row.ours_ms for row in results.duels if row.ours == DROP_IN]
    if own:
        sentences.append(
            f"EPLB for {facts.layers} layers takes {milliseconds(min(own))} to {milliseconds(max(own))} ms "
            "through the torch drop-in (in brackets: GPUs / slots)."
        )
    for rival in dict.fromkeys(row.rival for row in results.duels if row.ours == DROP_IN):
        spans = [f"{r.times:.0f} ({r.num_gpus} / {r.num_slots})" for r in results.duels if r.rival == rival]
        sentences.append(f"Times as fast as {rival}: {', '.join(spans)}.")
    best: dict[str, tuple[float, float]] = {}
    for name in ("eplb", "search"):
        rows = [row.measured for row in results.balancers if row.method == name and row.measured and _roomy(row)]
        if rows:
            best[name] = (
                float(np.mean([found.mean_gap for found in rows])),
                float(np.mean([found.ms for found in rows])),
            )
    if best:
        texts = [f"{name} {percent(gap)} % in {milliseconds(ms)} ms" for name, (gap, ms) in best.items()]
        sentences.append(
            "Mean gap to a proven lower bound over all settings with three or more slots per GPU, and mean runtime: "
            f"{', '.join(texts)}."
        )
    if results.exact:
        proven, layers = (sum(row.proven for row in results.exact), sum(row.layers for row in results.exact))
        worst = max(row.max_gap for row in results.exact)
        sentences.append(
            f"The exact method proves {proven} of {layers} layers optimal within 0.01 %; "
            f"no layer is left with more than {percent(worst)} % unexplained."
        )
    return fill(" ".join(sentences), WIDTH)


def _picture(name: str, text: str, available: Sequence[str]) -> list[str]:
    return [f"![{text}](figures/performance/{name}.png)"] if f"{name}.png" in available else []


def _bounds(results: Results) -> str:
    if results.exact:
        return "the bound is the best of the combinatorial ones and those of the exact method below"
    return "the bound is combinatorial, so where it is weak a gap says more about the bound than about the method"


def _reproduce(facts: Facts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    traces = ", ".join(f"{name} ({origin})" for name, origin in facts.traces.items())
    record = (
        f"{facts.date}; {facts.machine}; {versions}. "
        f"Torch and BLAS on one thread; search uses two threads on large problems. Traces: {traces}."
    )
    return f"```text\n{shlex.join(facts.command)}\n```\n\n{fill(record, WIDTH)}"


def _roomy(row: BalancerRow) -> bool:
    return row.num_slots >= 3 * row.num_gpus
