"""Ctrl-C at any moment ends what runs long with KeyboardInterrupt; compiled code has returned by then."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import numpy as np
from moeopt import PlacementProblem
from moeopt.balancers import contiguous, local_search, minimize_moves, scenario_search, search
from moeopt.balancers.pairing import pairing
from moeopt.traces import Trace

loads = np.random.default_rng(0).lognormal(6, 1, 20_000).round()

def problem(experts, gpus, slots, **rules):
    return PlacementProblem(loads[:experts], gpus, slots, **rules)

def searched(*shape, **rules):
    small, target = problem(*shape, **rules), 0.0
    return lambda: search(small, budget=BUDGET, target=target)

windows = np.random.default_rng(1).poisson(40, (64, 2, 256))

def stepped(**limits):
    return PlacementProblem(Trace(windows), 32, 288, **limits)

layers = PlacementProblem(loads[:16_000].reshape(64, 250), 25)
wide, many = problem(200, 100, 200), problem(80, 20, 160)
CALLS = {
    "search, two slots": searched(256, 144, 288),
    "search, two slots, large": searched(4000, 4000, 8000),
    "search, three slots": searched(256, 96, 288),
    "search, three slots, large": searched(9000, 3030, 9090),
    "search, nine slots": searched(256, 32, 288),
    "search, levelled": searched(10_000, 1000, 12_000),
    "search, nodes": searched(256, 32, 288, num_nodes=4, num_groups=8),
    "search, many layers": lambda: search(layers, budget=BUDGET, target=0.0),
    "scenario_search": lambda: scenario_search(stepped(), budget=BUDGET),
    "scenario_search, moves": lambda: scenario_search(
        stepped(reference=contiguous(stepped()), max_moves=40), budget=BUDGET
    ),
    "pairing": lambda: pairing(problem(256, 144, 288), steps=STEPS),
    "local_search": lambda: local_search(wide, start=contiguous(wide)),
    "minimize_moves": lambda: minimize_moves(many, tolerance=1e9),
}
BUDGET, STEPS, name, trials = 0.01, 10, NAME, TRIALS
CALLS[name]()
BUDGET, STEPS = 600.0, 10**9
wide, many = problem(20_000, 10_000, 20_000), problem(4_000, 1_000, 8_000)
for _ in range(trials):
    try:
        print("running", flush=True)
        while True:
            CALLS[name]()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""

CALLS = [
    *("search, two slots", "search, two slots, large", "search, three slots", "search, three slots, large"),
    *("search, nine slots", "search, levelled", "search, nodes", "search, many layers"),
    *("scenario_search", "scenario_search, moves", "pairing", "local_search", "minimize_moves"),
]


def interrupt(name, trials):
    """Interrupt one call again and again; every time it says so, and nothing crashes."""
    program = PROGRAM.replace("NAME", repr(name)).replace("TRIALS", str(trials))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    moments = random.Random(name)
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for _ in range(trials):
                assert process.stdout.readline() == "running\n"
                time.sleep(0.15 * moments.random() ** 2)  # more of them at the beginning, where a call does most things
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "interrupted\n"
            assert process.wait(60) == 0
        finally:
            process.kill()
            message = process.stderr.read()
    assert message == ""


@pytest.mark.parametrize("name", ["search, two slots", "search, nine slots", "scenario_search", "local_search"])
def test_a_call_ends_by_keyboard_interrupt_at_any_moment(name):
    interrupt(name, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_long_call_ends_by_keyboard_interrupt_at_a_hundred_moments(name):
    interrupt(name, 100)
