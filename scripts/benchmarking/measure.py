"""Speed and quality measured side by side: rows of numbers for scripts/benchmark.py."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt.bounds import Bound
from moeopt.compare import Method, Run, judge, run
from moeopt.errors import MoeoptError
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.traces import generate

Row = dict[str, Any]
Call = Callable[[], Any]
Seconds = NDArray[np.float64]

TURN = 0.02
"""Seconds that a turn of a fast call lasts: its median over up to ``CALLS_A_TURN`` calls counts."""

CALLS_A_TURN = 20

SCALING_TOKENS = 2**26
"""Tokens of the generated layers of the scaling curves, so that loads of 100,000 experts hardly tie."""


def alternate(calls: Mapping[str, Call], rounds: int) -> dict[str, Seconds]:
    """Seconds of every call, ``[rounds]``; in every round each has a turn, in changing order.

    What slows the machine down for a while slows all calls alike, so quotients of two calls'
    seconds in the same round are steadier than the seconds themselves.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for number in range(rounds):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            seconds[name].append(_turn(calls[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def _turn(call: Call) -> float:
    taken: list[float] = []
    while len(taken) < CALLS_A_TURN and sum(taken) < TURN:
        taken.append(_seconds(call))
    return float(np.median(taken))


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def duel(rival: tuple[str, Call], ours: tuple[str, Call], rounds: int, same: float) -> Row:
    """How many times as fast as ``rival`` our call is, round by round; both have run once before.

    ``same`` is the share of layers on which the two place alike.
    """
    taken = alternate(dict([rival, ours]), rounds)
    times = taken[rival[0]] / taken[ours[0]]
    return {
        "rival": rival[0],
        "rival_ms": 1e3 * np.median(taken[rival[0]]),
        "ours": ours[0],
        "ours_ms": 1e3 * np.median(taken[ours[0]]),
        "times": float(np.median(times)),
        "times_low": float(times.min()),
        "times_high": float(times.max()),
        "same": same,
    }


def balancer_rows(
    problem: PlacementProblem, methods: Mapping[str, Method], rounds: int, bound: Bound | None = None
) -> list[Row]:
    """Runtime and quality of every method on one setting, all held against one bound.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads in the widest reading.
    rounds
        Timed rounds after a warm-up; the methods take turns.
    bound
        A proven bound on this problem, joined with the combinatorial ones.
    """
    runs = {name: run(problem, method) for name, method in methods.items()}
    able = {name: partial(methods[name], problem) for name in runs if runs[name].placement is not None}
    taken = alternate(able, rounds)
    timed = {name: Run(r.answer, tuple(taken.get(name, ())), r.status, r.note) for name, r in runs.items()}
    table = judge(problem, timed, bound=bound)
    rows = []
    for name, layers in table.groupby("method", sort=False):
        row = {**_setting(problem), "method": name, "note": runs[str(name)].note}
        if name in taken:
            low, median, high = 1e3 * np.quantile(taken[str(name)], [0.25, 0.5, 0.75])
            row |= {
                "ms": median, "ms_low": low, "ms_high": high,
                "mean_imbalance": layers.imbalance.mean(), "worst_imbalance": layers.imbalance.max(),
                "mean_gap": layers.gap.mean(), "max_gap": layers.gap.max(),
                "proven": float((layers.status == "OPTIMAL").mean()),
            }  # fmt: skip
        rows.append(row)
    return rows


def exact_row(problem: PlacementProblem, solver: Callable[..., Solution], **options: Any) -> tuple[Row, Bound]:
    """What an exact method proves on one setting, which bounds close how many layers, at what cost.

    ``options`` (time limit a layer, gap, seed) go to the solver. Returns the bounds it proved, too.
    """
    start = time.perf_counter()
    solution = solver(problem, **options)
    elapsed = time.perf_counter() - start
    optimal = np.array([status == "OPTIMAL" for status in solution.status])
    closed = Counter(source for source, done in zip(solution.bound_source, optimal, strict=True) if done)
    open_layers = [
        (problem.load.layer_ids[i], float(solution.lower_bound[i]), float(solution.makespan[i]), float(solution.gap[i]))
        for i in np.flatnonzero(~optimal)
    ]
    row = {
        **_setting(problem), "layers": len(optimal), "proven": int(optimal.sum()),
        "mean_gap": float(np.mean(solution.gap)), "max_gap": float(np.max(solution.gap)),
        "mean_seconds": float(solution.runtime.mean()), "max_seconds": float(solution.runtime.max()),
        "seconds": elapsed, "closed": closed.most_common(), "open": open_layers,
    }  # fmt: skip
    return row, Bound(solution.lower_bound, solution.bound_source)


def scaling_rows(
    methods: Mapping[str, Method], shapes: Iterable[tuple[int, int, int]], longest: float = 20.0, seed: int = 0
) -> list[Row]:
    """Seconds for one generated layer of every shape (experts, GPUs, slots), smallest first.

    A method that could take more than ``longest`` seconds, were it quadratic from the last shape
    to this one, has NaN from there on. ``bounds`` is the best combinatorial lower bound.
    """
    calls: dict[str, Callable[[PlacementProblem], Any]] = {**methods, "bounds": bounds.lower_bound}
    rows: list[Row] = []
    feared = dict.fromkeys(calls, 0.0)
    for last, (experts, gpus, slots) in zip([None, *(shapes := list(shapes))], shapes, strict=False):
        load = generate("decode", num_layers=1, num_experts=experts, tokens=SCALING_TOKENS, seed=seed).total()
        problem = PlacementProblem(load, gpus, slots, allow_empty_slots=True)
        growth = 1.0 if last is None else max(experts / last[0], gpus / last[1])
        row: Row = {"experts": experts, "gpus": gpus, "slots": slots}
        for name, call in calls.items():
            row[name] = np.nan
            if feared[name] * growth**2 <= longest:
                seconds = _seconds(partial(call, problem))
                row[name] = feared[name] = seconds if seconds > 1 else _turn(partial(call, problem))
            else:
                feared[name] = np.inf
        rows.append(row)
    return rows


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Power of the size with which the time grew from the third-largest measured size to the largest."""
    measured = [(size, taken) for size, taken in zip(sizes, seconds, strict=True) if np.isfinite(taken)]
    if len(measured) < 3:
        return np.nan
    (size, taken), (largest, longest) = measured[-3], measured[-1]
    return float(np.log(longest / taken) / np.log(largest / size))


COLD_START = """
import json, time
times = {}
def step(name, call):
    start = time.perf_counter(); result = call(); times[name] = time.perf_counter() - start
    return result
def package(name):
    return lambda: __import__(name)
step("import moeopt", package("moeopt"))
import numpy as np
from moeopt import PlacementProblem, balancers, bounds, rebalance_experts
load = np.random.default_rng(0).integers(1, 10**6, (58, 256))
problem = PlacementProblem(load, num_gpus=32, num_slots=288)
step("first call of eplb", lambda: balancers.eplb(problem))
step("second call of eplb", lambda: balancers.eplb(problem))
for name in METHODS:
    step(f"then first call of {name}", lambda: balancers.BALANCERS[name](problem))
step("then first lower_bound", lambda: bounds.lower_bound(problem))
step("import torch", package("torch"))
step("then first rebalance_experts", lambda: rebalance_experts(load, 288, 1, 1, 32))
print(json.dumps(times))
"""

MEMORY = """
import json, re
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
from moeopt import PlacementProblem, balancers, bounds
from moeopt.traces import generate
load = generate("decode", num_layers=LAYERS, num_experts=EXPERTS).total()
problem = PlacementProblem(load, num_gpus=GPUS, num_slots=SLOTS, allow_empty_slots=True)
balancers.contiguous(problem)
before = peak()
call = bounds.lower_bound if NAME == "bounds" else balancers.BALANCERS[NAME]
call(PlacementProblem(load.values[:1, :8], num_gpus=2, num_slots=10, allow_empty_slots=True))
loaded = peak()
call(problem)
print(json.dumps([before, loaded, peak()]))
"""


def cold_start(methods: Sequence[str], rounds: int) -> list[Row]:
    """Milliseconds of imports and first calls in fresh processes, without and with compiled kernels on disk."""
    with tempfile.TemporaryDirectory() as cache:
        without = _child(COLD_START, {"NUMBA_CACHE_DIR": cache}, METHODS=list(methods))
        warm = [_child(COLD_START, {"NUMBA_CACHE_DIR": cache}, METHODS=list(methods)) for _ in range(rounds)]
    return [
        {"step": step, "warm_ms": 1e3 * float(np.median([times[step] for times in warm])), "cold_ms": 1e3 * first}
        for step, first in without.items()
    ]


def memory_rows(methods: Sequence[str], shapes: Iterable[tuple[int, int, int, int]]) -> list[Row]:
    """Peak resident bytes of a fresh process: with the problem, with the kernels, after the call.

    Shapes are (layers, experts, GPUs, slots). Empty where the kernel does not tell (not Linux).
    """
    if not Path("/proc/self/status").exists():
        return []
    rows = []
    for (layers, experts, gpus, slots), name in itertools.product(shapes, [*methods, "bounds"]):
        values = _child(MEMORY, {}, NAME=name, LAYERS=layers, EXPERTS=experts, GPUS=gpus, SLOTS=slots)
        shape = {"layers": layers, "experts": experts, "gpus": gpus, "slots": slots}
        rows.append({**shape, "method": name, **dict(zip(("problem", "kernels", "peak"), values, strict=True))})
    return rows


def _child(code: str, environment: Mapping[str, str], **constants: Any) -> Any:
    """Run code in a fresh interpreter from which this package can be imported; return the JSON it prints."""
    lines = [f"{name} = {value!r}" for name, value in constants.items()]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, code])],
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise MoeoptError(f"a measurement in a fresh process failed: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


def _setting(problem: PlacementProblem) -> Row:
    return {"trace": problem.load.source, "num_gpus": problem.num_gpus, "num_slots": problem.slots}
