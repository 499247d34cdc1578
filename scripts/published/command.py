"""The command line: which balancers, on which loads and settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from benchmarking.command import Progress
from typer import Option

from moeopt._arguments import integer, seconds
from moeopt._files import write_whole
from moeopt.balancers import BALANCERS
from moeopt.errors import InputError
from moeopt.exit_codes import exit_code
from moeopt.picking import pick_methods
from moeopt.problem import PlacementProblem
from moeopt.report.files import check_folder
from moeopt.report.inputs import Input, OlderLoads, placed_by_eplb, read_inputs, read_older
from moeopt.report.machine import this_machine, versions
from moeopt.report.settings import names, pose, title
from published.measure import OURS, contest, example
from published.page import Facts, page
from published.projects import read_projects
from solvers import SOLVERS

Shape = tuple[int, int, int, int]
"""GPUs, slots, nodes, groups."""

T = TypeVar("T")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def peers(
    context: typer.Context,
    projects: Annotated[Path | None, Option(help="TOML: where published balancers come from.")] = None,
    methods: Annotated[str | None, Option(help="List of names of --projects, our balancers, FILE.py:FUNCTION.")] = None,
    trace: Annotated[list[str] | None, Option(help="Recorded loads, repeatable. [default: generated]")] = None,
    settings: Annotated[
        list[str] | None, Option(help="GPUs/slots, or GPUs/slots/nodes/groups: a list for all traces, or one for each.")
    ] = None,
    reference_trace: Annotated[
        list[str] | None, Option(help="Loads of EPLB's placement in force: one for all traces, or one for each.")
    ] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    rounds: Annotated[int, Option(help="Timed rounds.")] = 3,
    time_limit: Annotated[float, Option(help="Seconds per layer for solve.")] = 2.0,
    seed: Annotated[int, Option(help="Seed of generated loads and of solve.")] = 0,
    out: Annotated[Path | None, Option(help="Folder for peers.md. [default: only print]")] = None,
) -> None:
    """Hold published balancers, from files that you supply, and ours against the proven optimum."""
    torch.set_num_threads(1)
    integer("rounds", rounds, 1)
    seconds("time_limit", time_limit)
    if out is not None:
        check_folder(out)
    listed = {} if projects is None else read_projects(projects)
    chosen = names("methods", methods) or tuple(listed)
    theirs = {name: project.method() for name, project in listed.items() if name in chosen}
    picked, others = pick_methods(chosen, BALANCERS, theirs)
    every = {**{name: BALANCERS[name] for name in OURS}, **picked, **others}
    solve = partial(SOLVERS["solve"], time_limit=time_limit, seed=seed)
    inputs = read_inputs(trace or [], layers, seed, {})
    asked = for_each("settings", [shapes(text) for text in settings or ["8/256,32/288"]], len(inputs))
    older = for_each("reference_trace", [read_older(path, {}) for path in reference_trace or []], len(inputs))
    tell, contests, impossible = Progress(), [], []
    for number, (source, wanted) in enumerate(zip(inputs, asked, strict=True)):
        problems, refused = posed(source, wanted, older[number] if older else None)
        impossible += refused
        for problem in problems:
            tell(title(problem))
            contests.append(contest(problem, every, solve, rounds))
    facts = Facts(
        command=context.obj,
        date=datetime.now(UTC).date().isoformat(),
        machine=this_machine(),
        versions=versions(),
        traces=tuple(source.record for source in inputs),
        older=tuple(loads.record for loads in older),
        projects=tuple(project for name, project in listed.items() if name in theirs),
        impossible=tuple(impossible),
        rounds=rounds,
        time_limit=time_limit,
    )
    text = page(contests, example(every, solve), facts)
    if out is None:
        print(text)
        return
    write_whole(out / "peers.md", text)
    tell(f"written: {out / 'peers.md'}")


def shapes(text: str) -> list[Shape]:
    """Read ``8/256,32/288/4/8`` as GPUs, slots, nodes and groups; without the last two there is one of each."""
    found: list[Shape] = []
    for part in text.split(","):
        values = [value.strip() for value in part.split("/")]
        if len(values) not in (2, 4) or not all(v.isascii() and v.isdigit() and int(v) >= 1 for v in values):
            raise InputError(f"settings must be GPUs/slots or GPUs/slots/nodes/groups, such as 8/256, got {text!r}")
        gpus, slots, nodes, groups = [*map(int, values), 1, 1][:4]
        found.append((gpus, slots, nodes, groups))
    return list(dict.fromkeys(found))


def for_each(name: str, values: list[T], traces: int) -> list[T]:
    """Return a value per trace where one is given for all of them; none where none is given."""
    if len(values) not in (0, 1, traces):
        raise InputError(f"{name} must be given once, or once per trace: {traces}, got {len(values)}")
    return values * traces if len(values) == 1 else values


def posed(source: Input, wanted: Sequence[Shape], older: OlderLoads | None) -> tuple[list[PlacementProblem], list[str]]:
    """Pose the settings of one trace in their widest reading; those that cannot be are returned as reasons."""
    problems, impossible = [], []
    before = None if older is None else older.matched(source.load)
    for gpus, slots, nodes, groups in wanted:
        reference = None if before is None else partial(placed_by_eplb, before, nodes, groups)
        found, refused = pose(source.load, [(gpus, slots)], nodes, groups, reference)
        problems += found
        impossible += refused
    return problems, impossible


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 if a placement beats a bound, 2 for unusable arguments or input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = ("python", "scripts/peers.py")
    return exit_code(app, arguments, " ".join(program), (*program, *arguments))
