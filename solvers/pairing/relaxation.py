"""The least excess max f(v) - slots over fractional choices of counts: a linear program, solved repeatedly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from solvers.highs import load_highs, run
from solvers.pairing.model import Columns, Floats, Integers

_WEIGHT_SCALE = 2.0**30


def relax(columns: Columns, deadline: float = math.inf) -> Integers:
    """Dual weights, as integers, of the relaxation.

    The weights ``[1 + K]`` (total count first, then the breakpoints) are only a guess at the best
    ones: whatever they are, ``exclude`` draws valid conclusions from them. Where every expert has
    one column, the row with the most excess says all. Out of time they are worth less, and as valid.
    """
    if len(columns.expert) == columns.num_experts:
        return _fullest_row(columns)
    return Relaxation(columns).solve(deadline).weights


def _fullest_row(columns: Columns) -> Integers:
    """Weight 1 on the largest f(v) of the only choice there is."""
    sign = np.where(columns.large, columns.count, -columns.count)
    steps = np.bincount(columns.row, weights=sign, minlength=len(columns.points) + 2)[: len(columns.points) + 1]
    steps[0] = columns.count.sum()
    weights = np.zeros(len(steps), dtype=np.int64)
    weights[np.argmax(np.cumsum(steps))] = 1
    return weights


@dataclass(frozen=True, eq=False)
class Fractional:
    """Integer ``weights [1 + K]`` of the rows, and the ``share [columns]`` of every column in the best choice."""

    weights: Integers
    share: Floats


class Relaxation:
    """The linear program of some columns; what it knows from one solve helps the next."""

    def __init__(self, columns: Columns) -> None:
        self.num_columns, self.num_rows = len(columns.expert), len(columns.points) + 1
        experts, rows = columns.num_experts, self.num_rows
        chained = np.flatnonzero(columns.row < rows)
        every, steps = np.arange(self.num_columns), np.arange(rows)
        sign = np.where(columns.large, columns.count, -columns.count)[chained]
        # rows: one count per expert; f(2T) = all copies, f(v_k) = f(v_{k-1}) + large - small; f <= slots + excess
        blocks = [
            (columns.expert, every, np.ones(self.num_columns)),
            (np.full(self.num_columns, experts), every, columns.count),
            (experts + columns.row[chained], chained, sign),
            (experts + steps, self.num_columns + steps, -np.ones(rows)),
            (experts + steps[1:], self.num_columns + steps[:-1], np.ones(rows - 1)),
            (experts + rows + steps, self.num_columns + steps, np.ones(rows)),
            (experts + rows + steps, np.full(rows, self.num_columns + rows), -np.ones(rows)),
        ]
        i, j, value = (np.concatenate(part) for part in zip(*blocks, strict=True))
        matrix = sp.csc_matrix((value.astype(float), (i, j)))
        highspy = load_highs()
        free = highspy.kHighsInf
        model = highspy.HighsLp()
        model.num_row_, model.num_col_ = matrix.shape
        model.col_cost_ = np.append(np.zeros(self.num_columns + rows), 1.0)
        model.col_lower_ = np.append(np.zeros(self.num_columns), np.full(rows + 1, -free))
        model.col_upper_ = np.full(model.num_col_, free)
        model.row_lower_ = np.concatenate([np.ones(experts), np.zeros(rows), np.full(rows, -free)])
        model.row_upper_ = np.concatenate([np.ones(experts), np.zeros(rows), np.full(rows, float(columns.num_slots))])
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
        model.a_matrix_.value_ = matrix.data
        self._solver = highspy.Highs()
        self._solver.setOptionValue("output_flag", False)
        self._solver.setOptionValue("threads", 1)
        self._solver.passModel(model)

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Let the next solves choose among some of the columns only."""
        every, upper = np.arange(self.num_columns, dtype=np.int32), np.where(allowed, np.inf, 0.0)
        self._solver.changeColsBounds(self.num_columns, every, np.zeros(self.num_columns), upper)

    def solve(self, deadline: float = math.inf) -> Fractional:
        """Weights and shares; all 0 where time ran out before there were any."""
        run(self._solver, deadline)
        solution = self._solver.getSolution()
        weights, share = np.zeros(self.num_rows), np.zeros(self.num_columns)
        if solution.dual_valid:
            weights = np.maximum(-np.array(solution.row_dual)[-self.num_rows :], 0.0)
        if solution.value_valid:
            share = np.array(solution.col_value)[: self.num_columns]
        return Fractional(np.rint(weights * _WEIGHT_SCALE).astype(np.int64), share)
