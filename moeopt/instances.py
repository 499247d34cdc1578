"""Named instances that anybody can make again, bit for bit: loads from SHA-256 and whole numbers alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from moeopt._arguments import shown
from moeopt.balancers.eplb import eplb
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem
from moeopt.traces.trace import Trace

MEDIAN = 4096
"""Tokens of an expert of middling popularity."""

_BITS = 60  # behind the point, in powers of two
_PER_DEVIATION = 81881  # 2**32 over the standard deviation of ``_normal`` times log(2): bits of an e-fold


@dataclass(frozen=True)
class Instance:
    """How one layer is made, and what is asked of it.

    Parameters
    ----------
    num_experts, num_gpus, num_slots
        Its shape.
    spread
        Standard deviation of the logarithm of the loads, in thousandths.
    sha256
        Of the loads (of every step, where there are steps) as little-endian 64-bit integers, followed by the slots of
        the reference where there is one: the first sixteen digits.
    seed
        Which loads.
    drift
        Standard deviation from window to window, in thousandths. Without steps, moves count from EPLB's placement on
        window 0, and the loads are those of window 1.
    rules
        Further arguments of ``PlacementProblem``.
    steps
        Windows that are steps: the objective is the sum over them of the fullest GPU. 0 = only the summed load counts.
    above
        Ceiling of the makespan above the mean load of the GPUs, in thousandths; the objective is then moves.
    """

    num_experts: int
    num_gpus: int
    num_slots: int
    spread: int
    sha256: str
    seed: int = 0
    drift: int = 0
    rules: Mapping[str, Any] = field(default_factory=dict)
    above: int | None = None
    steps: int = 0


_NODES = {"num_nodes": 4, "num_groups": 8}
_APART, _EMPTY, _SPLIT = {"allow_colocated": False}, {"allow_empty_slots": True}, {"split": "optimal"}

INSTANCES: dict[str, Instance] = {
    "partition-32-on-8": Instance(32, 8, 32, 600, "563772e4afcd6842"),
    "partition-60-on-20": Instance(60, 20, 60, 450, "51847e5872224a64"),
    "partition-96-on-24": Instance(96, 24, 96, 600, "0ff6f25c9bd49dad"),
    "partition-128-on-32": Instance(128, 32, 128, 500, "f95b4a20fca24b26"),
    "partition-256-on-64": Instance(256, 64, 256, 400, "bd40216259882ed9"),
    "partition-256-on-32": Instance(256, 32, 256, 700, "c2619f0459bfdd12"),
    "partition-384-on-128": Instance(384, 128, 384, 300, "6ab5ba50a53d4cfa"),
    "pairs-40-on-24": Instance(40, 24, 48, 800, "0b7e8d85c372e3f5"),
    "pairs-128-on-128": Instance(128, 128, 256, 1000, "a439ab5489ee490a"),
    "pairs-256-on-144": Instance(256, 144, 288, 700, "c2619f0459bfdd12"),
    "pairs-256-on-160": Instance(256, 160, 320, 700, "c2619f0459bfdd12"),
    "pairs-384-on-384": Instance(384, 384, 768, 1000, "32d043cdc1cf4d4d"),
    "triples-24-on-10": Instance(24, 10, 30, 1300, "87f3d52765ce9ed2"),
    "triples-128-on-64": Instance(128, 64, 192, 1000, "a439ab5489ee490a"),
    "triples-256-on-96": Instance(256, 96, 288, 700, "c2619f0459bfdd12"),
    "fours-256-on-72": Instance(256, 72, 288, 700, "c2619f0459bfdd12"),
    "fives-256-on-64": Instance(256, 64, 320, 700, "c2619f0459bfdd12"),
    "nines-256-on-32": Instance(256, 32, 288, 700, "c2619f0459bfdd12"),
    "groups-32-on-8": Instance(32, 8, 40, 600, "563772e4afcd6842", rules=_NODES),
    "groups-256-on-32": Instance(256, 32, 288, 700, "c2619f0459bfdd12", rules=_NODES),
    "groups-256-on-144": Instance(256, 144, 288, 500, "ccb5ab3dab5f7782", rules=_NODES),
    "apart-64-on-16": Instance(64, 16, 96, 1200, "8a6a054e02e63dae", rules=_APART),
    "apart-256-on-160": Instance(256, 160, 320, 900, "33154146814c09f7", rules=_APART),
    "empty-24-on-16": Instance(24, 16, 48, 1000, "90cd6344fa3bf2dd", rules=_EMPTY),
    "empty-256-on-144": Instance(256, 144, 288, 800, "5729b0cee43d550e", rules=_EMPTY),
    "within-8-moves-64-on-16": Instance(64, 16, 64, 400, "d26925ac7969661f", drift=200, rules={"max_moves": 8}),
    "within-32-moves-256-on-32": Instance(256, 32, 288, 700, "41388242723610e6", drift=200, rules={"max_moves": 32}),
    "fewest-moves-64-on-16": Instance(64, 16, 64, 400, "d26925ac7969661f", drift=200, above=50),
    "fewest-moves-256-on-32": Instance(256, 32, 288, 700, "41388242723610e6", drift=200, above=20),
    "split-32-on-8": Instance(32, 8, 40, 1000, "a5faab772b12c2d3", rules=_SPLIT),
    "split-256-on-32": Instance(256, 32, 288, 1000, "30e84f5ed3bb2ca9", rules=_SPLIT),
    "split-256-on-144": Instance(256, 144, 288, 700, "c2619f0459bfdd12", rules=_SPLIT),
    "steps-16-on-4": Instance(16, 4, 16, 600, "0c020233f4191995", drift=600, steps=8),
    "steps-64-on-8": Instance(64, 8, 72, 600, "18519c200512c424", drift=300, steps=16),
}
"""Instances by name: what is special, experts, GPUs."""


def instance(name: str) -> PlacementProblem:
    """Return a named instance, a problem of one layer.

    Parameters
    ----------
    name
        A name of ``INSTANCES``; ``docs/instances.md`` lists them with the best placement and bound known.

    Returns
    -------
    PlacementProblem
        The same on every machine and for every version of Python and numpy; ``load.source`` is the name.

    Raises
    ------
    InputError
        For an unknown name, and where loads or reference are not those that the name stands for.

    Examples
    --------
    >>> problem = instance("triples-24-on-10")
    >>> problem.num_experts, problem.num_gpus, problem.slots_per_gpu
    (24, 10, 3)
    """
    if name not in INSTANCES:
        raise InputError(f"instance {shown(name)} is unknown; there are {', '.join(INSTANCES)}")
    made = INSTANCES[name]
    problem = _problem(name, made)
    found = digest(problem)
    if found != made.sha256:
        raise InputError(f"instance {name}: its hash is {found}, not {made.sha256}; this is not the same instance")
    return problem


def digest(problem: PlacementProblem) -> str:
    """Hash of loads and reference; see :class:`Instance`."""
    tokens = problem.load.values if problem.steps is None else problem.steps
    hashed = hashlib.sha256(tokens.astype("<i8").tobytes())
    if problem.reference is not None:
        hashed.update(problem.reference.phy2log.astype("<i8").tobytes())
    return hashed.hexdigest()[:16]


@cache  # many instances share theirs
def loads(num_experts: int, spread: int, seed: int, drift: int = 0, window: int = 0) -> tuple[int, ...]:
    """``[experts]`` loads of one window; see :class:`Instance`.

    Expert e gets ``MEDIAN`` times the power of two whose exponent is (``spread`` times the normal number of the text
    "seed/e" plus ``drift`` times that of "seed/e/window") / 1000, in units of log(2).
    """
    found = []
    for expert in range(num_experts):
        deviation = spread * _normal(f"{seed}/{expert}") + drift * _normal(f"{seed}/{expert}/{window}")
        whole, part = divmod(deviation * _PER_DEVIATION // 1000, 1 << 32)
        power = MEDIAN * _power_of_two(part)
        found.append(power << whole >> _BITS if whole >= 0 else power >> (_BITS - whole))
    return tuple(found)


def _normal(text: str) -> int:
    """Sum of the sixteen 16-bit numbers of SHA-256, less its mean: nearly normal, with deviation 75,674."""
    words = hashlib.sha256(text.encode()).digest()
    return sum(words[::2]) * 256 + sum(words[1::2]) - 8 * 0xFFFF


def _power_of_two(part: int) -> int:
    """2 ** (part / 2**32) in units of 2**-60: a product of square roots of square roots of 2."""
    power, root = 1 << _BITS, 2 << _BITS
    for bit in range(31, -1, -1):
        root = math.isqrt(root << _BITS)
        if part >> bit & 1:
            power = power * root >> _BITS
    return power


def _problem(name: str, made: Instance) -> PlacementProblem:
    def of_window(window: int) -> LoadMatrix:
        values = loads(made.num_experts, made.spread, made.seed, made.drift, window)
        return LoadMatrix(np.array([values], dtype=np.int64), source=name)

    rules = dict(made.rules)
    if made.steps:
        windows = np.concatenate([of_window(step).values for step in range(made.steps)])
        return PlacementProblem(Trace(windows[:, None], source=name), made.num_gpus, made.num_slots, **rules)
    if not made.drift:
        return PlacementProblem(of_window(0), made.num_gpus, made.num_slots, **rules)
    now = of_window(1)
    if made.above is not None:
        rules["max_makespan"] = int(now.values.sum()) * (1000 + made.above) // (1000 * made.num_gpus)
    rules["reference"] = eplb(PlacementProblem(of_window(0), made.num_gpus, made.num_slots))
    return PlacementProblem(now, made.num_gpus, made.num_slots, **rules)
