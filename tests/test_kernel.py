"""Compiled functions are compiled once, and work, uncached, where nothing can be written."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import moeopt
from moeopt._kernel import kernel

CALLER_WITH_NUMBERS = """
@kernel
def twice(number):
    return 2 * number

@kernel
def total(number):
    return twice(number) + twice(3) + twice(number=4)
"""


def test_numbers_written_in_a_caller_do_not_compile_a_kernel_once_more():
    """The functions have no file, so that none comes from a cache."""
    names = {"kernel": kernel}
    exec(CALLER_WITH_NUMBERS, names)
    assert names["total"](5) == 24
    assert len(names["twice"].compiled.signatures) == 1


TWO_RESULTS = """
@kernel
def shifted(values):
    return values + 1, values * 2.5
"""


@pytest.fixture
def interrupted():
    """Call something long, and raise KeyboardInterrupt after the seconds given, as Ctrl-C does."""

    def call(wait, work):
        signal.setitimer(signal.ITIMER_REAL, wait)
        work()

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield call
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_while_several_arrays_are_returned_is_a_keyboard_interrupt(interrupted):
    names = {"kernel": kernel}
    exec(TWO_RESULTS, names)
    values = np.ones(9)

    def endless():
        while True:
            names["shifted"](values)

    names["shifted"](values)
    for seed in range(300):
        with pytest.raises(KeyboardInterrupt):
            interrupted(random.Random(seed).uniform(1e-4, 2e-3), endless)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_while_kernels_are_compiled_is_not_lost(interrupted):
    """One new kernel after the other, some .1 s each, and far more of them than the interrupt leaves time for."""

    def long():
        for _ in range(20):
            names = {"kernel": kernel}
            exec(TWO_RESULTS, names)
            names["shifted"](np.ones(9))

    for seed in range(10):
        with pytest.raises(KeyboardInterrupt):
            interrupted(random.Random(seed).uniform(0.01, 0.2), long)


def test_where_neither_source_nor_home_can_be_written_they_work(tmp_path):
    """A file in the place of every ``__pycache__`` folder keeps even root from writing there."""
    tree = tmp_path / "moeopt"
    shutil.copytree(Path(moeopt.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [tree, *(path for path in tree.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    code = (
        "import moeopt, numpy; from moeopt.replication import replicate;"
        "print(moeopt.__file__); print(replicate(numpy.array([[9.0, 5, 4, 2]]), 6)[0].tolist())"
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), "/dev/null")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | nowhere
    run = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [str(tree / "__init__.py"), "[[0, 1, 2, 3, 0, 1]]"]
