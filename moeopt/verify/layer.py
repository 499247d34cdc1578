"""One layer in exact integers, read from a problem as plain data: what the checks of ``moeopt.verify`` work on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from moeopt.problem import PlacementProblem


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

    @property
    def objective(self) -> str:
        """What the problem minimises: makespan or moves."""
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


def exact_layer(problem: PlacementProblem, layer: int) -> ExactLayer:
    """Read one layer of ``problem``; integers and floats are taken at their exact values."""
    loads = [Fraction(value) for value in problem.load.values[layer].tolist()]
    scale = math.lcm(*{load.denominator for load in loads})
    hierarchical = problem.num_nodes > 1 and problem.num_groups > 1
    reference = None
    if problem.reference is not None:
        reference = copies_by_gpu(problem.reference.phy2log[layer].tolist(), problem.num_gpus)
    assert problem.num_slots is not None
    return ExactLayer(
        loads=[load.numerator * (scale // load.denominator) for load in loads],
        scale=scale,
        num_gpus=problem.num_gpus,
        slots_per_gpu=problem.num_slots // problem.num_gpus,
        num_nodes=problem.num_nodes if hierarchical else 1,
        num_groups=problem.num_groups if hierarchical else 1,
        allow_colocated=problem.allow_colocated,
        allow_empty_slots=problem.allow_empty_slots,
        reference=reference,
        max_moves=problem.max_moves,
        ceiling=None if problem.max_makespan is None else Fraction(problem.highest_makespan.tolist()[layer]),
        splits=problem.split == "optimal" and problem.num_slots > len(loads),
    )


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
    """Return a finite integer or float at its exact value, or reject it by ``name``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
        raise Rejected(f"{name} is not a finite number")
    assert isinstance(value, int | float)
    return Fraction(value)


def integers(certificate: dict[str, Any], key: str) -> list[int]:
    """Return a list of integers of a certificate, or reject the certificate."""
    values = certificate.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise Rejected(f"the certificate's {key!r} is not a list of integers")
    return values


def short(value: Fraction | int) -> str:
    """Return a number for a message."""
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a number beyond floats"
