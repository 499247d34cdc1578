"""How bounds round: never above the true value, up to the next integer where makespans are integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]


def integral(problem: PlacementProblem) -> bool:
    """Whether every makespan is an integer: counts as loads, and no expert split.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> [bounds.integral(PlacementProblem([[9, 5, 4, 2]], num_gpus=2, num_slots=slots)) for slots in (4, 6)]
    [True, False]
    """
    return problem.load.is_integer and problem.num_redundant == 0


def nothing(problem: PlacementProblem) -> Floats:
    """Return ``[layers]`` NaN: the bound does not apply."""
    return np.full(problem.num_layers, np.nan)


def total_load(values: NDArray[np.int64] | Floats) -> Floats:
    """Row sums: exact for counts (LoadMatrix keeps them below 2**53), rounded down otherwise."""
    total = values.sum(axis=1)
    return total.astype(float) if values.dtype.kind == "i" else total * (1 - values.shape[1] * 2.0**-53)


def quotient(total: Floats, divisor: int, problem: PlacementProblem) -> Floats:
    """``total / divisor``, rounded up where makespans are integers, else never above the true quotient."""
    if integral(problem):
        return np.ceil(total / divisor)
    exact = np.remainder(total, divisor) == 0
    return np.where(exact, total / divisor, np.nextafter(total / divisor, 0))


def down(value: Floats, terms: int, problem: PlacementProblem) -> Floats:
    """Take the rounding of a sum of ``terms`` floats off, where the loads are not counts."""
    return value if integral(problem) else value * (1 - (terms + 2) * 2.0**-53)
