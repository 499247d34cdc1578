"""Policies: when to plan, on which steps, by which method, and how much a plan may move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from moeopt import _arguments, bounds
from moeopt.balancers.contiguous import contiguous
from moeopt.balancers.eplb import eplb
from moeopt.balancers.relabel import relabel
from moeopt.balancers.repair import repair
from moeopt.balancers.scenario_search import scenario_search
from moeopt.balancers.search import search
from moeopt.compare import Method
from moeopt.errors import InputError
from moeopt.picking import pick_methods
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import placement_of

FEW_MOVES = (1, 2, 8)
"""Moves per layer and plan of the standard policies that mend the placement in force, minding all steps."""

CLOSE_ENOUGH = 1e-3
"""Distance from the bound on the sum at which ``search`` stops here."""


@dataclass(frozen=True)
class Policy:
    """A way to run a model: which method plans, how often, on how many steps, with how many moves.

    Parameters
    ----------
    method
        Any callable ``problem -> Placement | Solution``. Its problem holds the latest steps
        (``problem.steps``, ``problem.load``), the placement in force (``problem.reference``) and
        ``problem.max_moves``.
    every
        Steps from one plan to the next; None plans once, at the end of the warm-up.
    window
        Steps that a plan sees, the latest; None = as many as the warm-up has.
    max_moves
        Moves per layer that a plan may take.
    trigger
        Put a plan into force, layer by layer, only where it would have saved more than this share of
        the layer's cost on the steps that it was planned on; None = always.
    name
        For tables; made from the rest by default.

    Raises
    ------
    InputError
        Names the argument, the rule it breaks and its value.

    Examples
    --------
    >>> from moeopt import balancers
    >>> Policy(balancers.eplb, every=16).name
    'eplb every 16'
    >>> Policy(balancers.scenario_search, every=16, max_moves=2).name
    'scenario_search every 16, 2 moves'
    """

    method: Method
    every: int | None = None
    window: int | None = None
    max_moves: int | None = None
    trigger: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.method):
            raise InputError(f"method must be callable, got {_arguments.shown(self.method)}")
        for name, minimum in (("every", 1), ("window", 1), ("max_moves", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _arguments.integer(name, value, minimum))
        if self.trigger is not None:
            object.__setattr__(self, "trigger", _arguments.fraction("trigger", self.trigger))
        if not self.name:
            object.__setattr__(self, "name", self._told())

    def _told(self) -> str:
        parts = [f"{_name_of(self.method)} {'once' if self.every is None else f'every {self.every}'}"]
        if self.window is not None:
            parts.append(f"window {self.window}")
        if self.max_moves is not None:
            parts.append(_moves(self.max_moves))
        if self.trigger is not None:
            parts.append(f"trigger {100 * self.trigger:g} %")
        return ", ".join(parts)


def keep(problem: PlacementProblem) -> Placement:
    """Return the placement in force, or the contiguous layout where there is none: the method of ``never``."""
    return contiguous(problem) if problem.reference is None else problem.reference


def near_optimum(problem: PlacementProblem) -> Placement:
    """Return ``search``'s placement, content with 0.1 % above the bound: other steps differ by far more than that."""
    if problem.max_moves is not None:
        return repair(problem)
    return search(problem, target=bounds.lower_bound(problem).value * (1 + CLOSE_ENOUGH))


near_optimum.__name__ = "search"


def relabelled(method: Method) -> Method:
    """Return ``method`` with the GPUs of its placement renamed so that the most copies stay put (``relabel``)."""

    def named(problem: PlacementProblem) -> Placement:
        return relabel(problem, start=placement_of(method(problem)))

    named.__name__ = f"relabelled {_name_of(method)}"
    return named


METHODS: dict[str, Method] = {
    "never": keep,
    "eplb": eplb,
    "search": near_optimum,
    "scenario_search": scenario_search,
    "repair": repair,
}
"""Methods that a policy may name in words."""

NEVER = Policy(keep, name="never")
"""Keep the placement in force, or the contiguous layout."""

ONCE = Policy(near_optimum, name="once")
"""Plan with ``search`` at the end of the warm-up, never again: what every other policy is held against."""


def standard_policies(every: Sequence[int], window: int | None = None) -> list[Policy]:
    """Return the policies that a replay compares: never, once, and planning again every so many steps.

    The latter by EPLB as engines run it, by EPLB, ``search`` and ``scenario_search`` relabelled, and by
    mending the placement in force: for the sum with two moves per layer, for the steps with one, two and eight.

    Parameters
    ----------
    every
        Steps between plans, one or several numbers.
    window
        As in :class:`Policy`.
    """
    policies = [NEVER, ONCE, Policy(scenario_search, name="once, on steps")]
    for steps in every:
        methods = (eplb, *(relabelled(method) for method in (eplb, near_optimum, scenario_search)))
        mended = (("repair", repair, 2), *(("scenario repair", scenario_search, moves) for moves in FEW_MOVES))
        policies += [Policy(method, steps, window, name=f"{_name_of(method)} every {steps}") for method in methods]
        policies += [
            Policy(method, steps, window, moves, name=f"{name} every {steps}, {_moves(moves)}")
            for name, method, moves in mended
        ]
    return policies


def parse_policy(text: str, methods: Mapping[str, Method]) -> Policy:
    """Read a policy in words, such as ``"eplb every=16 moves=2"`` or ``"relabelled mine.py:plan every=16"``.

    Raises
    ------
    InputError
        For a method or a word that is not known, and for a value out of range.
    """
    words = text.split()
    if not words:
        raise InputError("policy must name a method, such as 'eplb every=16', got nothing")
    relabels = words[0] == "relabelled" and len(words) > 1
    name, options = words[relabels], words[relabels + 1 :]
    try:
        (method,) = pick_methods([name], methods)[0].values()
    except InputError as error:
        raise InputError(f"policy {text!r}: {error}") from None
    given: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        read: Callable[[str], float] | None = {"every": int, "window": int, "moves": int, "trigger": float}.get(key)
        try:
            assert read is not None
            given["max_moves" if key == "moves" else key] = read(value)
        except (AssertionError, ValueError):
            raise InputError(
                f"policy {text!r}: {option!r} is none of every=STEPS, window=STEPS, moves=MOVES, trigger=SHARE"
            ) from None
    try:
        return Policy(relabelled(method) if relabels else method, **given)
    except InputError as error:
        raise InputError(f"policy {text!r}: {error}") from None


def _moves(number: int) -> str:
    return f"{number} move{'s' if number != 1 else ''}"


def _name_of(method: Any) -> str:
    while isinstance(method, partial):
        method = method.func
    return str(getattr(method, "__name__", type(method).__name__))
