"""How fast is everything, and how close to the best possible? ``python scripts/benchmark.py --help``.

Runs from a checkout: the plain versions to compare with are the ones in tests/oracles.py.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer import Option

ROOT = Path(__file__).resolve().parent.parent

for _library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch are loaded: no threads behind our back
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

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
PLAIN_ROUNDS = 3
"""Rounds beside plain versions, which take seconds."""

app = typer.Typer(add_completion=False)


@app.command()
def benchmark(
    context: typer.Context,
    trace: Annotated[list[str] | None, Option(help="Recorded loads, repeatable. [default: two generated]")] = None,
    settings: Annotated[str | None, Option(help="List of GPUs/slots, e.g. 8/256,32/288.")] = None,
    methods: Annotated[str | None, Option(help="List of balancers. [default: all]")] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    repeats: Annotated[int, Option(help="Timed rounds of the balancers.")] = 9,
    exact: Annotated[bool, Option(help="Prove optima with solvers.solve, which takes longest.")] = True,
    time_limit: Annotated[float, Option(help="Seconds per layer for the exact method.")] = 10.0,
    fresh: Annotated[bool, Option(help="Cold start and memory, measured in fresh processes.")] = True,
    peer: Annotated[list[Path] | None, Option(help="A file with a rebalance_experts to time, repeatable.")] = None,
    quick: Annotated[bool, Option("--quick", help="6 layers, 2 settings, 2 rounds, 1 s: does it run?")] = False,
    seed: Annotated[int, Option(help="Seed of generated traces and of the exact method.")] = 0,
    out: Annotated[Path | None, Option(help="Folder for performance.md and figures. [default: only print]")] = None,
) -> None:  # fmt: skip
    """Measure speed, quality, cold start, memory and growth; print the tables, or write them to a page."""
    import torch

    from moeopt._files import write_whole
    from moeopt.balancers import BALANCERS
    from moeopt.errors import InputError
    from moeopt.report.benchmark import balancer_rows, cold_start, exact_row, memory_rows, scaling_rows
    from moeopt.report.benchmark_page import Results, page, pictures
    from moeopt.report.files import check_folder
    from moeopt.report.settings import names, pose, title
    from solvers import SOLVERS

    torch.set_num_threads(1)
    if repeats < 1:
        raise InputError(f"--repeats must be >= 1, got {repeats}")
    if not 0 < time_limit < float("inf"):
        raise InputError(f"--time-limit must be a number of seconds > 0, got {time_limit}")
    if out is not None:
        check_folder(out)
    chosen = names("--methods", methods) or tuple(BALANCERS)
    if unknown := [name for name in chosen if name not in BALANCERS]:
        raise InputError(f"--methods {unknown[0]!r} is unknown; there are {', '.join(BALANCERS)}")
    wanted = None if settings is None else shapes(settings)
    if quick:
        repeats, time_limit = 2, 1.0
    loads, origins = read(trace or [], layers, seed, quick)
    rivals = {path.stem: load_module(path).rebalance_experts for path in peer or []}
    results = Results()
    impossible: list[str] = []
    record = facts(context.obj, loads, origins, impossible, repeats, time_limit)
    tell = Progress()
    for gpus, slots in QUICK_SETTINGS if quick else DUELS:
        shape = (gpus, slots * loads[0].num_experts // 256)
        if fits(loads[0].num_experts, *shape):
            tell(f"plain versions: {loads[0].source}, {shape[1]} slots on {gpus} GPUs")
            results.duels.extend(duels(loads[0], *shape, rivals))
    for load in loads:
        usual = QUICK_SETTINGS if quick else SETTINGS
        own = [(g, s * load.num_experts // 256) for g, s in usual]
        possible = wanted or dict.fromkeys(shape for shape in own if fits(load.num_experts, *shape))
        problems, refused = pose(load, possible)
        impossible += refused
        for problem in problems:
            bound = None
            if exact and "solve" in SOLVERS:
                tell(f"exact: {title(problem)}")
                row, bound = exact_row(problem, SOLVERS["solve"], time_limit=time_limit, gap=1e-4, seed=seed)
                results.exact.append(row)
            tell(f"balancers: {title(problem)}")
            results.balancers.extend(balancer_rows(problem, {name: BALANCERS[name] for name in chosen}, repeats, bound))
    growing: dict[str, Any] = {name: BALANCERS[name] for name in ("eplb", "bldm", "search") if name in chosen}
    for name, sizes in scaling_shapes(quick).items():
        tell(f"growth: {name}")
        results.scaling[name] = scaling_rows(growing, sizes, seed=seed)
    if fresh:
        tell("cold start")
        results.cold.extend(cold_start([name for name in growing if name != "eplb"], 1 if quick else 5))
        tell("memory")
        results.memory.extend(memory_rows(list(growing), MEMORY_SHAPES[: 1 if quick else None]))

    drawn = pictures(results)
    text = page(results, record, list(drawn))
    if out is None:
        print(text)
        return
    for name, picture in drawn.items():
        write_whole(out / "figures" / "performance" / name, picture)
    write_whole(out / "performance.md", text)
    tell(f"written: {out / 'performance.md'}")


def duels(load: Any, num_gpus: int, num_slots: int, rivals: dict[str, Callable[..., Any]]) -> Iterator[dict[str, Any]]:
    """Plain versions and peers against the drop-in and BLDM on one setting, all layers in one call."""
    import numpy as np
    import torch

    from moeopt import PlacementProblem, balancers, rebalance_experts
    from moeopt.replication import replicate
    from moeopt.report.benchmark import duel
    from moeopt.report.benchmark_page import DROP_IN

    oracles = load_module(ROOT / "tests" / "oracles.py")
    weight = torch.tensor(load.values)
    ours = partial(rebalance_experts, weight, num_slots, 1, 1, num_gpus)
    placed = ours()[0].numpy()
    calls = {
        "plain EPLB in torch": partial(oracles.plain_eplb, weight, num_slots, 1, 1, num_gpus),
        "plain EPLB in numpy": partial(numpy_eplb, load.values, num_slots, num_gpus),
        **{name: partial(rival, weight, num_slots, 1, 1, num_gpus) for name, rival in rivals.items()},
    }
    setting = {"num_gpus": num_gpus, "num_slots": num_slots}
    for name, call in calls.items():
        answer = call()
        same = (np.asarray(answer[0] if isinstance(answer, tuple) else answer) == placed).all(axis=1).mean()
        yield setting | duel((name, call), (DROP_IN, ours), PLAIN_ROUNDS, float(same))
    if num_slots == num_gpus:
        return
    problem = PlacementProblem(load, num_gpus, num_slots)
    expert, share = replicate(load.values.astype(float), num_slots)
    items = share.tolist()  # the plain version gets the replicas for nothing

    def plain() -> list[list[list[int]]]:
        return [oracles.plain_bldm(row, num_gpus) for row in items]

    fine = partial(balancers.bldm, problem)
    theirs = [sorted(sorted(expert[i, pack].tolist()) for pack in packs) for i, packs in enumerate(plain())]
    own = [sorted(sorted(gpu) for gpu in layer) for layer in fine().by_gpu.tolist()]
    same = float(np.mean([a == b for a, b in zip(theirs, own, strict=True)]))
    yield setting | duel(("plain BLDM in lists", plain), ("bldm", fine), PLAIN_ROUNDS, same)


def numpy_eplb(weight: Any, num_slots: int, num_gpus: int) -> Any:
    """EPLB's placement ``[layers, slots]`` in numpy: every step for all layers at once."""
    import numpy as np

    weight = weight.astype(np.float32)
    layers, experts = weight.shape
    row, per_gpu = np.arange(layers), num_slots // num_gpus
    count = np.ones_like(weight)
    expert = np.broadcast_to(np.arange(num_slots) % experts, (layers, num_slots)).copy()
    for replica in range(experts, num_slots):
        expert[:, replica] = (weight / count).argmax(axis=1)
        count[row, expert[:, replica]] += 1
    if per_gpu == 1:
        return expert
    share = np.take_along_axis(weight / count, expert, axis=1)
    falling = np.argsort(-share, axis=1, kind="stable")
    phy2log = np.empty_like(expert)
    load, filled = np.zeros((layers, num_gpus), np.float32), np.zeros((layers, num_gpus), np.int64)
    room = load.copy()  # the load while the GPU is open, infinite once it is full
    for replica in falling.T:
        gpu = room.argmin(axis=1)
        phy2log[row, gpu * per_gpu + filled[row, gpu]] = expert[row, replica]
        load[row, gpu] += share[row, replica]
        filled[row, gpu] += 1
        room[row, gpu] = np.where(filled[row, gpu] == per_gpu, np.inf, load[row, gpu])
    return phy2log


def scaling_shapes(quick: bool) -> dict[str, list[tuple[int, int, int]]]:
    """(experts, GPUs, slots) of the curves, by title."""
    experts = (64, 256, 1024) if quick else (64, 256, 1024, 4096, 16384, 100_000)
    held, gpus = (1024, (8, 32, 128)) if quick else (16384, (8, 32, 128, 512, 2048, 8192))
    return {
        "Experts grow, 8 slots a GPU": [(n, n // 8, n) for n in experts],
        "Experts grow, 9 slots for 8 experts": [(n, n // 8, n // 8 * 9) for n in experts],
        f"GPUs grow, {held:,} experts": [(held, n, held) for n in gpus],
    }


def read(paths: list[str], layers: str | None, seed: int, quick: bool) -> tuple[list[Any], list[str]]:
    """Loads under distinct names, and where each comes from."""
    from moeopt.load import LoadMatrix
    from moeopt.report.settings import distinct, pick_layers
    from moeopt.traces import generate, read_trace

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
    from moeopt.errors import InputError

    pairs = [part.strip().split("/") for part in text.split(",")]
    if not all(len(pair) == 2 and all(n.isascii() and n.isdigit() and int(n) >= 1 for n in pair) for pair in pairs):
        raise InputError(f"--settings must be GPUs/slots separated by commas, such as 8/256,32/288, got {text!r}")
    return list(dict.fromkeys((int(gpus), int(slots)) for gpus, slots in pairs))


def fits(num_experts: int, num_gpus: int, num_slots: int) -> bool:
    """Whether a default setting can be posed for a trace of this width."""
    return num_slots >= num_experts and num_slots % num_gpus == 0


def load_module(path: Path) -> ModuleType:
    """Run a Python file as a module, without a claim on anybody's package name."""
    from moeopt.errors import InputError

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def facts(
    arguments: list[str], loads: list[Any], origins: list[str], impossible: list[str], repeats: int, time_limit: float
) -> dict[str, Any]:
    """What was run, where and when."""
    from moeopt.report.build import _cpu, _versions

    return {
        "command": shlex.join(["python", "scripts/benchmark.py", *arguments]),
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
        "traces": {load.source: origin for load, origin in zip(loads, origins, strict=True)},
        "layers": loads[0].num_layers,
        "impossible": impossible,
        "repeats": repeats,
        "time_limit": time_limit,
    }


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for unusable arguments or input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return app(arguments, standalone_mode=False, obj=arguments) or 0
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        from moeopt.errors import InputError

        if hasattr(error, "format_message"):  # an error of the command line
            message = error.format_message()
        elif isinstance(error, InputError):
            message = str(error)
        else:
            raise
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
