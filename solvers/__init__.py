"""Exact methods: every solver is a callable ``problem -> Solution``, one file each."""

from collections.abc import Callable
from functools import partial

from moeopt.solution import Solution
from solvers.brute_force import solve_brute_force
from solvers.cpsat import solve_cpsat
from solvers.milp import solve_milp

SOLVERS: dict[str, Callable[..., Solution]] = {
    "cpsat": solve_cpsat,
    "highs": partial(solve_milp, backend="highs"),
    "cbc": partial(solve_milp, backend="cbc"),
    "brute_force": solve_brute_force,
}
"""Exact methods by name; all take the same keyword arguments, see :func:`solve_cpsat`."""

__all__ = ["SOLVERS", "solve_brute_force", "solve_cpsat", "solve_milp"]
