"""Balancers from elsewhere: functions with EPLB's signature, and functions named by their file."""

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

import numpy as np

from moeopt._arguments import shown
from moeopt._arrays import exact_integers, to_numpy
from moeopt._text import parser_reason, printable
from moeopt.errors import InputError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

EPLB_ORDER = ("weight", "num_replicas", "num_groups", "num_nodes", "num_gpus")
"""Arguments of ``deepseek-ai/EPLB`` in their order."""

_VALUES: dict[str, Callable[[PlacementProblem], Any]] = {
    "weight": lambda problem: _tensor(problem.load.values),
    "tokens_per_expert": lambda problem: _tensor(problem.load.values[None] if problem.steps is None else problem.steps),
    "num_replicas": lambda problem: problem.slots,
    "num_physical_experts": lambda problem: problem.slots,
    "num_local_physical_experts": lambda problem: problem.slots_per_gpu,
    "num_groups": lambda problem: problem.num_groups if problem.hierarchical else 1,
    "num_nodes": lambda problem: problem.num_nodes if problem.hierarchical else 1,
    "num_gpus": lambda problem: problem.num_gpus,
    "num_ranks": lambda problem: problem.num_gpus,
    "enable_hierarchical": lambda problem: problem.hierarchical,
    "old_global_expert_indices": lambda problem: (
        None if problem.reference is None else _tensor(problem.reference.phy2log, "int64")
    ),
    "active_ranks": lambda problem: _tensor(np.ones(problem.num_gpus), "int64"),
}
"""What the arguments of EPLB, vLLM's policies and SGLang's algorithms stand for, by name."""

_SAME = {"num_ranks": "num_gpus", "num_physical_experts": "num_replicas", "tokens_per_expert": "weight"}
"""Second names: a function that has both is given the first."""


def from_rebalance_experts(function: Callable[..., Any]) -> Callable[[PlacementProblem], Placement]:
    """Make a method of a function with EPLB's signature, so that it can be compared with all others.

    Parameters
    ----------
    function
        Takes ``weight, num_replicas, num_groups, num_nodes, num_gpus`` by position or name, and returns ``phy2log
        [layers, slots]`` alone or as the first of ``phy2log, log2phy, logcnt``. Names of vLLM (``num_ranks``,
        ``old_global_expert_indices``, which is the reference) and SGLang (``tokens_per_expert [steps, layers,
        experts]``, ``num_physical_experts``, ``num_local_physical_experts``, ``enable_hierarchical``) are
        understood; five arguments without any known name are taken in EPLB's order. ``weight`` is a
        float32 tensor on the CPU. Without groups on nodes, ``num_groups`` and ``num_nodes`` are 1.

    Raises
    ------
    InputError
        If the function needs an argument that no problem has an answer to. The method raises it for an answer
        that is no placement, or whose ``logcnt`` or ``log2phy`` contradict its ``phy2log``; names the layer.

    Examples
    --------
    >>> from moeopt import rebalance_experts
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> from_rebalance_experts(rebalance_experts)(problem).phy2log.tolist()
    [[0, 3, 1, 2]]
    """
    positional, named = _arguments_of(function)

    @functools.wraps(function, updated=())
    def method(problem: PlacementProblem) -> Placement:
        answer = function(
            *(_VALUES[name](problem) for name in positional), **{name: _VALUES[name](problem) for name in named}
        )
        return _placement(problem, answer)

    return method


def pick_methods(names: Iterable[str], *known: Mapping[str, Callable[..., Any]]) -> list[dict[str, Callable[..., Any]]]:
    """Sort the methods that a user asked for by the tables they are in; what is read from files goes to the first.

    Parameters
    ----------
    names
        Names in one of the tables, or ``path/to/file.py:function``.
    known
        Tables of methods by name.

    Raises
    ------
    InputError
        Names ``methods`` that are unknown, or a file that cannot be used.
    """
    picked: list[dict[str, Callable[..., Any]]] = [{} for _ in known]
    for name in names:
        table = next((i for i, methods in enumerate(known) if name in methods), None)
        if table is not None:
            picked[table][name] = known[table][name]
        elif ".py" in name:
            method = method_from_file(name)
            picked[0][_distinct(method.__name__, picked)] = method
        else:
            listed = ", ".join(name for methods in known for name in methods)
            raise InputError(f"methods {name!r} is unknown; there are {listed}, and path/to/file.py:function")
    return picked


def method_from_file(text: str) -> Callable[[PlacementProblem], Any]:
    """Return the method that ``path/to/file.py:function`` names; it runs what the file says, as an import does.

    Parameters
    ----------
    text
        A file and a function in it, or ``Class.function`` for one that belongs to a class. With one argument that it
        needs it is a method, ``problem -> Placement``; with more it is taken as ``from_rebalance_experts`` does.
        The file may import its neighbours relatively. The method is called ``file.function``, or ``file.py`` where
        the function has EPLB's own name.

    Raises
    ------
    InputError
        If there is no such file or function, or loading it fails; says why.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name:
        raise InputError(f"methods {shown(text)} must be path/to/file.py:function")
    found = _attribute(_loaded(Path(path)), text, name)
    if inspect.isclass(found) or not callable(found):
        raise InputError(f"methods {printable(text)} is a {type(found).__name__}, not a function")
    try:
        method = found if len(_required(found)) == 1 else from_rebalance_experts(found)
    except InputError as error:
        raise InputError(f"methods {printable(text)}: {error}") from None

    @functools.wraps(method, updated=())
    def renamed(problem: PlacementProblem) -> Any:
        return method(problem)

    last = name.rpartition(".")[2]
    renamed.__name__ = Path(path).name if last == "rebalance_experts" else f"{Path(path).stem}.{last}"
    if hasattr(found, "reason"):
        renamed.reason = found.reason  # type: ignore[attr-defined]
    return renamed


def _loaded(path: Path) -> ModuleType:
    """Import a file under a name of its own, in a package of its folder so that relative imports work."""
    if not path.is_file():
        raise InputError(f"methods {printable(path)}: no such file")
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
        raise InputError(f"methods {printable(path)}: {type(error).__name__}: {parser_reason(error)}") from None  # type: ignore[arg-type]
    return module


def _attribute(module: ModuleType, text: str, name: str) -> Any:
    """Return what ``name`` means in a module; a class's function that needs an object gets a new one."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"methods {printable(text)}: no {printable(part, 60)} there{_candidates(found)}")
        owner, found = found, getattr(found, part)
        if inspect.isclass(owner) and inspect.isfunction(found) and not _static(owner, part):
            try:
                found = getattr(owner(), part)
            except Exception as error:  # as in _loaded
                raise InputError(f"methods {printable(text)}: {type(error).__name__}: {parser_reason(error)}") from None
    return found


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


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built-in functions may have none to show
        return []


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in _parameters(function) if p.kind not in starred and p.default is p.empty]


def _arguments_of(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Names of what ``function`` is given by position, and by name."""
    if not callable(function):
        raise InputError(f"function must be callable, got {shown(function)}")
    needed = _required(function)
    if not any(p.name in _VALUES for p in needed[1:]):  # arguments of any names, or *args
        wrong = [p.name for p in needed[len(EPLB_ORDER) :]]
        if wrong or any(p.kind is p.KEYWORD_ONLY for p in needed):
            raise InputError(f"function needs {', '.join(p.name for p in needed)}; EPLB's are {', '.join(EPLB_ORDER)}")
        if _parameters(function) and 1 < len(needed) < len(EPLB_ORDER):
            raise InputError(f"function takes {len(needed)} arguments; EPLB's are {', '.join(EPLB_ORDER)}")
        return list(EPLB_ORDER), []
    positional, named, known = [], [], set()
    for place, parameter in enumerate(_parameters(function)):
        name = "weight" if place == 0 and parameter.name not in _VALUES else parameter.name
        if name not in _VALUES:
            if parameter in needed:
                raise InputError(f"function needs {parameter.name}, which a problem has no answer to")
            continue
        if parameter not in needed and (parameter.default is not None or _SAME.get(name) in known):
            continue  # chosen by whoever wrote or bound it, or told already
        known.add(name)
        if parameter.kind is parameter.KEYWORD_ONLY or parameter not in needed:
            named.append(parameter.name)
        else:
            positional.append(name)
    return positional, named


def _tensor(values: Any, dtype: str = "float32") -> Any:
    import torch  # heavy, and only these functions need it

    return torch.tensor(np.asarray(values)).to(getattr(torch, dtype))


def _placement(problem: PlacementProblem, answer: Any) -> Placement:
    """Check what came back: shapes, and that the tables tell of one placement."""
    tables = tuple(answer) if _several(answer) else (answer,)
    slots = to_numpy("phy2log", tables[0])
    expected = (problem.num_layers, problem.slots)
    if slots.shape != expected:
        raise InputError(f"returned phy2log of shape {list(slots.shape)}, not {list(expected)} [layers, slots]")
    placement = Placement(slots, problem.num_experts, problem.num_gpus)
    for table in tables[1:3]:
        found = exact_integers("table", to_numpy("table", table))
        if found.shape == placement.replica_count.shape and found.ndim == 2:
            _agree(problem, "logcnt", found, placement.replica_count)
        elif found.ndim == 3 and found.shape[:2] == placement.replica_count.shape:
            _agree(problem, "log2phy", (found >= 0).sum(axis=2), placement.replica_count)
            _points_home(problem, found, placement)
    return placement


def _several(answer: Any) -> bool:
    """Whether an answer is a sequence of tables, and not one table as a list."""
    return isinstance(answer, tuple) or (
        isinstance(answer, list) and all(getattr(table, "ndim", 0) > 1 for table in answer)
    )


def _agree(problem: PlacementProblem, name: str, found: Any, count: Any) -> None:
    wrong = np.argwhere(found != count)
    if wrong.size:
        layer, expert = wrong[0].tolist()
        raise InputError(
            f"layer {problem.load.layer_ids[layer]}: {name} has {found[layer, expert]} copies of expert {expert}, "
            f"phy2log has {count[layer, expert]}"
        )


def _points_home(problem: PlacementProblem, log2phy: Any, placement: Placement) -> None:
    """Raise InputError where a slot that ``log2phy`` lists holds another expert."""
    layer, expert, rank = np.nonzero(log2phy >= 0)
    slot = log2phy[layer, expert, rank]
    inside = slot < placement.num_slots
    wrong = np.flatnonzero(~inside | (placement.phy2log[layer, np.where(inside, slot, 0)] != expert))
    if wrong.size:
        first = wrong[0]
        raise InputError(
            f"layer {problem.load.layer_ids[layer[first]]}: log2phy says that slot {slot[first]} holds expert "
            f"{expert[first]}, phy2log does not"
        )
