"""HiGHS without its banner, within a deadline, and with an ear for Ctrl-C."""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from types import ModuleType
from typing import Any

from moeopt._stop import cancellable

_LARGE = 50_000
"""Non-zeros of a linear program from which a run may take so long that Ctrl-C should be felt within it."""


@functools.cache
def load_highs() -> ModuleType:
    """Import highspy and swallow the banner; everything that uses highspy gets it from here."""
    import highspy

    sys.stdout.flush()
    stdout, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(sink)
    module: ModuleType = highspy
    return module


def run(model: Any, deadline: float = math.inf, *, long: bool = False) -> None:
    """Run a ``highspy.Highs`` until it is done or ``time.perf_counter`` reaches the deadline.

    Ctrl-C is felt within ``long`` runs and those of large models; others are over before it matters.
    """
    if math.isfinite(deadline):  # the solver's own limit counts all runs of the object
        model.setOptionValue("time_limit", model.getRunTime() + max(deadline - time.perf_counter(), 0.0))
    if not long and model.getNumNz() < _LARGE:
        model.run()
        return
    model.HandleUserInterrupt = True
    cancellable(model.run, model.cancelSolve)
