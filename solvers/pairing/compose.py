"""Counts composed of cells: a linear program chooses them, a part at a time, until they cover all experts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.highs import load_highs, run
from solvers.pairing.cells import Cells, Floats, Integers, cells_at

_SURE = 0.7
"""Share of the linear program from which cells are taken together with the most favoured one."""

_PART = 0.3
"""Part of the experts that is left when new cells are listed: they may be less tight where fewer experts remain."""

_EXACT = 26
"""Experts left for which the choice is made exactly."""

_NODES = 50
"""Nodes of that search."""

_TINY = 1e-6


def compose(
    load: Floats, threshold: float, num_gpus: int, plenty: float = 1.0, deadline: float = math.inf
) -> Integers | None:
    """Counts ``[experts]`` whose copies fit on the GPUs within ``threshold``, or None where none are met.

    Every placement falls into parts that share no expert, and where there are about as many copies as experts good
    ones fall into small parts, *cells*. Those with little room to spare are listed, and their choice is a set
    partition: every expert in one cell, on ``num_gpus`` GPUs in all. A dive takes what its linear program favours;
    each time a third of the experts is left, their cells are listed again, with more room.
    """
    counts, free = np.zeros(len(load), dtype=np.int64), np.arange(len(load))
    while len(free):
        spare = num_gpus * threshold - load[free].sum()
        if spare < 0:
            return None
        cells = cells_at(load[free], threshold, spare, plenty)
        choice = _Choice(cells, len(free))
        taken = choice.exactly(num_gpus, deadline) if len(free) <= _EXACT else choice.dive(num_gpus, deadline)
        if not taken.any():
            return None
        inside = cells.expert[taken] >= 0
        counts[free[cells.expert[taken][inside]]] = cells.count[taken][inside]
        num_gpus -= int(cells.gpus[taken].sum())
        free = np.flatnonzero(counts == 0)
    return counts


class _Choice:
    """Fewest GPUs of cells that cover all experts, as a linear program."""

    def __init__(self, cells: Cells, num_experts: int) -> None:
        self.cells, self.num_experts = cells, num_experts
        self.size = len(cells.gpus)
        highspy = load_highs()
        model = highspy.HighsLp()
        model.num_row_, model.num_col_ = num_experts, self.size
        model.col_cost_ = cells.gpus.astype(float)
        model.col_lower_, model.col_upper_ = np.zeros(self.size), np.full(self.size, highspy.kHighsInf)
        model.row_lower_, model.row_upper_ = np.ones(num_experts), np.full(num_experts, highspy.kHighsInf)
        inside = cells.expert >= 0
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        model.a_matrix_.index_ = cells.expert[inside]
        model.a_matrix_.value_ = np.ones(inside.sum())
        self.solver: Any = highspy.Highs()
        self.solver.setOptionValue("output_flag", False)
        self.solver.setOptionValue("threads", 1)
        self.solver.passModel(model)

    def dive(self, num_gpus: int, deadline: float) -> NDArray[np.bool_]:
        """``[cells]`` taken while the others still fit, until less than a third of the experts is left."""
        cells = self.cells
        self.solver.setOptionValue("solver", "ipm")  # with no basis yet a quarter of the simplex method's time
        taken, possible = np.zeros(self.size, dtype=bool), np.ones(self.size, dtype=bool)
        free, kept = np.ones(self.num_experts + 1, dtype=bool), taken.copy()
        while self._fits(num_gpus, deadline):
            self.solver.setOptionValue("solver", "simplex")
            kept = taken.copy()
            if free[:-1].sum() <= _PART * self.num_experts:
                break
            share = np.where(possible, np.array(self.solver.getSolution().col_value), 0.0)
            for number, cell in enumerate(np.argsort(-share, kind="stable")):
                if number and share[cell] < _SURE:
                    break
                if free[cells.expert[cell]].all():
                    taken[cell] = True
                    free[cells.expert[cell, cells.expert[cell] >= 0]] = False
            fixed = np.flatnonzero(possible & ~free[cells.expert].all(axis=1))
            possible[fixed] = False
            value = taken[fixed].astype(float)
            self.solver.changeColsBounds(len(fixed), fixed.astype(np.int32), value, value)
        return kept

    def exactly(self, num_gpus: int, deadline: float) -> NDArray[np.bool_]:
        """``[cells]`` that cover all experts once, none where they are not found."""
        highspy = load_highs()
        whole = np.full(self.size, highspy.HighsVarType.kInteger)
        self.solver.changeColsIntegrality(self.size, np.arange(self.size, dtype=np.int32), whole)
        self.solver.setOptionValue("mip_max_nodes", _NODES)
        self.solver.setOptionValue("objective_bound", num_gpus + 0.5)
        self.solver.setOptionValue("objective_target", num_gpus + _TINY)
        if not self._fits(num_gpus, deadline):
            return np.zeros(self.size, dtype=bool)
        return np.array(self.solver.getSolution().col_value) > 0.5

    def _fits(self, num_gpus: int, deadline: float) -> bool:
        run(self.solver, deadline)
        info = self.solver.getInfo()
        feasible = info.primal_solution_status == load_highs().SolutionStatus.kSolutionStatusFeasible
        return bool(feasible and info.objective_function_value <= num_gpus + _TINY)
