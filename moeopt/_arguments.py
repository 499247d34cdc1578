"""One check per kind of argument: each raises InputError with the argument's name, the rule and the value."""

from __future__ import annotations

import math
import numbers
from typing import Any

from moeopt.errors import InputError

MOST_SEEDS = 2**31
"""Seeds are below this: CP-SAT and HiGHS take 32 bits."""


def integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return an integer (numpy's too, no booleans) between ``minimum`` and ``maximum``."""
    if isinstance(value, bool) or getattr(value, "shape", ()) != () or not hasattr(value, "__index__"):
        raise InputError(f"{name} must be an integer, got {shown(value)}")
    number = int(value)
    if number < minimum:
        raise InputError(f"{name} must be >= {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise InputError(f"{name} must be <= {maximum}, got {number}")
    return number


def seed(value: Any) -> int:
    """Return a seed: an integer from 0 to 2**31 - 1."""
    return integer("seed", value, 0, MOST_SEEDS - 1)


def seconds(name: str, value: Any, *, zero: bool = False) -> float | None:
    """Return a finite number of seconds > 0 (``>= 0`` where ``zero``), or None, which means no limit."""
    if value is None:
        return None
    number = real(name, value)
    if number < 0 or (number == 0 and not zero):
        raise InputError(f"{name} must be seconds {'>=' if zero else '>'} 0, or None for no limit, got {shown(value)}")
    return number


def nodes_and_groups(nodes: int | None, groups: int | None) -> tuple[int, int]:
    """Return numbers of nodes and groups, 1 and 1 where neither is given; one alone is refused."""
    if (nodes is None) != (groups is None):
        raise InputError("nodes and groups belong together: groups of experts that live wholly on one node")
    return (1, 1) if nodes is None or groups is None else (nodes, groups)


def fraction(name: str, value: Any) -> float:
    """Return a finite number >= 0, such as a relative tolerance."""
    number = real(name, value)
    if number < 0:
        raise InputError(f"{name} must be >= 0, got {shown(value)}")
    return number


def real(name: str, value: Any) -> float:
    """Return a finite real number (numpy's too, no booleans)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {shown(value)}")
    return float(value)


def shown(value: Any) -> str:
    """Return a value for a message: its repr on one line, not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # integers of thousands of digits, foreign types
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
