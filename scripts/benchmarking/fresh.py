"""Cold start and memory: measured in fresh processes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarking.records import ColdRow, MemoryRow
from moeopt.errors import MoeoptError

ROOT = Path(__file__).resolve().parents[2]

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


def cold_start(methods: Sequence[str], rounds: int) -> list[ColdRow]:
    """Milliseconds of imports and first calls in fresh processes, without and with compiled kernels on disk."""
    with tempfile.TemporaryDirectory() as cache:
        without = _child(COLD_START, {"NUMBA_CACHE_DIR": cache}, METHODS=list(methods))
        warm = [_child(COLD_START, {"NUMBA_CACHE_DIR": cache}, METHODS=list(methods)) for _ in range(rounds)]
    return [
        ColdRow(step, warm_ms=1e3 * float(np.median([times[step] for times in warm])), cold_ms=1e3 * first)
        for step, first in without.items()
    ]


def memory_rows(methods: Sequence[str], shapes: Iterable[tuple[int, int, int, int]]) -> list[MemoryRow]:
    """Peak resident bytes of a fresh process: with the problem, with the kernels, after the call.

    Shapes are (layers, experts, GPUs, slots). Empty where the kernel does not tell (not Linux).
    """
    if not Path("/proc/self/status").exists():
        return []
    rows = []
    for (layers, experts, gpus, slots), name in itertools.product(shapes, [*methods, "bounds"]):
        peaks = _child(MEMORY, {}, NAME=name, LAYERS=layers, EXPERTS=experts, GPUS=gpus, SLOTS=slots)
        rows.append(MemoryRow(layers, experts, gpus, slots, name, *peaks))
    return rows


def _child(code: str, environment: Mapping[str, str], **constants: Any) -> Any:
    """Run code in a fresh interpreter from which this package can be imported; return the JSON it prints."""
    lines = [f"{name} = {value!r}" for name, value in constants.items()]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, code])],
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise MoeoptError(f"a measurement in a fresh process failed: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)
