"""What a method is: a callable ``problem -> Placement | Solution`` that can say beforehand what it does not take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from moeopt.errors import UnsupportedError

if TYPE_CHECKING:
    from moeopt.problem import PlacementProblem

Reason = Callable[["PlacementProblem"], str]
"""Says why a problem is not taken, as the rest of a sentence that the method's name begins; "" if it is."""

P = ParamSpec("P")
R = TypeVar("R")


def refuses(reason: Reason) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a method with ``reason``: it raises UnsupportedError where that is not empty.

    Examples
    --------
    >>> @refuses(lambda problem: "deals every expert once" if problem.num_redundant else "")
    ... def snake(problem): ...
    """

    def mark(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            problem: Any = args[0] if args else kwargs["problem"]
            why = refusal(checked, problem)
            if why:
                raise UnsupportedError(why)
            return method(*args, **kwargs)

        checked.reason = reason  # type: ignore[attr-defined]
        return checked

    return mark


def refusal(method: Callable[..., Any], problem: PlacementProblem) -> str:
    """Why ``method`` does not take ``problem``; empty if it does, or does not say beforehand."""
    while isinstance(method, functools.partial):
        method = method.func
    reason: Reason | None = getattr(method, "reason", None)
    why = "" if reason is None else reason(problem)
    return f"{method.__name__} {why}" if why else ""


def made_for(problem: PlacementProblem, slots_per_gpu: int) -> str:
    """Reason of a method for one number of slots per GPU that knows neither groups nor moves; "" if that fits."""
    if problem.slots_per_gpu != slots_per_gpu:
        return f"needs slots_per_gpu={slots_per_gpu}, got {problem.slots_per_gpu}"
    return without_rules(problem)


def without_rules(problem: PlacementProblem) -> str:
    """Reason of a method that knows neither groups nor moves; "" where there are none."""
    if problem.hierarchical:
        return f"knows no nodes and groups, got num_nodes={problem.num_nodes}"
    if problem.max_moves is not None or problem.objective == "moves":
        return "neither limits nor minimises moves: leave max_moves and max_makespan out"
    return ""


def even_split(problem: PlacementProblem) -> str:
    """Reason of a method that proves what holds for equal shares only; "" where there is no other split."""
    return "has every copy carry an equal share, and split='optimal'" if problem.splits else ""
