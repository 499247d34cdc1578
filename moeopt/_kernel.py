"""The decorator of every compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first use, without the interpreter's lock; keep the result on disk where there is a place for it.

    numba caches beside the source, else below the user's home, and refuses to cache where neither
    can be written: the function is then compiled in every process.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
