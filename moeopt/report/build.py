"""The whole report: traces read, settings posed and studied, files written, tables shown."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from moeopt._text import printable
from moeopt.compare import Method
from moeopt.errors import InputError, VerificationError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.certificates import Certificates, Verify, certify
from moeopt.report.settings import distinct, label, pick_layers, pose, shapes, title
from moeopt.report.study import Effort, Exact, Study, study
from moeopt.solution import Solution

Solver = Callable[..., Solution]
"""``solver(problem, *, time_limit, gap, workers, hint, seed, jobs) -> Solution``."""

EXACT_CHOICE = ("solve", "cpsat")
"""The exact method of a run that names no methods: the first of these that there is."""

TIME_LIMIT, BUDGET = 2.0, 60.0
"""Seconds a layer, and a setting, for an exact method in a run that names no time limit."""

SMALL_SHAPES = {8: ((2, 8), (2, 10), (4, 8)), 6: ((4, 8),)}
"""GPUs and slots by number of experts: small enough for every solver to finish in a second or so."""

SMALL_LAYERS, SMALL_TIME_LIMIT = 4, 10.0

PACKAGES = ("moeopt", "numpy", "numba", "scipy", "pandas", "ortools", "pulp", "highspy", "torch", "matplotlib")


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
    jobs: int = 1,
    repeats: int = 5,
    reference: str | os.PathLike[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] = "report",
    quiet: bool = False,
    verify: Verify | None = None,
    command: Sequence[str] = (),
) -> list[Study]:
    """Study every setting, write the report's files into ``out`` and show its tables.

    Parameters
    ----------
    balancers, solvers
        Heuristics and exact methods by name; the latter take limits and a hint as keywords.
    trace
        Files or folders with recorded loads; a generated DeepSeek-V3-like trace if empty.
    gpus, slots
        Every combination that divides is a setting; the notebook's and DeepSeek's prefill
        setting, scaled to the trace's experts, if neither is given.
    nodes, groups
        Expert groups that live wholly on one node (both or neither).
    methods
        Names of balancers and solvers; all balancers and one exact method if None.
    layers
        Layers by the trace's own ids, such as ``"3-10,17"``.
    time_limit
        Seconds per layer for exact methods. Without it they get 2 s a layer and a minute a setting.
    jobs
        Layers solved at the same time.
    repeats
        Timed calls of every balancer.
    reference
        File with the placement that moves count from.
    seed
        Seed of the generated trace and of the exact methods.
    out
        Folder for the files; an earlier report there is replaced.
    quiet
        No progress and no tables.
    verify
        An independent check, run on every placement and bound of the report; its record is
        written as ``certificates.json``. None = no check.
    command
        The command line, for the report's last section.

    Raises
    ------
    InputError
        For unusable arguments or input, before anything is written.
    VerificationError
        If the independent check rejects anything, after everything is written and shown.
    """
    from moeopt.report.files import check_folder, contents, write

    _check_arguments(nodes, groups, time_limit, jobs, repeats, seed)
    heuristics, exact = _pick_methods(balancers, solvers, methods)
    check_folder(out, trace)
    loads, records = _read(trace, layers, seed)
    problems, impossible = [], []
    for load, (_, full) in zip(loads, records, strict=True):
        wanted = shapes(load.num_experts, gpus, slots)
        placed = None if reference is None else partial(_reference, reference, load, full)
        possible, refused = pose(load, wanted, nodes or 1, groups or 1, placed)
        problems += possible
        impossible += refused
    if not problems:
        raise InputError(f"no setting is possible: {'; '.join(impossible)}")
    limit = TIME_LIMIT if time_limit is None else time_limit
    effort = Effort(repeats=repeats, budget=BUDGET if time_limit is None else None, jobs=jobs)
    whole = not any((trace, gpus, slots, nodes, groups, layers, reference))
    small = _small_problems(seed) if whole else []
    plan = [(p, {name: _bind(solver, limit, effort, seed) for name, solver in exact.items()}, effort) for p in problems]
    if small:
        independent = Effort(repeats=repeats, jobs=jobs, hint=False)
        chosen = solvers if methods is None else exact
        bound = {name: _bind(solver, SMALL_TIME_LIMIT, independent, seed) for name, solver in chosen.items()}
        plan += [(p, bound, independent) for p in small]
    studies, pictures = _carry_out(plan, heuristics, quiet)
    checked = None if verify is None else certify(studies, verify)
    small_loads = {p.load.source: p.load for p in small}
    facts = {
        "arguments": {
            "trace": [str(path) for path in trace], "gpus": gpus, "slots": slots, "nodes": nodes, "groups": groups,
            "methods": methods, "layers": layers, "time_limit": time_limit, "jobs": jobs, "repeats": repeats,
            "reference": reference, "seed": seed, "out": str(out), "quiet": quiet, "verify": verify is not None,
        },
        "command": list(command),
        "seed": seed,
        "effort": {"seconds_per_layer": limit, "seconds_per_setting": effort.budget, "gap": effort.gap, "hint": True},
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"platform": platform.platform(), "cpu": _cpu(), "cores": f"{os.cpu_count()} cores"},
        "traces": [r for r, _ in records] + [_record(load, f"generated, seed {seed}") for load in small_loads.values()],
        "small": list(small_loads),
        "impossible": impossible,
        "verification": None if checked is None else checked.summary,
    }  # fmt: skip
    write(Path(out), contents(studies, pictures, facts, None if checked is None else checked.content))
    if not quiet:
        _show(studies, impossible, checked, Path(out))
    if checked is not None and checked.rejected:
        raise VerificationError(f"{len(checked.rejected)} rejected; the first is {checked.rejected[0]}")
    return studies


def _check_arguments(
    nodes: int | None, groups: int | None, time_limit: float | None, jobs: int, repeats: int, seed: int
) -> None:
    for option, value, least in (("--jobs", jobs, 1), ("--repeats", repeats, 1), ("--seed", seed, 0)):
        if value < least:
            raise InputError(f"{option} must be >= {least}, got {value}")
    if seed >= 2**31:
        raise InputError(f"--seed must be below 2**31, got {seed}")
    if time_limit is not None and not 0 < time_limit < float("inf"):
        raise InputError(f"--time-limit must be a number of seconds > 0, got {time_limit}")
    if (nodes is None) != (groups is None):
        raise InputError("--nodes and --groups belong together: groups of experts that live wholly on one node")
    for option, number in (("--nodes", nodes), ("--groups", groups)):
        if number is not None and number < 2:
            raise InputError(f"{option} must be >= 2, got {number}; without both options placement is global")


def _pick_methods(
    balancers: Mapping[str, Method], solvers: Mapping[str, Solver], names: Sequence[str] | None
) -> tuple[dict[str, Method], dict[str, Solver]]:
    if names is None:
        names = [*balancers, *[name for name in EXACT_CHOICE if name in solvers][:1]]
    for name in names:
        if name not in balancers and name not in solvers:
            raise InputError(f"--methods {name!r} is unknown; there are {', '.join([*balancers, *solvers])}")
    return (
        {name: balancers[name] for name in names if name in balancers},
        {name: solvers[name] for name in names if name in solvers},
    )


def _bind(solver: Solver, time_limit: float, effort: Effort, seed: int) -> Exact:
    def solve(problem: PlacementProblem, hint: Placement | None) -> Solution:
        return solver(problem, time_limit=time_limit, gap=effort.gap, hint=hint, seed=seed, jobs=effort.jobs)

    return solve


def _read(
    paths: Sequence[str | os.PathLike[str]], layers: str | None, seed: int
) -> tuple[list[LoadMatrix], list[tuple[dict[str, Any], LoadMatrix]]]:
    """Loads of the chosen layers, and for every trace its record and its full load."""
    from moeopt.traces import generate, read_trace

    if paths:
        traces = [read_trace(path) for path in paths]
        full, hashes = [trace.total() for trace in traces], [trace.sha256 for trace in traces]
        origins = [printable(Path(path).name, 80) for path in paths]
    else:
        full = [generate("prefill", seed=seed).total()]
        origins, hashes = [f"generated, preset prefill, seed {seed}"], [None]
    names = distinct(load.source for load in full)
    full = [LoadMatrix(load.values, load.layer_ids, name) for load, name in zip(full, names, strict=True)]
    loads = [pick_layers(load, layers) for load in full]
    records = [_record(*item) for item in zip(loads, origins, hashes, strict=True)]
    return loads, list(zip(records, full, strict=True))


def _record(load: LoadMatrix, origin: str, sha256: str | None = None) -> dict[str, Any]:
    return {
        "name": load.source,
        "origin": origin,
        "sha256": sha256 or hashlib.sha256(load.values.tobytes()).hexdigest(),
        "layers": load.num_layers,
        "layer_ids": list(load.layer_ids),
        "experts": load.num_experts,
        "tokens": load.values.sum().item(),
    }


def _reference(path: str | os.PathLike[str], load: LoadMatrix, full: LoadMatrix, num_gpus: int) -> Placement:
    """Placement with a row for every chosen layer; the file may hold all of the trace's layers."""
    from moeopt.traces import read_placement

    placement = read_placement(path, load.num_experts, num_gpus)
    if placement.num_layers == load.num_layers:
        return placement
    if placement.num_layers != full.num_layers:
        raise InputError(f"--reference has {placement.num_layers} layers, the trace has {full.num_layers}")
    return placement[[full.layer_ids.index(layer) for layer in load.layer_ids]]


def _small_problems(seed: int) -> list[PlacementProblem]:
    """Pose a few experts of a generated trace, where every solver closes every layer."""
    from moeopt.traces import generate

    values = generate("prefill", num_layers=SMALL_LAYERS, num_experts=64, tokens=4096, seed=seed).total().values
    problems = []
    for num_experts, small_shapes in SMALL_SHAPES.items():
        load = LoadMatrix(values[:, :num_experts], source=f"small_{num_experts}experts")
        problems += pose(load, small_shapes)[0]
    return problems


def _carry_out(
    plan: Iterable[tuple[PlacementProblem, Mapping[str, Exact], Effort]], heuristics: Mapping[str, Method], quiet: bool
) -> tuple[list[Study], dict[str, bytes]]:
    """Study everything under a progress bar on stderr; pictures for all but the small instances."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from moeopt.report.figures import pictures

    plan = list(plan)
    steps = [
        (len(heuristics) + len(exact)) * problem.num_layers * (2 if problem.hierarchical else 1)
        for problem, exact, _ in plan
    ]
    studies: list[Study] = []
    drawn: dict[str, bytes] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("gap report", total=sum(steps))
        for problem, exact, effort in plan:

            def progress(method: str, layers: int, heading: str = title(problem)) -> None:
                bar.update(task, advance=layers, description=f"{heading}: {method}")

            done = study(problem, heuristics, exact, effort, progress)
            studies.append(done)
            if effort.hint:
                bar.update(task, description=f"{title(problem)}: figures")
                drawn |= {f"{label(problem)}_{kind}.png": png for kind, png in pictures(done).items()}
        bar.update(task, description="gap report")
    return studies, drawn


def _show(studies: Sequence[Study], impossible: Sequence[str], checked: Certificates | None, out: Path) -> None:
    from rich.console import Console

    from moeopt.report.document import headline
    from moeopt.report.tables import HEADINGS, cells, reasons, rows_of, summary_table, terminal

    console = Console(width=min(Console().width, 100) if sys.stdout.isatty() else 100, highlight=False)
    summary = summary_table(studies)
    for done in studies:
        rows = rows_of(summary, done)
        console.print(terminal(title(done.problem), HEADINGS, [cells(row) for _, row in rows.iterrows()]))
        for text in [*headline(done, rows), *reasons(rows)]:
            console.print(text, markup=False)
        console.print()
    for reason in impossible:
        console.print(f"left out: {reason}", markup=False)
    if checked is not None:
        console.print(checked.summary, markup=False)
    console.print(f"written: {out / 'report.md'}", markup=False, soft_wrap=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Return the processor's name; the kernel knows it where ``platform`` does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
