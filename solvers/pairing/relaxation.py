"""The least excess max f(v) - slots over fractional choices of counts: a linear program."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp

from solvers.highs import load_highs, run
from solvers.pairing.model import Columns, Floats, Integers

_WEIGHT_SCALE = 2.0**30


def relax(columns: Columns, deadline: float = math.inf) -> Integers:
    """Dual weights, as integers, of the relaxation.

    The weights ``[1 + K]`` (total count first, then the breakpoints) are only a guess at the best
    ones: whatever they are, what they refute is refuted. Where every expert has one column, the row
    with the most excess says all. Out of time they are worth less, and as valid.
    """
    if len(columns.expert) == columns.num_experts:
        return _fullest_row(columns)
    return np.rint(_solved(columns, deadline) * _WEIGHT_SCALE).astype(np.int64)


def _fullest_row(columns: Columns) -> Integers:
    """Weight 1 on the largest f(v) of the only choice there is."""
    sign = np.where(columns.large, columns.count, -columns.count)
    steps = np.bincount(columns.row, weights=sign, minlength=len(columns.points) + 2)[: len(columns.points) + 1]
    steps[0] = columns.count.sum()
    weights = np.zeros(len(steps), dtype=np.int64)
    weights[np.argmax(np.cumsum(steps))] = 1
    return weights


def _solved(columns: Columns, deadline: float) -> Floats:
    """Dual values of the rows, >= 0; all 0 where time ran out before there were any."""
    num_columns, rows = len(columns.expert), len(columns.points) + 1
    experts = columns.num_experts
    chained = np.flatnonzero(columns.row < rows)
    every, steps = np.arange(num_columns), np.arange(rows)
    sign = np.where(columns.large, columns.count, -columns.count)[chained]
    # rows: one count per expert; f(2T) = all copies, f(v_k) = f(v_{k-1}) + large - small; f <= slots + excess
    blocks = [
        (columns.expert, every, np.ones(num_columns)),
        (np.full(num_columns, experts), every, columns.count),
        (experts + columns.row[chained], chained, sign),
        (experts + steps, num_columns + steps, -np.ones(rows)),
        (experts + steps[1:], num_columns + steps[:-1], np.ones(rows - 1)),
        (experts + rows + steps, num_columns + steps, np.ones(rows)),
        (experts + rows + steps, np.full(rows, num_columns + rows), -np.ones(rows)),
    ]
    i, j, value = (np.concatenate(part) for part in zip(*blocks, strict=True))
    matrix = sp.csc_matrix((value.astype(float), (i, j)))
    highspy = load_highs()
    free = highspy.kHighsInf
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = matrix.shape
    model.col_cost_ = np.append(np.zeros(num_columns + rows), 1.0)
    model.col_lower_ = np.append(np.zeros(num_columns), np.full(rows + 1, -free))
    model.col_upper_ = np.full(model.num_col_, free)
    model.row_lower_ = np.concatenate([np.ones(experts), np.zeros(rows), np.full(rows, -free)])
    model.row_upper_ = np.concatenate([np.ones(experts), np.zeros(rows), np.full(rows, float(columns.num_slots))])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
    model.a_matrix_.value_ = matrix.data
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(model)
    run(solver, deadline)
    solution = solver.getSolution()
    return np.maximum(-np.array(solution.row_dual)[-rows:], 0.0) if solution.dual_valid else np.zeros(rows)
