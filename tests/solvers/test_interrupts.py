"""Ctrl-C ends exact methods soon, by KeyboardInterrupt, and leaves no process of a back end behind."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CALLS = {
    "pairing": "solve(full(160, 320), gap=0)",
    "configuration": "solve(full(96, 288), gap=0)",
    "cpsat": "solve_cpsat(small, gap=0)",
    "highs": "solve_milp(small, gap=0)",
    "cbc": "solve_milp(small, gap=0, backend='cbc')",
    "side by side": "solve(full(160, 320), gap=0, jobs=2)",
}
PREAMBLE = """
from moeopt import PlacementProblem
from moeopt.traces import generate
from solvers import solve, solve_cpsat, solve_milp
def full(gpus, slots):
    return PlacementProblem(generate("decode", num_layers=4, seed=1), gpus, slots, allow_empty_slots=True)
small = PlacementProblem(generate("decode", num_layers=2, num_experts=64, seed=1), 8, 72, allow_empty_slots=True)
solve(full(160, 320)[:1], time_limit=0.2)
solve(full(96, 288)[:1], time_limit=0.2)
print("warm", flush=True)
try:
    while True:
        CALL
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def interrupted(name, wait):
    """Output, error and seconds from the signal to the end of a process in the middle of a call."""
    code = PREAMBLE.replace("CALL", CALLS[name])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "warm\n", process.stderr.read()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    begun = time.perf_counter()
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error, time.perf_counter() - begun


def running_cbc():
    """Ids of the CBC processes of this machine."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"/cbc\0" in (folder / "cmdline").read_bytes():
                found.add(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_is_a_keyboard_interrupt_whatever_is_running(name):
    before = running_cbc()
    code, output, error, _ = interrupted(name, random.Random(name).uniform(0.3, 2.0))
    assert (code, output) == (0, "interrupted\n"), error
    assert "Traceback" not in error
    assert running_cbc() <= before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", CALLS)
def test_so_it_is_at_many_moments(name):
    for seed in range(4):
        code, output, error, _ = interrupted(name, random.Random(seed).uniform(0.05, 4.0))
        assert (code, output) == (0, "interrupted\n"), error
