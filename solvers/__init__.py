"""Exact methods: every solver is a callable ``problem -> Solution``, one file each."""

from collections.abc import Callable
from functools import partial

from moeopt.solution import Solution
from solvers.brute_force import solve_brute_force
from solvers.configuration import configuration_bound, solve_configuration
from solvers.cpsat import solve_cpsat
from solvers.milp import solve_milp
from solvers.pairing import solve_pairing
from solvers.solve import solve
from solvers.steps import StepsSolution, solve_steps
from solvers.window_cover import solve_window_cover

SOLVERS: dict[str, Callable[..., Solution]] = {
    "solve": solve,
    "cpsat": solve_cpsat,
    "highs": partial(solve_milp, backend="highs"),
    "cbc": partial(solve_milp, backend="cbc"),
    "pairing": solve_pairing,
    "configuration": solve_configuration,
    "window_cover": solve_window_cover,
    "brute_force": solve_brute_force,
}
"""Exact methods by name; all take the same keyword arguments, see :func:`solve_cpsat`.

``solve_steps`` is not among them: it returns what is known about steps, not about their sum.
"""

__all__ = [
    "SOLVERS",
    "StepsSolution",
    "configuration_bound",
    "solve",
    "solve_brute_force",
    "solve_configuration",
    "solve_cpsat",
    "solve_milp",
    "solve_pairing",
    "solve_steps",
    "solve_window_cover",
]
