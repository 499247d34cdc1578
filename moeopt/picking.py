"""Methods by what a user calls them: a name in a table, or a function in a file."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from moeopt._arguments import shown
from moeopt._text import parser_reason, printable
from moeopt.errors import InputError, MoeoptError
from moeopt.foreign import from_rebalance_experts, required_arguments
from moeopt.problem import PlacementProblem


def pick_methods(
    names: Iterable[str], *known: Mapping[str, Callable[..., Any]], argument: str = "methods"
) -> list[dict[str, Callable[..., Any]]]:
    """Sort the methods that a user asked for by the tables they are in; what is read from files goes to the first.

    Parameters
    ----------
    names
        Names in one of the tables, or ``path/to/file.py:function``.
    known
        Tables of methods by name.
    argument
        What errors call the names.

    Raises
    ------
    InputError
        For a name that is unknown, or a file that cannot be used.
    """
    picked: list[dict[str, Callable[..., Any]]] = [{} for _ in known]
    for name in names:
        table = next((i for i, methods in enumerate(known) if name in methods), None)
        if table is not None:
            picked[table][name] = known[table][name]
        elif ".py" in name:
            method = method_from_file(name, argument)
            picked[0][_distinct(method.__name__, picked)] = method
        else:
            listed = ", ".join(name for methods in known for name in methods)
            raise InputError(f"{argument} {name!r} is unknown; there are {listed}, and path/to/file.py:function")
    return picked


def method_from_file(text: str, argument: str = "methods") -> Callable[[PlacementProblem], Any]:
    """Return the method that ``path/to/file.py:function`` names; it runs what the file says, as an import does.

    Parameters
    ----------
    text
        A file and a function in it, or ``Class.function`` for one that belongs to a class; where it needs an object,
        every call gets a new one. With one argument that it needs it is a method, ``problem -> Placement``; with
        more it is taken as ``from_rebalance_experts`` does. The file may import its neighbours relatively. The
        method is called ``file.function``, or ``file.py`` where the function has EPLB's own name.
    argument
        What errors call it.

    Raises
    ------
    InputError
        If there is no such file or function, or loading it fails; says why.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name:
        raise InputError(f"{argument} {shown(text)} must be path/to/file.py:function")
    found = _attribute(_loaded(Path(path), argument), text, name, argument)
    if inspect.isclass(found) or not callable(found):
        raise InputError(f"{argument} {printable(text)} is a {type(found).__name__}, not a function")
    try:
        method = found if len(required_arguments(found)) == 1 else from_rebalance_experts(found)
    except InputError as error:
        raise InputError(f"{argument} {printable(text)}: {error}") from None

    @functools.wraps(method, updated=())
    def renamed(problem: PlacementProblem) -> Any:
        try:
            return method(problem)
        except MoeoptError:
            raise
        except Exception as error:  # somebody else's mistake, which is no reason for a traceback of ours
            raise InputError(f"{renamed.__name__} failed: {type(error).__name__}: {parser_reason(error)}") from error

    last = name.rpartition(".")[2]
    renamed.__name__ = Path(path).name if last == "rebalance_experts" else f"{Path(path).stem}.{last}"
    if hasattr(method, "reason"):
        renamed.reason = method.reason  # type: ignore[attr-defined]
    return renamed


def _loaded(path: Path, argument: str) -> ModuleType:
    """Import a file under a name of its own, in a package of its folder so that relative imports work."""
    if not path.is_file():
        raise InputError(f"{argument} {printable(path)}: no such file")
    folder = path.resolve().parent
    package = f"moeopt_foreign_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a file of somebody else can fail in any way
        raise _failed(argument, path, error) from None
    return module


def _failed(argument: str, what: Any, error: BaseException) -> InputError:
    return InputError(f"{argument} {printable(what)}: {type(error).__name__}: {parser_reason(error)}")


def _attribute(module: ModuleType, text: str, name: str, argument: str) -> Any:
    """Return what ``name`` means in a module; a class's function that needs an object gets a new one in every call."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"{argument} {printable(text)}: no {printable(part, 60)} there{_candidates(found)}")
        owner, found = found, getattr(found, part)
        if inspect.isclass(owner) and inspect.isfunction(found) and not _static(owner, part):
            try:
                found = _on_new_object(owner, part)
            except Exception as error:  # as in _loaded
                raise _failed(argument, text, error) from None
    return found


def _on_new_object(owner: type, name: str) -> Callable[..., Any]:
    """Return a method that forgets: what an object remembers of one problem must not change its answer to the next."""

    @functools.wraps(getattr(owner(), name))
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(owner(), name)(*args, **kwargs)

    return call


def _static(owner: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(owner, name), staticmethod)


def _candidates(found: Any) -> str:
    """What else could have been meant."""
    functions = [name for name, value in vars(found).items() if inspect.isroutine(value) and not name.startswith("_")]
    return f"; there are {', '.join(functions[:8])}" if functions else ""


def _distinct(name: str, picked: Sequence[Mapping[str, Any]]) -> str:
    taken = {key for methods in picked for key in methods}
    number = 1
    while (name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return name if number == 1 else f"{name}-{number}"
