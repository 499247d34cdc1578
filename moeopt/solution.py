"""Solution: what a method found, what is proven about it, and how the two are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt._arrays import ArrayFields, LayerIndex, frozen, layer_indices
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

DEFAULT_GAP = 1e-4
"""Relative tolerance under which a placement counts as optimal; the MIP solvers' own default."""

FLOAT_RESOLUTION = 1e-6
"""The finest tolerance honoured: the floating-point solvers' own feasibility tolerance."""


class SolveStatus(StrEnum):
    """OPTIMAL: within the stated gap of a proven bound. FEASIBLE: a placement, not that close.

    INFEASIBLE: proven that no placement exists. NO_SOLUTION: time ran out with neither.
    ERROR: the back end failed. SKIPPED: the method cannot take this problem.
    """

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    NO_SOLUTION = "NO_SOLUTION"
    ERROR = "ERROR"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, eq=False)
class Solution(ArrayFields):
    """What a method returns when it knows more than a placement; every array is ``[layers]``.

    Parameters
    ----------
    placement
        The best placement found; a layer without one is all -1; None if no layer has one.
    status
        What is proven, per layer.
    makespan
        Recomputed from the placement by ``metrics``; NaN without one.
    moves
        Moves from ``problem.reference``; NaN without placement or reference.
    objective
        ``makespan`` or ``moves``, whichever the problem minimises.
    lower_bound, bound_source
        Proven bound on the objective (NaN = unknown), and what proves it.
    runtime
        Seconds spent on each layer.
    note
        What a reader should know about a layer, e.g. why it was skipped.
    certificate
        What lets an outsider re-check the bound, as JSON-able dicts; None where the bound rests
        on a solver's search.
    """

    placement: Placement | None
    status: tuple[SolveStatus, ...]
    makespan: NDArray[np.float64]
    moves: NDArray[np.float64]
    objective: NDArray[np.float64]
    lower_bound: NDArray[np.float64]
    bound_source: tuple[str, ...]
    runtime: NDArray[np.float64]
    note: tuple[str, ...]
    certificate: tuple[dict[str, Any] | None, ...]

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.status)

    @property
    def gap(self) -> NDArray[np.float64]:
        """``objective / lower_bound - 1`` per layer; NaN where either is unknown."""
        return metrics.gap(self.objective, self.lower_bound)

    @property
    def is_optimal(self) -> bool:
        """Whether every layer is proven optimal."""
        return all(status is SolveStatus.OPTIMAL for status in self.status)

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: LayerIndex) -> Solution:
        rows = layer_indices(index, self.num_layers)
        return Solution(
            placement=None if self.placement is None else self.placement[rows],
            status=tuple(self.status[i] for i in rows),
            makespan=frozen(self.makespan[rows]),
            moves=frozen(self.moves[rows]),
            objective=frozen(self.objective[rows]),
            lower_bound=frozen(self.lower_bound[rows]),
            bound_source=tuple(self.bound_source[i] for i in rows),
            runtime=frozen(self.runtime[rows]),
            note=tuple(self.note[i] for i in rows),
            certificate=tuple(self.certificate[i] for i in rows),
        )


@dataclass(frozen=True)
class LayerOutcome:
    """What a back end says about one layer, before anybody believes it.

    ``phy2log`` is a slot list or None; ``lower_bound`` is on the objective, None = unknown.
    """

    phy2log: Any = None
    lower_bound: float | None = None
    bound_source: str = ""
    status: SolveStatus | None = None
    runtime: float = 0.0
    note: str = ""
    certificate: dict[str, Any] | None = None


def conclude(problem: PlacementProblem, outcomes: Sequence[LayerOutcome], gap: float = DEFAULT_GAP) -> Solution:
    """Turn back ends' claims into a Solution: the one place where a status is decided.

    Placements are checked against the problem and scored by ``metrics``; the bound is the larger
    of the back end's and the combinatorial one; OPTIMAL means the recomputed objective is within
    ``gap`` of that bound (never finer than ``FLOAT_RESOLUTION``).

    Raises
    ------
    PlacementError
        If a back end returned a placement that breaks the problem.
    """
    found = np.array([outcome.phy2log is not None for outcome in outcomes])
    rows = np.full((problem.num_layers, problem.slots), -1, dtype=np.int64)
    makespan, moves = np.full((2, problem.num_layers), np.nan)
    if found.any():
        rows[found] = [outcome.phy2log for outcome in outcomes if outcome.phy2log is not None]
        part, placed = problem, Placement(rows[found], problem.num_experts, problem.num_gpus)
        if not found.all():
            part = problem[np.flatnonzero(found)]
        part.check(placed)
        makespan[found] = metrics.makespan(metrics.gpu_load(part.load, placed))
        if part.reference is not None:
            moves[found] = metrics.moves(part.reference, placed)
    objective = makespan if problem.objective == "makespan" else moves
    combinatorial = bounds.lower_bound(problem)
    lower, source, status = combinatorial.value.copy(), list(combinatorial.source), []
    certificate: list[dict[str, Any] | None] = [None] * len(outcomes)
    for layer, outcome in enumerate(outcomes):
        claimed = np.nan if outcome.lower_bound is None else float(outcome.lower_bound)
        if problem.objective == "moves":
            claimed = np.ceil(claimed - FLOAT_RESOLUTION)
        if outcome.status is SolveStatus.INFEASIBLE:
            lower[layer], source[layer] = np.nan, ""
        elif np.isnan(lower[layer]) or claimed > lower[layer] * (1 + metrics.FLOAT_SLACK):
            lower[layer], source[layer] = claimed, outcome.bound_source
            certificate[layer] = outcome.certificate
        else:
            certificate[layer] = combinatorial.certificate[layer]
        status.append(_status(objective[layer], lower[layer], outcome.status, gap))
    return Solution(
        placement=Placement(rows, problem.num_experts, problem.num_gpus) if found.any() else None,
        status=tuple(status),
        makespan=frozen(makespan),
        moves=frozen(moves),
        objective=frozen(objective),
        lower_bound=frozen(lower),
        bound_source=tuple(source),
        runtime=frozen(np.array([outcome.runtime for outcome in outcomes], dtype=float)),
        note=tuple(outcome.note for outcome in outcomes),
        certificate=tuple(certificate),
    )


def gap_to_bound(problem: PlacementProblem, placement: Placement) -> NDArray[np.float64]:
    """How far every layer of ``placement`` is from the best possible, at most, ``[layers]``.

    Measured against the combinatorial lower bounds, in milliseconds; an exact method's
    ``Solution.lower_bound`` can be sharper.
    """
    problem.check(placement)
    if problem.objective == "moves":
        assert problem.reference is not None
        return metrics.gap(metrics.moves(problem.reference, placement), bounds.lower_bound(problem).value)
    makespan = metrics.makespan(metrics.gpu_load(problem.load, placement))
    return metrics.gap(makespan, bounds.lower_bound(problem).value)


def _status(objective: float, lower_bound: float, claimed: SolveStatus | None, gap: float) -> SolveStatus:
    if np.isnan(objective):
        return claimed or SolveStatus.NO_SOLUTION
    if metrics.gap(objective, lower_bound) <= max(gap, FLOAT_RESOLUTION):
        return SolveStatus.OPTIMAL
    return SolveStatus.FEASIBLE
