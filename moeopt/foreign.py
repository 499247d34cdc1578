"""Balancers from elsewhere: functions with EPLB's signature become methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from moeopt import metrics
from moeopt._arguments import shown
from moeopt._arrays import exact_integers, to_numpy
from moeopt.compare import reference_placement
from moeopt.errors import InputError
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

EPLB_ORDER = ("weight", "num_replicas", "num_groups", "num_nodes", "num_gpus")
"""Arguments of ``deepseek-ai/EPLB`` in their order."""

_VALUES: dict[str, Callable[[PlacementProblem], Any]] = {
    "weight": lambda problem: _tensor(problem.load.values),
    "tokens_per_expert": lambda problem: _tensor(problem.load.values[None] if problem.steps is None else problem.steps),
    "num_replicas": lambda problem: problem.slots,
    "num_physical_experts": lambda problem: problem.slots,
    "num_physical": lambda problem: problem.slots,
    "num_local_physical_experts": lambda problem: problem.slots_per_gpu,
    "num_groups": lambda problem: problem.num_groups if problem.hierarchical else 1,
    "num_nodes": lambda problem: problem.num_nodes if problem.hierarchical else 1,
    "num_gpus": lambda problem: problem.num_gpus,
    "num_ranks": lambda problem: problem.num_gpus,
    "enable_hierarchical": lambda problem: problem.hierarchical,
    "old_global_expert_indices": lambda problem: (
        None if problem.reference is None else _tensor(problem.reference.phy2log, "int64")
    ),
    "old_p2l": lambda problem: None if problem.reference is None else _tensor(problem.reference.phy2log, "int64"),
    "active_ranks": lambda problem: _tensor(np.ones(problem.num_gpus), "int64"),
    "current_expert_table": lambda problem: _by_gpu(problem, reference_placement(problem).phy2log, "int64"),
    "expert_workload": lambda problem: _by_gpu(
        problem, metrics.slot_load(problem.load, reference_placement(problem)), "float64"
    ),
}
"""What the arguments of EPLB and of the policies of vLLM, SGLang, vllm-ascend and ATOM stand for, by name."""

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
        experts]``, ``num_physical_experts``, ``num_local_physical_experts``, ``enable_hierarchical``) and ATOM
        (``num_physical``, ``old_p2l``, which is the reference) are understood; five arguments without any known
        name are taken in EPLB's order. ``weight`` is a float32 tensor on the CPU. Without groups on nodes,
        ``num_groups`` and ``num_nodes`` are 1.

        Policies of vllm-ascend take ``current_expert_table [layers, gpus, slots per gpu]``, which is the
        reference or else the contiguous layout, and ``expert_workload`` of the same shape, what each of its
        slots serves, and return such a table as the last of several values.

    Raises
    ------
    InputError
        If the function needs an argument that no problem has an answer to. The method raises it for an answer
        that is no placement, or whose ``logcnt`` or ``log2phy`` contradict its ``phy2log``; names the layer.
    UnsupportedError
        By the method, for groups on nodes where the function takes none.

    Examples
    --------
    >>> from moeopt import rebalance_experts
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> from_rebalance_experts(rebalance_experts)(problem).phy2log.tolist()
    [[0, 3, 1, 2]]
    """
    positional, named = _arguments_of(function)
    groups_told = "num_groups" in (*positional, *named)

    @refuses(lambda problem: "takes no nodes and groups" if problem.hierarchical and not groups_told else "")
    @functools.wraps(function, updated=())
    def method(problem: PlacementProblem) -> Placement:
        answer = function(
            *(_VALUES[name](problem) for name in positional), **{name: _VALUES[name](problem) for name in named}
        )
        if "current_expert_table" in positional:
            answer = _in_a_row(answer)
        return _placement(problem, answer, getattr(function, "__name__", "the function"))

    return method


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built-in functions may have none to show
        return []


def required_arguments(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the arguments that a call cannot leave out."""
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in _parameters(function) if p.kind not in starred and p.default is p.empty]


def _arguments_of(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Names of what ``function`` is given by position, and by name."""
    if not callable(function):
        raise InputError(f"function must be callable, got {shown(function)}")
    needed = required_arguments(function)
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


def _by_gpu(problem: PlacementProblem, values: Any, dtype: str) -> Any:
    """Return ``[layers, slots]`` values as a tensor ``[layers, gpus, slots per gpu]``."""
    return _tensor(values, dtype).reshape(problem.num_layers, problem.num_gpus, -1)


def _in_a_row(answer: Any) -> Any:
    """Return ``[layers, slots]`` of what a policy of vllm-ascend answers: changed, priority of layers, table."""
    table = to_numpy("the new table", answer[-1] if isinstance(answer, tuple) else answer)
    return table.reshape(len(table), -1) if table.ndim == 3 else table


def _placement(problem: PlacementProblem, answer: Any, name: str) -> Placement:
    """Check what came back: shapes, and that the tables tell of one placement."""
    tables = tuple(answer) if _several(answer) else (answer,)
    slots = to_numpy("phy2log", tables[0])
    expected = (problem.num_layers, problem.slots)
    if slots.shape != expected:
        raise InputError(f"{name} returned phy2log of shape {list(slots.shape)}, not {list(expected)} [layers, slots]")
    placement = Placement(slots, problem.num_experts, problem.num_gpus)
    if _dimensions(tables[1:2]) == 3:
        log2phy = exact_integers("log2phy", to_numpy("log2phy", tables[1]))
        _agree(problem, "log2phy", (log2phy >= 0).sum(axis=2), placement.replica_count)
        _points_home(problem, log2phy, placement)
    if _dimensions(tables[2:3]) == 2:
        logcnt = exact_integers("logcnt", to_numpy("logcnt", tables[2]))
        _agree(problem, "logcnt", logcnt, placement.replica_count)
    return placement


def _dimensions(tables: tuple[Any, ...]) -> int:
    return getattr(tables[0], "ndim", 0) if tables else 0


def _several(answer: Any) -> bool:
    """Whether an answer is a sequence of tables, and not one table as a list."""
    return isinstance(answer, tuple) or (
        isinstance(answer, list) and all(getattr(table, "ndim", 0) > 1 for table in answer)
    )


def _agree(problem: PlacementProblem, name: str, found: Any, count: Any) -> None:
    if found.shape != count.shape:
        raise InputError(f"{name} is for {list(found.shape)} [layers, experts], not {list(count.shape)}")
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
