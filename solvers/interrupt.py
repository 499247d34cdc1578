"""Ctrl-C while a back end is in its own code, which Python's signal handler does not reach."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 0.05
"""Seconds between two cancellations: one that comes before the back end has begun is lost."""


def interruptible(call: Callable[[], T], cancel: Callable[[], object]) -> T:
    """Make a call that an exception in the waiting thread, such as KeyboardInterrupt, cancels.

    The call runs in a thread of its own; the exception leaves only after it has returned. Signals
    reach the main thread alone, so elsewhere the call is made at once. About 0.1 ms.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        try:
            return running.result()
        except BaseException:
            while not running.done():
                cancel()
                wait([running], _PATIENCE)
            raise
