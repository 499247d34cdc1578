"""The page "Is rebalancing worth it?": a trace in time read, policies run over it, files written."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from moeopt import metrics
from moeopt._arguments import nodes_and_groups
from moeopt._text import printable
from moeopt.balancers.scenario_search import scenario_search
from moeopt.compare import Method
from moeopt.dispatch import RULES
from moeopt.policies import parse_policy, standard_policies
from moeopt.problem import PlacementProblem
from moeopt.replay import Replay, charged_second, prices, serve, usual_waits, usual_warmup
from moeopt.report.facts import TraceRecord
from moeopt.report.files import MANIFEST, check_folder, manifest, write
from moeopt.report.inputs import read_reference
from moeopt.report.machine import this_machine, versions
from moeopt.report.page.replay import replay_data
from moeopt.report.page.shell import page
from moeopt.report.replay_figures import budget_picture, cost_picture, slots_picture
from moeopt.report.replay_words import (
    ALL_RULES,
    ON_SCREEN,
    SLOTS_HEADINGS,
    budget_words,
    cells,
    envelope_words,
    headings,
    headline,
    readings,
    slots_cells,
    slots_words,
)
from moeopt.report.settings import layer_rows
from moeopt.report.tables import markdown, terminal
from moeopt.slots import SlotBudget, slot_budget, slots_curve
from moeopt.traces import Trace, generate, read_trace

if TYPE_CHECKING:
    import pandas as pd

COMPETITION_PRICE = 0.3
"""Price of a move, in balanced layer-steps, where none is given: about the published competition's."""

GENERATED_STEPS = 96


@dataclass(frozen=True)
class Worth:
    """Everything that the page tells: policies over time, slots under the dispatch rules, slots per layer."""

    replay: Replay
    table: pd.DataFrame
    price: float
    usual_price: bool
    curve: pd.DataFrame
    budget: SlotBudget
    budget_told: str
    gb_per_slot: float | None
    heading: str


def replay_report(
    methods: Mapping[str, Method],
    *,
    trace: str | os.PathLike[str] | None = None,
    gpus: int = 8,
    slots: int | None = None,
    nodes: int | None = None,
    groups: int | None = None,
    layers: str | None = None,
    policy: Sequence[str] = (),
    every: Sequence[int] | None = None,
    window: int | None = None,
    warmup: int | None = None,
    dispatch: str = "even",
    reference: str | os.PathLike[str] | None = None,
    move_price: float | None = None,
    expert_bytes: float | None = None,
    bandwidth: float | None = None,
    layer_step_seconds: float | None = None,
    charge_planning: bool = False,
    competition: bool = False,
    seed: int = 0,
    out: str | os.PathLike[str] = "replay",
    quiet: bool = False,
    command: Sequence[str] = (),
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Worth:
    """Run policies over a trace, write the page into ``out`` and show the answer.

    Parameters
    ----------
    methods
        Methods that ``policy`` may name.
    trace
        File or folder with loads of many steps in time order; a generated trace if None.
    gpus, slots
        The setting; by default as many slots as ``reference`` has, or one per expert and an eighth more.
    nodes, groups
        Expert groups that live wholly on one node (both or neither).
    layers
        Layers by the trace's own ids, such as ``"3-10,17"``.
    policy
        Policies in words, such as ``"eplb every=16 moves=2"``; the standard ones if empty.
    every, window
        Steps between the plans of the standard policies, and steps that a plan sees.
    reference
        File with the placement in force.
    warmup, dispatch, move_price, expert_bytes, bandwidth, layer_step_seconds, charge_planning, competition
        As in ``moeopt.replay``; without a price of moves the published competition's is taken, and said so.
    seed
        Of the generated trace.
    out
        Folder for the files; an earlier report there is replaced.
    quiet
        No progress and no tables.
    command
        The command line, for the page's last section.
    reading
        Options of ``read_trace``.

    Raises
    ------
    InputError
        For unusable arguments or input, before anything is written.
    """
    num_nodes, num_groups = nodes_and_groups(nodes, groups)
    usual = move_price is None and bandwidth is None
    price, second = prices(COMPETITION_PRICE if usual else move_price, expert_bytes, bandwidth, layer_step_seconds)
    charged = charged_second(second, charge_planning)
    check_folder(out, () if trace is None else (trace,))
    recorded, all_layers, record = _read(trace, layers, seed, reading)
    in_force = None if reference is None else read_reference(reference, recorded.total(), all_layers, gpus)
    if slots is None:
        usual_slots = -(-recorded.num_experts * 9 // (8 * gpus)) * gpus
        slots = usual_slots if in_force is None else in_force.num_slots
    policies = [parse_policy(text, methods) for text in policy] or None
    if policies is None and (every is not None or window is not None):
        policies = standard_policies(every or usual_waits(len(recorded) - usual_warmup(len(recorded), warmup)), window)
    rules: dict[str, Any] = {"num_nodes": num_nodes, "num_groups": num_groups}
    with _progress(quiet) as progress:
        found = serve(
            recorded, policies, gpus, slots,
            dispatch=dispatch, warmup=warmup, reference=in_force, progress=progress, **rules,
        )  # fmt: skip
        seen = PlacementProblem(recorded[: found.warmup], gpus, slots, **rules)
        progress("slots", 0)
        curve = slots_curve(recorded, gpus, dispatches=RULES, method=scenario_search, warmup=found.warmup, **rules)
        budget = slot_budget(seen, slots * recorded.num_layers)
        told = budget_words(budget, found)
    worth = Worth(
        replay=found,
        table=found.table(price, second_price=charged, competition=competition),
        price=price,
        usual_price=usual,
        curve=curve,
        budget=budget,
        budget_told=told,
        gb_per_slot=None if expert_bytes is None else expert_bytes * recorded.num_layers / 1e9,
        heading=f"{recorded.source}: {slots} slots on {gpus} GPUs",
    )
    facts = {
        "command": tuple(command),
        "trace": record,
        "warmup": found.warmup,
        "move_price": price,
        "second_price": charged,
        "dispatch": dispatch,
        "versions": versions(),
        "machine": asdict(this_machine()),
    }
    write(out, _contents(worth, facts))
    if not quiet:
        _show(worth, out)
    return worth


def _read(
    trace: str | os.PathLike[str] | None, layers: str | None, seed: int, reading: Mapping[str, Any]
) -> tuple[Trace, tuple[int, ...], TraceRecord]:
    """Read the trace once, or generate one: the layers asked for, the ids of all layers, and its record."""
    if trace is None:
        recorded = generate("decode", num_layers=8, num_experts=64, tokens=512, num_windows=GENERATED_STEPS, seed=seed)
        origin = f"generated, preset decode, seed {seed}: its drift in time is synthetic"
    else:
        recorded, origin = read_trace(trace, **reading), printable(Path(trace).name, 80)
    all_layers = recorded.layer_ids
    if layers is not None:
        rows = layer_rows(all_layers, recorded.source, layers)
        ids = tuple(all_layers[row] for row in rows)
        recorded = replace(recorded, windows=recorded.windows[:, rows], layer_ids=ids)
    return recorded, all_layers, TraceRecord.of(recorded.total(), origin, recorded.sha256, recorded.note)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Show on stderr which policy is being served."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task, served = bar.add_task("replay", total=None), dict[str, int]()

        def progress(name: str, steps: int) -> None:
            served[name] = served.get(name, 0) + steps
            bar.update(task, description=f"replay: {name}" + (f", {served[name]} steps" if steps else ""))

        yield progress


def _contents(worth: Worth, facts: dict[str, Any]) -> dict[str, bytes]:
    """Return every file by its path in the folder."""
    files = {
        "replay.md": document(worth, facts).encode(),
        "replay.html": page(replay_data(worth, answers(worth), _told_trace(worth, facts["trace"]), facts)),
        "replay.csv": _csv(worth.table),
        "slots.csv": _csv(worth.curve),
        "slot_budget.csv": _csv(worth.budget.table()),
        "figures/cost.png": cost_picture(worth.replay, worth.price, worth.heading),
        "figures/slots.png": slots_picture(worth.curve, worth.heading, worth.replay.num_gpus, worth.gb_per_slot),
        "figures/slot_budget.png": budget_picture(worth.budget, worth.heading),
    }
    files[MANIFEST] = manifest(facts | {"trace": asdict(facts["trace"])}, files)
    return files


def _csv(table: pd.DataFrame) -> bytes:
    return bytes(table.to_csv(index=False, lineterminator="\n").encode())


def document(worth: Worth, facts: Mapping[str, Any]) -> str:
    """Return the page as markdown: the answer, the picture, the tables, how to get it again."""
    replay, record = worth.replay, facts["trace"]
    parts = [
        "# Is rebalancing worth it?",
        "\n".join(f"* {sentence}" for sentence in answers(worth)),
        "![cost against the price of a move](figures/cost.png)",
        f"## Policies on {worth.heading}",
        _told_trace(worth, record),
        markdown(headings(worth.table), cells(worth.table)),
        "\n".join(f"* {line}" for line in readings(metrics.step_ratio(replay.per_step_bound, replay.means))),
        "## How many slots",
        f"Planned once on the warm-up by scenario_search, scored on the steps that follow, under four rules by which "
        f"tokens find a copy. {ALL_RULES}",
        slots_words(worth.curve, replay.dispatch),
        markdown(SLOTS_HEADINGS, slots_cells(worth.curve, replay.num_gpus, worth.gb_per_slot)),
        "![redundant slots by dispatch rule](figures/slots.png)",
        "## Which layers should get them",
        worth.budget_told,
        "![slots per layer](figures/slot_budget.png)",
        "## How to reproduce",
        f"    {shlex.join(facts['command'])}" if facts["command"] else "Called from Python.",
        f"{facts['machine']['cpu']}, {facts['machine']['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def answers(worth: Worth) -> list[str]:
    """Return the answer in sentences, what to do first."""
    trace = worth.replay.trace
    told = headline(worth.replay, worth.table, worth.price)
    if not trace.ordered:
        told.insert(0, "The order of these steps is not known, so that nothing here speaks of time.")
    if trace.note:
        told.append(f"Of the trace: {trace.note}.")
    told.append(envelope_words(worth.replay))
    if worth.usual_price:
        told.append(
            f"No price of a move was given; {worth.price:g} is about that of the published expert-load competition. "
            "Yours is (bytes of an expert / bandwidth) / (seconds of one layer and step in balance)."
        )
    return told


def _told_trace(worth: Worth, record: TraceRecord) -> str:
    replay = worth.replay
    paid = replay.served[0].plans[0].paid
    first = "paid for like all others" if paid else "loaded with the weights and cost no moves"
    return (
        f"{record.origin} (sha256 {record.sha256[:12]}): {replay.warmup} steps of warm-up and {replay.num_steps} steps "
        f"to serve, {record.layers} layers of {record.experts} experts. Copies share tokens by the rule "
        f"`{replay.dispatch}`. First plans are {first}. "
        f"Intervals come from {len(replay.blocks)} windows."
    )


def _show(worth: Worth, out: str | os.PathLike[str]) -> None:
    from rich.console import Console

    console = Console(width=min(Console().width, 120) if sys.stdout.isatty() else 120, highlight=False)
    for sentence in answers(worth):
        console.print(sentence, markup=False)
    console.print()
    shown = [headings(worth.table).index(name) for name in ON_SCREEN]
    rows = [[row[column] for column in shown] for row in cells(worth.table)]
    console.print(terminal(worth.heading, ON_SCREEN, rows))
    console.print(slots_words(worth.curve, worth.replay.dispatch), markup=False)
    console.print(worth.budget_told, markup=False)
    out = Path(out)
    console.print(f"written: {out / 'replay.md'}", markup=False, soft_wrap=True)
    console.print(f"to explore: {out / 'replay.html'}", markup=False, soft_wrap=True)
