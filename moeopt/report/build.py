"""The whole report: traces read, settings posed and studied, files written, tables shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from moeopt._kernel import told_of_compilation
from moeopt.cluster import connected
from moeopt.compare import Method
from moeopt.errors import InputError, VerificationError
from moeopt.picking import pick_methods
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.certificates import certify
from moeopt.report.facts import Arguments, Facts, TraceRecord
from moeopt.report.files import check_folder, write
from moeopt.report.inputs import (
    Input,
    OlderLoads,
    placed_by_eplb,
    read_inputs,
    read_older,
    read_reference,
    small_problems,
)
from moeopt.report.machine import this_machine, versions
from moeopt.report.moves import MovesBound, study_moves
from moeopt.report.settings import label, pose, shapes, title
from moeopt.report.study import Effort, Solver, Study, study

if TYPE_CHECKING:
    from rich.console import Console

EXACT_CHOICE = ("solve", "cpsat")
"""The exact method of a run that names no methods: the first of these that there is."""

TIME_LIMIT, BUDGET = 2.0, 60.0
"""Seconds per layer, and per setting, for an exact method in a run that names no time limit."""

SMALL_TIME_LIMIT = 10.0


@dataclass(frozen=True)
class Setting:
    """A problem and what is to be spent on it; small ones have no pictures."""

    problem: PlacementProblem
    exact: Mapping[str, Solver]
    effort: Effort
    small: bool = False

    @property
    def counts_moves(self) -> bool:
        """Whether a placement in force was given, so that moves are a question of their own."""
        return self.problem.reference is not None


def gap_report(
    balancers: Mapping[str, Method],
    solvers: Mapping[str, Solver],
    *,
    trace: Sequence[str | os.PathLike[str]] = (),
    gpus: Sequence[int] | None = None,
    slots: Sequence[int] | None = None,
    nodes: int | None = None,
    groups: int | None = None,
    methods: Sequence[str] | None = None,
    layers: str | None = None,
    time_limit: float | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    repeats: int = 5,
    reference: str | os.PathLike[str] | None = None,
    reference_trace: str | os.PathLike[str] | None = None,
    expert_bytes: int | None = None,
    moves_bound: MovesBound | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] = "report",
    quiet: bool = False,
    verify: bool = False,
    command: Sequence[str] = (),
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> list[Study]:
    """Study every setting, write the report's files into ``out`` and show its tables.

    Parameters
    ----------
    balancers, solvers
        Heuristics and exact methods by name; the latter take limits and a start as keywords.
    trace
        Files or folders with recorded loads; a generated DeepSeek-V3-like trace if empty.
    gpus, slots
        Every combination that divides is a setting; the notebook's and DeepSeek's prefill
        setting, scaled to the trace's experts, if neither is given.
    nodes, groups
        Expert groups that live wholly on one node (both or neither).
    methods
        Names of balancers and solvers, or ``path/to/file.py:function`` (see ``moeopt.picking.method_from_file``);
        all balancers and one exact method if None.
    layers
        Layers by the trace's own ids, such as ``"3-10,17"``.
    time_limit
        Seconds per layer for exact methods. Without it they get 2 s per layer and a minute per setting.
    jobs
        Layers that an exact method works on at a time, on this machine; None = as joblib is configured.
    cluster
        Address of a Dask scheduler whose workers the exact methods use; heuristics are timed on this machine.
    repeats
        Timed calls of every balancer.
    reference
        File with the placement that moves count from.
    reference_trace
        Older loads; moves count from EPLB's placement on them. Layers are matched by their ids.
    expert_bytes
        Bytes of one expert's weights in one layer, to tell moves in GB.
    moves_bound
        A bound on moves for what the cheap bounds leave open, given as much time as an exact method.
    seed
        Seed of the generated trace and of the exact methods.
    out
        Folder for the files; an earlier report there is replaced.
    quiet
        No progress and no tables.
    verify
        Check every placement and bound of the report in exact arithmetic, and write the record of that as
        ``certificates.json``.
    command
        The command line, for the report's last section.
    reading
        Options of ``read_trace`` for all traces.

    Raises
    ------
    InputError
        For unusable arguments or input, before anything is written.
    ContradictionError
        If a placement beats a bound that a method claims; nothing is written.
    VerificationError
        If the check rejects anything, after everything is written and shown.
    """
    from moeopt.report.contents import contents  # here, as its imports take a second

    asked = Arguments(
        trace=trace, gpus=gpus, slots=slots, nodes=nodes, groups=groups, methods=methods, layers=layers,
        time_limit=time_limit, jobs=jobs, cluster=cluster, repeats=repeats, reference=reference, seed=seed, out=out,
        quiet=quiet, verify=verify, reference_trace=reference_trace, expert_bytes=expert_bytes,
    )  # fmt: skip
    heuristics, exact = _pick_methods(balancers, solvers, methods)
    check_folder(out, (*trace, *(() if reference_trace is None else (reference_trace,))))
    inputs = read_inputs(asked.trace, layers, seed, reading)
    older = None if reference_trace is None else read_older(reference_trace, reading)
    problems, impossible = _pose(asked, inputs, older)
    small = small_problems(seed) if asked.whole else []
    with connected(cluster) as workers:
        usual = Effort(
            repeats=repeats,
            time_limit=TIME_LIMIT if time_limit is None else time_limit,
            budget=BUDGET if time_limit is None else None,
            jobs=workers.threads if workers else jobs,
            seed=seed,
        )
        independent = replace(usual, time_limit=SMALL_TIME_LIMIT, budget=None, warm=False)
        plan = [Setting(problem, exact, usual) for problem in problems]
        plan += [Setting(problem, solvers if methods is None else exact, independent, small=True) for problem in small]
        studies, pictures = _carry_out(plan, heuristics, moves_bound, quiet)
    checked = certify(studies) if verify else None
    generated = {problem.load.source: problem.load for problem in small}
    facts = Facts(
        arguments=asked,
        command=tuple(command),
        effort=usual,
        versions=versions(),
        machine=this_machine(),
        cluster=workers,
        traces=(
            *(source.record for source in inputs),
            *(TraceRecord.of(load, f"generated, seed {seed}") for load in generated.values()),
        ),
        small=tuple(generated),
        impossible=tuple(impossible),
        reference=None if older is None else older.record,
        verification=checked.summary if checked else None,
    )
    write(out, contents(studies, pictures, facts, checked.content if checked else None))
    if not quiet:
        _show_end(facts)
    if checked and checked.rejected:
        raise VerificationError(f"{len(checked.rejected)} rejected; the first is {checked.rejected[0]}")
    return studies


def _pick_methods(
    balancers: Mapping[str, Method], solvers: Mapping[str, Solver], names: Sequence[str] | None
) -> tuple[dict[str, Method], dict[str, Solver]]:
    if names is None:
        names = [*balancers, *[name for name in EXACT_CHOICE if name in solvers][:1]]
    heuristics, exact = pick_methods(names, balancers, solvers)
    return heuristics, exact


def _pose(
    asked: Arguments, inputs: Sequence[Input], older: OlderLoads | None
) -> tuple[list[PlacementProblem], list[str]]:
    """Pose every setting of every trace; those that cannot be are reasons."""
    problems, impossible = [], []
    for source in inputs:
        wanted = shapes(source.load.num_experts, asked.gpus, asked.slots)
        nodes, groups = asked.nodes or 1, asked.groups or 1
        possible, refused = pose(source.load, wanted, nodes, groups, _in_force(asked, source, older))
        problems += possible
        impossible += refused
    if not problems:
        raise InputError(f"no setting is possible: {'; '.join(impossible)}")
    return problems, impossible


def _in_force(asked: Arguments, source: Input, older: OlderLoads | None) -> Callable[[int, int], Placement] | None:
    """The placement in force by numbers of GPUs and slots, if one was given."""
    if older is not None:
        return partial(placed_by_eplb, older.matched(source.load), asked.nodes or 1, asked.groups or 1)
    path = asked.reference
    if path is None:
        return None
    return lambda num_gpus, num_slots: read_reference(path, source.load, source.all_layers, num_gpus)


def _carry_out(
    plan: Sequence[Setting], heuristics: Mapping[str, Method], moves_bound: MovesBound | None, quiet: bool
) -> tuple[list[Study], dict[str, bytes]]:
    """Study everything under a progress bar on stderr, each table shown at once; pictures of all but small ones."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from moeopt.report.figures import pictures
    from moeopt.report.moves_figure import moves_picture

    steps = [
        ((len(heuristics) + len(setting.exact)) * (2 if setting.problem.hierarchical else 1) + setting.counts_moves)
        * setting.problem.num_layers
        for setting in plan
    ]
    studies: list[Study] = []
    drawn: dict[str, bytes] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Bar(*columns, console=Console(stderr=True), disable=quiet, redirect_stdout=sys.stdout.isatty())
    with shown as bar:
        task = bar.add_task("gap report", total=sum(steps))

        def compiling(name: str) -> None:
            bar.update(task, description=f"compiling for this and later runs: {name}")

        for setting in plan:
            heading = title(setting.problem)

            def progress(method: str, layers: int, heading: str = heading) -> None:
                bar.update(task, advance=layers, description=f"{heading}: {method}")

            with told_of_compilation(compiling):
                done = study(setting.problem, heuristics, setting.exact, setting.effort, progress)
                if setting.counts_moves:
                    progress("moves", 0)
                    done = replace(
                        done, moves=study_moves(done, setting.effort, moves_bound, partial(progress, "moves"))
                    )
            studies.append(done)
            if not quiet:
                _show_study(done)
            if not setting.small:
                bar.update(task, description=f"{heading}: figures")
                drawn |= {f"{label(setting.problem)}_{kind}.png": png for kind, png in pictures(done).items()}
                if done.moves is not None:
                    drawn[f"{label(setting.problem)}_moves.png"] = moves_picture(done.moves, heading)
        bar.update(task, description="gap report")
    return studies, drawn


def _console() -> Console:
    from rich.console import Console

    return Console(width=min(Console().width, 100) if sys.stdout.isatty() else 100, highlight=False)


def _show_study(done: Study) -> None:
    from moeopt.report.document import headline
    from moeopt.report.moves_tables import front_cells, front_headings
    from moeopt.report.tables import HEADINGS, cells, reasons, summarise, terminal

    console = _console()
    rows = summarise(done)
    console.print(terminal(title(done.problem), HEADINGS, [cells(row) for row in rows]))
    for text in [*headline(done), *reasons(rows)]:
        console.print(text, markup=False)
    console.print()
    if done.moves is not None:
        console.print(
            terminal("Moves per layer, by distance from the best", front_headings(done.moves), front_cells(done.moves))
        )


def _show_end(facts: Facts) -> None:
    console = _console()
    for reason in facts.impossible:
        console.print(f"left out: {reason}", markup=False)
    if facts.cluster is not None:
        console.print(f"exact methods ran on {facts.cluster}; heuristics were timed on this machine", markup=False)
    if facts.verification is not None:
        console.print(facts.verification, markup=False)
    out = Path(facts.arguments.out)
    console.print(f"written: {out / 'report.md'}", markup=False, soft_wrap=True)
    console.print(f"to explore: {out / 'report.html'}", markup=False, soft_wrap=True)
