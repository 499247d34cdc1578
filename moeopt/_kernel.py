"""The decorator of every compiled function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from numba import njit, types
from numba.core import event
from numba.extending import typeof_impl

from moeopt._stop import stoppable


class Kernel:
    """A compiled function, called from Python or from another one; Ctrl-C is a KeyboardInterrupt here too."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __call__(self, *arguments: Any) -> Any:
        """Call it; an interrupt while numba wraps results is an error of another kind where they are several arrays."""
        try:
            return self.compiled(*arguments)
        except SystemError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, KeyboardInterrupt):
                cause = cause.__cause__
            if cause is None:
                raise
            raise cause from None


@typeof_impl.register(Kernel)
def _type_of_kernel(kernel: Kernel, context: Any) -> Any:
    """What another kernel knows it as."""
    return types.Dispatcher(kernel.compiled)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first use, without the interpreter's lock; keep the result on disk where there is a place for it.

    numba caches beside the source, else below the user's home, and refuses to cache where neither
    can be written: the function is then compiled in every process. Ctrl-C is felt when what is being
    compiled is done.
    """
    compiled: Any
    try:
        compiled = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = njit(nogil=True)(function)
    template, plain, compile_for = compiled.get_call_template, cast(Any, types.unliteral), compiled.compile

    def without_literals(arguments: Any, keywords: Any) -> Any:
        """Type a call by another kernel: numba would compile once more for every literal number in it."""
        return template(tuple(map(plain, arguments)), {name: plain(value) for name, value in keywords.items()})

    def elsewhere(signature: Any) -> Any:
        """Compile outside the main thread, where LLVM's calls back to Python would swallow a KeyboardInterrupt."""
        if threading.current_thread() is threading.main_thread():
            return stoppable(lambda stop: compile_for(signature))
        return compile_for(signature)

    compiled.get_call_template = without_literals
    compiled.compile = elsewhere
    return Kernel(compiled)


@kernel
def copy_into(values, copy):  # type: ignore[no-untyped-def]
    """Do as ``copy[:size] = values``, for which numba would compile how to tell shapes in words, two seconds long."""
    for i in range(values.size):
        copy[i] = values[i]


@kernel
def copy_rows(rows, copy):  # type: ignore[no-untyped-def]
    """Do as ``copy[:len(rows)] = rows``, row by row."""
    for i in range(rows.shape[0]):
        copy_into(rows[i], copy[i])


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
