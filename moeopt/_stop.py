"""Stopping compiled work: at a deadline, and when the user interrupts."""

from __future__ import annotations

import _thread
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Flag = NDArray[np.uint8]
"""``[1]`` flag that kernels poll with ``raised``: 0 = go on, 1 = return the best so far."""

T = TypeVar("T")

_LOOK = 0.1
"""Seconds after which a waiting thread looks for an interrupt that came just before it fell asleep."""


_PARALLEL_SLOTS = 4096
"""Slots in all rows together from which a second thread pays for itself."""


def never() -> Flag:
    """Return a flag that nobody raises."""
    return np.zeros(1, dtype=np.uint8)


def stoppable(work: Callable[[Flag], T], deadline: float = math.inf) -> T:
    """Call ``work(stop)`` in a thread of its own; see ``side_by_side``."""
    return side_by_side([work], deadline)[0]


def side_by_side(works: Sequence[Callable[[Flag], T]], deadline: float = math.inf) -> list[T]:
    """Call every ``work(stop)`` in a thread of its own and wait for all.

    The flag ``stop`` is theirs alone. It is raised at ``deadline`` (seconds of
    ``time.perf_counter``, inf = never) and as soon as an exception ends the waiting: one of a work, or
    KeyboardInterrupt in the main thread, which compiled code would not notice. The exception
    leaves only after all works have returned. About 0.1 ms: not for short kernels.
    """
    stop = never()
    return _in_threads([partial(work, stop) for work in works], partial(stop.__setitem__, 0, 1), deadline)


def in_shares(work: Callable[[slice, Flag], None], rows: int, size: int, deadline: float = math.inf) -> None:
    """Call ``work(part, stop)`` with slices that cover ``rows``, in two threads where ``size`` slots make that pay."""
    threads = 2 if size >= _PARALLEL_SLOTS and rows > 1 else 1
    side_by_side([partial(work, slice(first, None, threads)) for first in range(threads)], deadline)


def cancellable(call: Callable[[], T], cancel: Callable[[], object]) -> T:
    """Make a call that an exception in the waiting thread, such as KeyboardInterrupt, cancels.

    For back ends that are stopped by a call of theirs. ``cancel`` is repeated until the call
    returns, since one that comes before the back end has begun is lost.
    """
    return _in_threads([call], cancel, math.inf)[0]


def _in_threads(calls: Sequence[Callable[[], T]], cancel: Callable[[], object], deadline: float) -> list[T]:
    number = len(calls)
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    begun: list[int] = []
    ended: list[int] = []
    left: list[bool] = []
    latches = [_thread.allocate_lock() for _ in calls]

    def run(i: int) -> None:
        begun.append(i)
        try:
            if not left:
                results[i] = calls[i]()
        except BaseException as error:
            errors.append(error)
            cancel()
        ended.append(i)
        latches[i].release()

    try:
        # The lowest level on purpose: an interrupt may come between any two steps of what is written in Python, and
        # starting a Thread or waiting for an Event has many.
        for latch in latches:
            latch.acquire()
        for i in range(number):
            _thread.start_new_thread(run, (i,))
        for latch in latches:
            while not latch.acquire(timeout=min(max(deadline - time.perf_counter(), 0.0), _LOOK)):
                if time.perf_counter() >= deadline:
                    cancel()
                    deadline = math.inf
    except BaseException:
        left.append(True)  # a thread that begins after this line sees it, and one that began before is waited for
        cancel()
        while len(ended) < len(begun):
            cancel()
            time.sleep(0.001)
        raise
    if errors:
        raise errors[0]
    return [results[i] for i in range(number)]


def _raised(typing_context: Any, stop: Any) -> Any:
    """Whether the flag is raised; an atomic read, which the compiler may not move out of a loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flag = context.make_array(signature.args[0])(context, builder, arguments[0])
        value = builder.load_atomic(flag.data, "monotonic", 1)
        return builder.icmp_unsigned("!=", value, cgutils.int8_t(0))

    return types.boolean(stop), generate


raised: Any = intrinsic(_raised)
"""``raised(stop)`` inside compiled code: whether the flag is raised."""
