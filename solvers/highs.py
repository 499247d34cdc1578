"""HiGHS without its banner: the first Highs object of a process prints one, whatever its options."""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType


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
