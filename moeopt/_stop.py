"""Stopping compiled work: at a deadline, and when the user interrupts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Stop = NDArray[np.uint8]
"""``[1]`` flag that kernels poll with ``raised``: 0 = go on, 1 = return the best so far."""

T = TypeVar("T")


def never() -> Stop:
    """Return a flag that nobody raises."""
    return np.zeros(1, dtype=np.uint8)


def stoppable(work: Callable[[Stop], T], deadline: float = math.inf) -> T:
    """Call ``work(stop)`` in a thread of its own; see ``side_by_side``."""
    return side_by_side([work], deadline)[0]


def side_by_side(works: Sequence[Callable[[Stop], T]], deadline: float = math.inf) -> list[T]:
    """Call every ``work(stop)`` in a thread of its own and wait for all.

    The flag ``stop`` is theirs alone. It is raised at ``deadline`` (seconds of
    ``time.perf_counter``, inf = never) and as soon as an exception ends the waiting, such as
    KeyboardInterrupt in the main thread, which compiled code would not notice. The exception
    leaves only after all works have returned. About 0.1 ms: not for short kernels.
    """
    stop = never()
    with ThreadPoolExecutor(len(works)) as pool:
        try:
            running = [pool.submit(work, stop) for work in works]
            wait(running, None if math.isinf(deadline) else max(deadline - time.perf_counter(), 0.0))
            if time.perf_counter() >= deadline:
                stop[0] = 1
            return [future.result() for future in running]
        except BaseException:
            stop[0] = 1
            raise


def _raised(typing_context: Any, stop: Any) -> Any:
    """Whether the flag is raised; an atomic read, which the compiler may not move out of a loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flag = context.make_array(signature.args[0])(context, builder, arguments[0])
        value = builder.load_atomic(flag.data, "monotonic", 1)
        return builder.icmp_unsigned("!=", value, cgutils.int8_t(0))

    return types.boolean(stop), generate


raised: Any = intrinsic(_raised)
"""``raised(stop)`` inside compiled code: whether the flag is raised."""
