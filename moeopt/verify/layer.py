"""One layer in exact integers, and what is claimed about it: what the checks of ``moeopt.verify`` work on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class Rejected(Exception):
    """A claim does not hold; the message says why. Never leaves ``verify``."""


class Undecided(Exception):
    """A check grew beyond its limit, so that nothing is said either way. Never leaves ``verify``."""


@dataclass(frozen=True)
class ExactLayer:
    """The loads and rules of one layer.

    Parameters
    ----------
    loads
        ``[experts]`` loads in units of ``1 / scale`` tokens, so that all are whole numbers.
    scale
        Least common denominator of the loads; 1 for counts.
    num_gpus, slots_per_gpu
        GPUs and slots on each.
    num_nodes, num_groups
        Both 1 where the problem is not hierarchical.
    allow_colocated, allow_empty_slots
        The problem's switches.
    reference
        ``[gpus]`` copies of every expert in the placement that moves count from, as dicts; or None.
    max_moves, ceiling
        The problem's limits; None = none. With a ceiling the objective is moves.
    splits
        Whether an expert's tokens may go to any of its copies; else every copy has an equal share.
    steps
        ``[steps, experts]`` loads of the steps that ``loads`` adds up, where the objective is the sum over steps of the
        fullest GPU; else None.
    """

    loads: list[int]
    scale: int
    num_gpus: int
    slots_per_gpu: int
    num_nodes: int
    num_groups: int
    allow_colocated: bool
    allow_empty_slots: bool
    reference: list[dict[int, int]] | None
    max_moves: int | None
    ceiling: Fraction | None
    splits: bool
    steps: list[list[int]] | None = None

    @property
    def objective(self) -> str:
        """What the problem minimises: makespan, moves, or what steps cost."""
        if self.steps is not None:
            return "steps"
        return "makespan" if self.ceiling is None else "moves"

    @property
    def num_experts(self) -> int:
        """Experts of the layer."""
        return len(self.loads)

    @property
    def num_slots(self) -> int:
        """Slots on all GPUs."""
        return self.num_gpus * self.slots_per_gpu

    @property
    def num_redundant(self) -> int:
        """Slots beyond one per expert."""
        return self.num_slots - self.num_experts

    @property
    def most_copies(self) -> int:
        """The most copies of one expert: all others need a slot, on its node as many as elsewhere."""
        most = self.num_redundant // self.num_nodes + 1
        return most if self.allow_colocated else min(most, self.num_gpus // self.num_nodes)


@dataclass(frozen=True)
class Claim:
    """What is said about a layer and can be checked; None or "" where nothing is said.

    Parameters
    ----------
    slots
        Expert of every slot, -1 where it is empty.
    makespan, moves, objective
        Of that placement, in tokens and moves; may be rounded as floats are.
    bound, source, certificate
        The lower bound on the objective, at its exact value, what found it, and what proves it.
    status
        Name of a ``SolveStatus``.
    """

    slots: list[int] | None = None
    makespan: float | Fraction | None = None
    moves: float | Fraction | None = None
    objective: float | Fraction | None = None
    bound: float | Fraction | None = None
    source: str = ""
    certificate: Any = None
    status: str = ""


def whole_loads(loads: Iterable[float]) -> tuple[list[int], int]:
    """Return loads at their exact values in units that make all of them whole, and how many units a token has."""
    exact_loads = [Fraction(load) for load in loads]
    scale = math.lcm(*{load.denominator for load in exact_loads})
    return [load.numerator * (scale // load.denominator) for load in exact_loads], scale


def copies_by_gpu(slots: list[int], num_gpus: int) -> list[dict[int, int]]:
    """Copies of every expert on every GPU; empty slots (-1) are left out."""
    size = len(slots) // num_gpus
    gpus: list[dict[int, int]] = [{} for _ in range(num_gpus)]
    for slot, expert in enumerate(slots):
        if expert >= 0:
            held = gpus[slot // size]
            held[expert] = held.get(expert, 0) + 1
    return gpus


def integer(certificate: dict[str, Any], key: str) -> int:
    """Return an integer of a certificate, or reject the certificate."""
    value = certificate.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Rejected(f"the certificate's {key!r} is not an integer")
    return value


def number(certificate: dict[str, Any], key: str) -> Fraction:
    """Return a finite number of a certificate, at its exact value, or reject the certificate."""
    return exact(certificate.get(key), f"the certificate's {key!r}")


def exact(value: object, name: str) -> Fraction:
    """Return a finite number at its exact value, or reject it by ``name``."""
    known = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        raise Rejected(f"{name} is not a finite number")
    assert isinstance(value, int | float | Fraction)
    return Fraction(value)


def integers(certificate: dict[str, Any], key: str) -> list[int]:
    """Return a list of integers of a certificate, or reject the certificate."""
    values = certificate.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise Rejected(f"the certificate's {key!r} is not a list of integers")
    return values


def short(value: Fraction | float) -> str:
    """Return a number for a message."""
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a number beyond floats"
