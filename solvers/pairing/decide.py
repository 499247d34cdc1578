"""The choice of replica counts left open by the relaxation, decided by CP-SAT in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from solvers.cp_solver import solved
from solvers.drive import Limits
from solvers.pairing.model import Columns

_SECONDS_PER_COLUMN = 3e-5
"""What building the model takes."""


@dataclass(frozen=True)
class Verdict:
    """``counts`` that reach the threshold, or ``infeasible`` proven; neither when time ran out."""

    counts: NDArray[np.int64] | None = None
    infeasible: bool = False


def decide(columns: Columns, hint: NDArray[np.int64], seconds: float, effort: float, limits: Limits) -> Verdict:
    """Find one count per expert with f(v) <= slots at every breakpoint, or prove there is none.

    The f(v) are chained, each written as the one before plus what enters minus what leaves, so
    that every column stands in one equation. ``effort`` is CP-SAT's deterministic time, so that a
    search within ``seconds`` can be repeated.
    """
    if len(columns.expert) * _SECONDS_PER_COLUMN > seconds:
        return Verdict()
    model = cp_model.CpModel()
    last = np.append(columns.first[1:], len(columns.expert))
    chosen: list[cp_model.LinearExprT] = [1] * len(columns.expert)
    for start, stop in zip(columns.first, last, strict=True):
        if stop - start > 1:
            options = [model.new_bool_var("") for _ in range(start, stop)]
            model.add_exactly_one(options)
            for i, option in enumerate(options, start):
                model.add_hint(option, bool(hint[columns.expert[i]] == columns.count[i]))
            chosen[start:stop] = options
    total = model.new_int_var(0, columns.num_slots, "")
    model.add(cp_model.LinearExpr.weighted_sum(chosen, columns.count.tolist()) == total)
    order = np.argsort(columns.row, kind="stable")
    ends = np.searchsorted(columns.row[order], np.arange(1, len(columns.points) + 2))
    sign = np.where(columns.large, columns.count, -columns.count)
    for start, stop in pairwise(ends):
        members = order[start:stop]
        step = cp_model.LinearExpr.weighted_sum([chosen[i] for i in members], sign[members].tolist())
        following = model.new_int_var(0, columns.num_slots, "")
        model.add(total + step == following)
        total = following
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed
    solver.parameters.max_deterministic_time = effort
    solver.parameters.catch_sigint_signal = False
    if seconds < math.inf:
        solver.parameters.max_time_in_seconds = seconds
    status = solved(solver, model)
    if status == cp_model.INFEASIBLE:
        return Verdict(infeasible=True)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Verdict()
    taken = np.array([solver.value(choice) for choice in chosen], dtype=bool)
    return Verdict(counts=columns.count[taken])
