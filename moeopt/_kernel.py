"""The decorator of every compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit, types


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first use, without the interpreter's lock; keep the result on disk where there is a place for it.

    numba caches beside the source, else below the user's home, and refuses to cache where neither
    can be written: the function is then compiled in every process.
    """
    compiled: Any
    try:
        compiled = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = njit(nogil=True)(function)
    template, plain = compiled.get_call_template, cast(Any, types.unliteral)

    def without_literals(arguments: Any, keywords: Any) -> Any:
        """Type a call by another kernel: numba would compile once more for every literal number in it."""
        return template(tuple(map(plain, arguments)), {name: plain(value) for name, value in keywords.items()})

    compiled.get_call_template = without_literals
    return compiled
