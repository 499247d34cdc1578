"""The command line of the benchmark: what to measure, in which order."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from typer import Option

from benchmarking.fresh import cold_start, memory_rows
from benchmarking.measure import balancer_rows, exact_row, growth_rows, moves_row
from benchmarking.page import page
from benchmarking.pictures import pictures
from benchmarking.records import Facts, Results
from benchmarking.rivals import duels, load_module
from moeopt._files import write_whole
from moeopt.balancers import BALANCERS
from moeopt.cluster import connected
from moeopt.compare import Method
from moeopt.errors import InputError
from moeopt.exit_codes import exit_code
from moeopt.load import LoadMatrix
from moeopt.picking import pick_methods
from moeopt.report.files import check_folder
from moeopt.report.machine import this_machine, versions
from moeopt.report.settings import distinct, names, pick_layers, pose, title
from moeopt.traces import generate, read_trace
from solvers import SOLVERS

SETTINGS = (
    *((gpus, 256) for gpus in (8, 16, 32, 64)),
    *((gpus, 288) for gpus in (8, 16, 32, 36, 72, 96, 144, 288)),
    *((gpus, 320) for gpus in (64, 160, 320)),
)
"""(GPUs, slots) for 256 experts; slots are scaled for traces of other widths."""

DUELS = ((8, 256), (32, 288), (72, 288), (144, 288))
MEMORY_SHAPES = ((58, 256, 32, 288), (1, 100_000, 12_500, 100_000))
"""(layers, experts, GPUs, slots)"""

QUICK_LAYERS, QUICK_SETTINGS = 6, ((8, 256), (32, 288))

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def benchmark(
    context: typer.Context,
    trace: Annotated[list[str] | None, Option(help="Recorded loads, repeatable. [default: two generated]")] = None,
    settings: Annotated[str | None, Option(help="List of GPUs/slots, e.g. 8/256,32/288.")] = None,
    methods: Annotated[str | None, Option(help="List of balancers, or FILE.py:FUNCTION. [default: all]")] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    repeats: Annotated[int, Option(help="Timed rounds of the balancers.")] = 9,
    exact: Annotated[bool, Option(help="Prove optima with solvers.solve, which takes longest.")] = True,
    cluster: Annotated[str | None, Option(help="Dask scheduler for the exact method, tcp://HOST:PORT.")] = None,
    time_limit: Annotated[float, Option(help="Seconds per layer for the exact method.")] = 10.0,
    fresh: Annotated[bool, Option(help="Cold start and memory, measured in fresh processes.")] = True,
    peer: Annotated[list[Path] | None, Option(help="A file with a rebalance_experts to time, repeatable.")] = None,
    quick: Annotated[bool, Option("--quick", help="6 layers, 2 settings, 2 rounds, 1 s: does it run?")] = False,
    seed: Annotated[int, Option(help="Seed of generated traces and of the exact method.")] = 0,
    out: Annotated[Path | None, Option(help="Folder for performance.md and figures. [default: only print]")] = None,
) -> None:  # fmt: skip
    """Measure speed, quality, cold start, memory and growth; print the tables, or write them to a page."""
    torch.set_num_threads(1)
    if repeats < 1:
        raise InputError(f"repeats must be >= 1, got {repeats}")
    if not 0 < time_limit < float("inf"):
        raise InputError(f"time_limit must be a number of seconds > 0, got {time_limit}")
    if out is not None:
        check_folder(out)
    (chosen,) = pick_methods(names("methods", methods) or BALANCERS, BALANCERS)
    wanted = None if settings is None else shapes(settings)
    if quick:
        repeats, time_limit = 2, 1.0
    loads, origins = read(trace or [], layers, seed, quick)
    rivals = {path.stem: load_module(path).rebalance_experts for path in peer or []}
    results, impossible, tell = Results(), [], Progress()
    with connected(cluster) as workers:
        for gpus, slots in QUICK_SETTINGS if quick else DUELS:
            shape = (gpus, slots * loads[0].num_experts // 256)
            if fits(loads[0].num_experts, *shape):
                tell(f"plain versions: {loads[0].source}, {shape[1]} slots on {gpus} GPUs")
                results.duels.extend(duels(loads[0], *shape, rivals))
        for load, older in zip(loads, loads[1:] + loads[:1], strict=True):
            if len(loads) == 1 or load.values.shape != older.values.shape:
                continue
            for gpus, slots in QUICK_SETTINGS if quick else DUELS:
                shape = (gpus, slots * load.num_experts // 256)
                if fits(load.num_experts, *shape):
                    tell(f"repair: {load.source}, {shape[1]} slots on {gpus} GPUs")
                    results.moves.append(moves_row(load, older, *shape, repeats))
        for load in loads:
            own = [(gpus, slots * load.num_experts // 256) for gpus, slots in (QUICK_SETTINGS if quick else SETTINGS)]
            problems, refused = pose(load, wanted or [shape for shape in own if fits(load.num_experts, *shape)])
            impossible += refused
            for problem in problems:
                bound = None
                if exact:
                    tell(f"exact: {title(problem)}")
                    solution = SOLVERS["solve"](problem, time_limit=time_limit, seed=seed)
                    results.exact.append(exact_row(problem, solution))
                    bound = solution.bound
                tell(f"balancers: {title(problem)}")
                results.balancers.extend(balancer_rows(problem, chosen, repeats, bound))
    growing: dict[str, Method] = {name: BALANCERS[name] for name in ("eplb", "bldm", "search") if name in chosen}
    for name, sizes in growth_shapes(quick).items():
        tell(f"growth: {name}")
        results.growth[name] = growth_rows(growing, sizes, seed=seed)
    if fresh:
        tell("cold start")
        results.cold.extend(cold_start([name for name in growing if name != "eplb"], 1 if quick else 5))
        tell("memory")
        results.memory.extend(memory_rows(list(growing), MEMORY_SHAPES[: 1 if quick else None]))
    facts = Facts(
        command=context.obj,
        date=datetime.now(UTC).date().isoformat(),
        machine=this_machine(),
        cluster=workers,
        versions=versions(),
        traces={load.source: origin for load, origin in zip(loads, origins, strict=True)},
        layers=loads[0].num_layers,
        impossible=tuple(impossible),
        repeats=repeats,
        time_limit=time_limit,
    )
    drawn = pictures(results)
    text = page(results, facts, list(drawn))
    if out is None:
        print(text)
        return
    for name, picture in drawn.items():
        write_whole(out / "figures" / "performance" / name, picture)
    write_whole(out / "performance.md", text)
    tell(f"written: {out / 'performance.md'}")


def growth_shapes(quick: bool) -> dict[str, list[tuple[int, int, int]]]:
    """(experts, GPUs, slots) of the curves, by title."""
    experts = (64, 256, 1024) if quick else (64, 256, 1024, 4096, 16384, 100_000)
    held, gpus = (1024, (8, 32, 128)) if quick else (16384, (8, 32, 128, 512, 2048, 8192))
    return {
        "Experts grow, 8 slots per GPU": [(n, n // 8, n) for n in experts],
        "Experts grow, 9 slots for 8 experts": [(n, n // 8, n // 8 * 9) for n in experts],
        "Experts grow, two copies each, 4 slots per GPU": [(n, n // 2, 2 * n) for n in experts],
        f"GPUs grow, {held:,} experts": [(held, n, held) for n in gpus],
    }


def read(paths: list[str], layers: str | None, seed: int, quick: bool) -> tuple[list[LoadMatrix], list[str]]:
    """Loads under distinct names, and where each comes from."""
    presets = () if paths else ("prefill", "decode")
    full = [read_trace(path).total() for path in paths] + [generate(p, seed=seed).total() for p in presets]
    sources = distinct(load.source for load in full)
    loads = [LoadMatrix(load.values, load.layer_ids, name) for load, name in zip(full, sources, strict=True)]
    loads = [pick_layers(load, layers) for load in loads]
    if quick:
        loads = [load[:QUICK_LAYERS] for load in loads]
    return loads, [Path(path).name for path in paths] + [f"generated, preset {p}, seed {seed}" for p in presets]


def shapes(text: str) -> list[tuple[int, int]]:
    """Read ``8/256,32/288`` as pairs of GPUs and slots."""
    pairs = [part.strip().split("/") for part in text.split(",")]
    if not all(len(pair) == 2 and all(n.isascii() and n.isdigit() and int(n) >= 1 for n in pair) for pair in pairs):
        raise InputError(f"settings must be GPUs/slots separated by commas, such as 8/256,32/288, got {text!r}")
    return list(dict.fromkeys((int(gpus), int(slots)) for gpus, slots in pairs))


def fits(num_experts: int, num_gpus: int, num_slots: int) -> bool:
    """Whether a default setting can be posed for a trace of this width."""
    return num_slots >= num_experts and num_slots % num_gpus == 0


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 2 for unusable arguments or input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = ("python", "scripts/benchmark.py")
    return exit_code(app, arguments, " ".join(program), (*program, *arguments))
