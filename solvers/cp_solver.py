"""CP-SAT as it is run here: within a layer's limits, stopped by Ctrl-C, and ended when the layer is closed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ortools.sat.python import cp_model

from moeopt._stop import cancellable
from moeopt.placement import Placement
from moeopt.solution import Solution
from solvers.drive import Limits

if TYPE_CHECKING:
    from solvers.cpsat import CpModel


def solver_within(limits: Limits) -> cp_model.CpSolver:
    """Return CP-SAT, set to the limits of a layer."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = limits.workers
    parameters.random_seed = limits.seed
    parameters.relative_gap_limit = limits.tolerance / (1 + limits.tolerance)
    parameters.catch_sigint_signal = False
    if math.isfinite(limits.left):
        parameters.max_time_in_seconds = limits.left
    return solver


def solved(
    solver: cp_model.CpSolver, model: cp_model.CpModel, callback: cp_model.CpSolverSolutionCallback | None = None
) -> Any:
    """Solve ``model`` and return CP-SAT's status; Ctrl-C ends the search."""
    return cancellable(lambda: solver.solve(model, callback), solver.stop_search)


class Closed(cp_model.CpSolverSolutionCallback):
    """Ends the search where the best split of the hosts found meets the bound known, whatever flows it has yet."""

    def __init__(self, model: CpModel, known: Solution) -> None:
        super().__init__()
        self.model, self.known, self.reached = model, known, False

    def on_solution_callback(self) -> None:
        """Score the hosts exactly: of their flows the last units can take for ever."""
        problem = self.model.problem
        placement = Placement(self.model.phy2log(self), problem.num_experts, problem.num_gpus)
        self.reached = bool(Solution(problem, placement, self.known.bound, tolerance=self.known.tolerance).is_optimal)
        if self.reached:
            self.stop_search()
