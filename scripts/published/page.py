"""peers.md: how far published balancers are from the best possible, in words and tables."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from moeopt.balancers import BALANCERS
from moeopt.report.facts import TraceRecord
from moeopt.report.machine import Machine
from moeopt.report.settings import title
from moeopt.report.tables import markdown, percent
from moeopt.solution import SolveStatus
from published.measure import OURS, Contest
from published.projects import Project
from published.tables import best, loads, matrix, methods, origins, setting, shape, times

WIDTH = 120
"""Columns of paragraphs that are put together here."""

ADVERTISED = {"eplb": 232, "flashlb": 205}
"""Loads of the fullest GPU that FlashLB's proposal names for its example."""

INTRODUCTION = """\
Every balancer below was called on the same loads as ours, from its own code, which is not part of this repository.
Placements are scored by one evaluator and held against one proven lower bound: the best of the combinatorial bounds
and of `solvers.solve` with at most {time_limit:g} s per layer. A GPU may hold two copies of one expert and a slot may
stay empty, so the bound speaks for all of them. Times are CPU seconds on one thread, the first call not counted,
{rounds} rounds in which the methods take turns."""

EXAMPLE = """\
[FlashLB was proposed](https://github.com/vllm-project/vllm-ascend/pull/3042) with a small example: eight experts with
loads 600, 560, 120, 120, 20, 10, 10, 10 on 8 GPUs of 2 slots. It names {eplb} as the load of the fullest GPU with
EPLB and {flashlb} with FlashLB. The optimum is **{optimum:.3f}**{proof}: {flashlb} is {above:.1f} % above it. What
each method makes of it:"""

COLUMNS = """\
* **gap** = fullest GPU's load / proven lower bound - 1: a method is *at most* this far above the best possible. **step
  gap**: the same for the sum over layers. **worst** is the largest gap, with its layer.
* **moves** = copies that are not yet on their GPU in the placement in force, all layers together.
* **doubled** = copies that sit on a GPU with another copy of their expert; vllm-ascend refuses such placements.
* **ahead** = layers on which the fullest GPU has less than that of `search`.
* **CPU ms** = all layers in one call, median over rounds; **x eplb**, **x search** = as a multiple of our `eplb`'s and
  `search`'s in the same round. `solve` runs once, on its own."""


AGAIN = """\
[Beside published balancers](../adding-a-method.md#beside-published-balancers) tells how to do this with balancers of
your own. `peers` and `recordings` are folders that the reader fills."""


@dataclass(frozen=True)
class Facts:
    """What was run, where and when; ``older`` are the loads that placements in force were made for."""

    command: tuple[str, ...]
    date: str
    machine: Machine
    versions: dict[str, str]
    traces: tuple[TraceRecord, ...]
    older: tuple[TraceRecord, ...]
    projects: tuple[Project, ...]
    impossible: tuple[str, ...]
    rounds: int
    time_limit: float


def page(contests: Sequence[Contest], example: Contest, facts: Facts) -> str:
    """Return the page as markdown."""
    introduction = fill(INTRODUCTION.format(rounds=facts.rounds, time_limit=facts.time_limit), WIDTH)
    parts = ["# Published balancers against the proven optimum", introduction, summary(contests), best(contests)]
    parts.append(f"```{{admonition}} FlashLB's own example\n{_example(example)}\n```")
    for trace in dict.fromkeys(one.problem.load.source for one in contests):
        own = [one for one in contests if one.problem.load.source == trace]
        parts += [f"## {trace}", f"Mean gap to the proven bound, %, by GPUs/slots; {_proven(own)}:"]
        parts.append(matrix(own, lambda found: percent(found.mean_gap)))
        parts += ["CPU time as a multiple of `eplb`'s:", matrix(own, lambda found: times(found.times_eplb))]
    parts += ["## What goes wrong", "\n".join(faults(contests)) or "Nothing."]
    if facts.projects:
        parts += ["## Where the balancers come from", origins(facts.projects)]
    parts += ["## Every setting", COLUMNS]
    for one in contests:
        parts += [f"### {title(one.problem)}", setting(one)]
    return "\n\n".join([*parts, "## How to reproduce", *_reproduce(facts)]) + "\n"


def summary(contests: Sequence[Contest]) -> str:
    """The paragraph to quote: where published balancers stand beside ``search``."""
    layers = sum(one.problem.num_layers for one in contests)
    closer, ahead = [], Counter[str]()
    for one in contests:
        found = {row.method: row.quality for row in one.rows if row.quality is not None}
        for name in found.keys() - {*BALANCERS, "solve"}:
            ahead[name] += found[name].ahead
            if found[name].mean_gap < found[OURS[-1]].mean_gap:
                closer.append(f"{name} on {title(one.problem)}")
    single = [f"{name} on {count}" for name, count in ahead.most_common() if count]
    text = (
        f"{len(contests)} settings with {layers} layers; {_proven(contests)} within 0.01 %. Published balancers that "
        f"come closer to the bound than `search` in the mean of a setting: {'; '.join(sorted(closer)) or 'none'}. On "
        f"single layers these are ahead of it: {', '.join(single) or 'none'}."
    )
    return fill(text, WIDTH)


def faults(contests: Sequence[Contest]) -> list[str]:
    """A line per method and reason for having no valid placement, and one for copies that share a GPU."""
    lines, doubled = [], {}
    for method in methods(contests):
        found = [(one, row) for one in contests for row in one.rows if row.method == method]
        reasons: dict[str, list[str]] = {}
        for one, row in found:
            if row.quality is None:
                reasons.setdefault(row.fault, []).append(f"{one.problem.load.source} {shape(one.problem)}")
        lines += [f"* {method}: {reason} ({'; '.join(where)})" for reason, where in reasons.items()]
        doubled[method] = sum(row.quality.doubled for _, row in found if row.quality)
    some = [f"{method} {count}" for method, count in doubled.items() if count]
    none = [method for method, count in doubled.items() if not count]
    counts = f"Copies that share a GPU with another copy of their expert, which is allowed here: {', '.join(some)}."
    lines += [f"* {counts} None: {', '.join(none)}."] if some else []
    return lines


def _example(one: Contest) -> str:
    optimum, bound = float(one.known.makespan[0]), float(one.known.lower_bound[0])
    above = 100 * (ADVERTISED["flashlb"] / optimum - 1)
    proof = ", proven" if one.known.is_optimal else ""
    rows = [
        [row.method, f"{bound * (1 + row.quality.mean_gap):.3f}", percent(row.quality.mean_gap)]
        for row in one.rows
        if row.quality is not None
    ]
    text = fill(EXAMPLE.format(**ADVERTISED, optimum=optimum, proof=proof, above=above), WIDTH)
    return f"{text}\n\n{markdown(('method', 'fullest GPU', 'gap %'), rows)}"


def _proven(contests: Sequence[Contest]) -> str:
    layers = sum(one.problem.num_layers for one in contests)
    proven = sum(one.known.status.count(SolveStatus.OPTIMAL) for one in contests)
    return "every layer is proven" if proven == layers else f"{proven} of {layers} layers are proven"


def _reproduce(facts: Facts) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    record = fill(f"{facts.date}; {facts.machine}; {versions}.", WIDTH)
    left_out = [f"* left out: {reason}" for reason in facts.impossible]
    return [
        fill(AGAIN, WIDTH),
        f"```text\n{shlex.join(facts.command)}\n```",
        record,
        loads(facts.traces, facts.older),
        *left_out,
    ]
