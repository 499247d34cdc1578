"""Ctrl-C ends exact methods soon, by KeyboardInterrupt, and leaves no process of a back end behind."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

CALLS = {
    "pairing": "solve(full(160, 320), tolerance=0)",
    "configuration": "solve(full(96, 288), tolerance=0)",
    "window_cover": "solve_window_cover(few, tolerance=0)",
    "cpsat": "solve_cpsat(small, tolerance=0)",
    "highs": "solve_milp(small, tolerance=0)",
    "cbc": "solve_milp(small, tolerance=0, backend='cbc')",
    "side by side": "solve(full(160, 320), tolerance=0, jobs=2)",
}
MARK = f"MOEOPT_INTERRUPTED_{os.getpid()}"
"""In the environment of the process under test and of all that it starts."""

PROGRAM = """
import signal
import sys
import numpy as np
from moeopt import PlacementProblem
from moeopt.traces import generate
from solvers import solve, solve_cpsat, solve_milp, solve_window_cover
def full(gpus, slots):
    return PlacementProblem(generate("decode", num_layers=4, seed=1), gpus, slots, allow_empty_slots=True)
small = PlacementProblem(generate("decode", num_layers=2, num_experts=64, seed=1), 8, 72, allow_empty_slots=True)
few = PlacementProblem(np.random.default_rng(0).lognormal(9, 0.2, (1, 96)).astype(int), 32)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background work ignore it
for line in sys.stdin:
    call = compile(line, "call", "eval")
    try:
        print("running", flush=True)
        while True:
            eval(call)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture(scope="module")
def process():
    """Does what it is told until it is interrupted, again and again; ends well, with nothing to say on stderr."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    marked = {**os.environ, MARK: "1"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes, text=True, env=marked) as started:
        yield started
        _, error = started.communicate(timeout=60)
    assert (started.returncode, error) == (0, "")


def interrupt(process, name, wait):
    """Ctrl-C in the middle of a call: it says so within a minute, else the process is killed and says nothing."""
    watch = threading.Timer(60, process.kill)
    watch.start()
    process.stdin.write(CALLS[name] + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "running\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    watch.cancel()
    assert not running_cbc()


def running_cbc():
    """Ids of the CBC processes that the process under test has started, whoever their parent is now."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            called, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"/cbc\0" in called and MARK.encode() in environment:
            found.add(folder.name)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_is_a_keyboard_interrupt_whatever_is_running(process, name):
    interrupt(process, name, random.Random(name).uniform(0.2, 1.2))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", CALLS)
def test_so_it_is_at_many_moments(process, name):
    for seed in range(4):
        interrupt(process, name, random.Random(seed).uniform(0.05, 4.0))
