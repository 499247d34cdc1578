"""The decorator of every compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from numba import njit, types
from numba.core import event


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


@kernel
def copy_into(values, copy):  # type: ignore[no-untyped-def]
    """Do as ``copy[:size] = values``, for which numba would compile how to tell shapes in words, two seconds long."""
    for i in range(values.size):
        copy[i] = values[i]


class _Compilation(event.Listener):
    """Tells names of compiled functions of ours, the outermost of each time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.depth = 0

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        self.depth += 1
        if self.depth == 1:
            self.tell(f"{function.__module__}.{function.__qualname__}")

    def on_end(self, event: Any) -> None:
        self.depth -= 1


@contextmanager
def told_of_compilation(tell: Callable[[str], None]) -> Iterator[None]:
    """Call ``tell(name)`` when a function begins to be compiled, which takes seconds where no cache has it."""
    with event.install_listener("numba:compile", _Compilation(tell)):
        yield
