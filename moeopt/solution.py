"""Solution: what is known about the layers of a problem, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt._arrays import ArrayFields, LayerIndex, frozen, layer_indices
from moeopt.bounds import Bound, Certificate
from moeopt.errors import ContradictionError, InputError
from moeopt.placement import Placement, as_placement
from moeopt.problem import PlacementProblem

DEFAULT_TOLERANCE = 1e-4
"""Relative tolerance under which a placement counts as optimal; the MIP solvers' own default."""

FLOAT_RESOLUTION = 1e-6
"""The finest tolerance honoured: the floating-point solvers' own feasibility tolerance."""


class SolveStatus(StrEnum):
    """OPTIMAL: within the stated tolerance of a proven bound. FEASIBLE: a placement, not that close.

    INFEASIBLE: proven that no placement exists. NO_SOLUTION: the method ended with neither.
    ERROR: the method failed. SKIPPED: the method does not take this problem.
    """

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    NO_SOLUTION = "NO_SOLUTION"
    ERROR = "ERROR"
    SKIPPED = "SKIPPED"


class Stop(StrEnum):
    """Why the work on a layer ended, whatever was found by then."""

    DONE = "done"
    TIME_LIMIT = "time limit"
    INFEASIBLE = "infeasible"
    SKIPPED = "skipped"
    ERROR = "error"


@dataclass(frozen=True, eq=False)
class Solution(ArrayFields):
    """What is known about every layer of a problem: a placement, a bound, why the work ended, the time it took.

    Methods hand this one value to each other. Nothing in it is a claim about the placement: makespan,
    moves, gap and status are computed here, by ``metrics``, when they are asked for.

    Parameters
    ----------
    problem
        The problem that all of it speaks of.
    placement
        The best placement known, or ``[layers, slots]``; a layer without one is all -1; None if no layer has one.
    bound
        What is proven about the objective; by default nothing.
    stop
        Why the work on each layer ended; one value stands for all layers.
    note
        What a reader should know about each layer, for example why it was skipped; likewise.
    runtime
        Seconds spent on each layer; likewise.
    tolerance
        Relative distance from the bound at which a placement is OPTIMAL, never finer than ``FLOAT_RESOLUTION``.

    Raises
    ------
    PlacementError
        If the placement of a layer breaks a rule of the problem.
    InputError
        If anything has another number of layers than the problem.

    Examples
    --------
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> found = Solution(problem, [[0, 3, 1, 2]], bounds.lower_bound(problem))
    >>> found.status[0].name, found.makespan.tolist(), found.bound_source
    ('OPTIMAL', [11.0], ('hottest_with_companions',))
    """

    problem: PlacementProblem
    placement: Placement | None = None
    bound: Bound = None  # type: ignore[assignment]  # becomes one that says nothing
    stop: tuple[Stop, ...] = (Stop.DONE,)
    note: tuple[str, ...] = ("",)
    runtime: NDArray[np.float64] = 0.0  # type: ignore[assignment]
    tolerance: float = DEFAULT_TOLERANCE

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(
            self,
            problem: PlacementProblem,
            placement: Any = None,
            bound: Bound | None = None,
            stop: Stop | Sequence[Stop] = Stop.DONE,
            note: str | Sequence[str] = "",
            runtime: Any = 0.0,
            tolerance: float = DEFAULT_TOLERANCE,
        ) -> None: ...

    def __post_init__(self) -> None:
        layers = self.problem.num_layers
        for name, single in (("stop", Stop), ("note", str)):
            value = getattr(self, name)
            values = (value,) if isinstance(value, single) else tuple(value)
            object.__setattr__(self, name, values * layers if len(values) == 1 else values)
        seconds = np.asarray(self.runtime, dtype=float)
        object.__setattr__(self, "runtime", frozen(np.broadcast_to(seconds, layers) if seconds.size == 1 else seconds))
        object.__setattr__(self, "bound", Bound.unknown(layers) if self.bound is None else self.bound)
        for name in ("stop", "note", "runtime", "bound"):
            if len(getattr(self, name)) != layers:
                raise InputError(f"{name} must name every layer: {len(getattr(self, name))} for {layers} layers")
        if self.placement is not None:
            placement = as_placement(self.placement, self.problem.num_experts, self.problem.num_gpus)
            placed = (placement.phy2log >= 0).any(axis=1)
            object.__setattr__(self, "placement", placement if placed.any() else None)
            if placed.all() or len(placement) != layers:
                self.problem.check(placement)
            elif placed.any():
                self.problem[np.flatnonzero(placed)].check(placement[np.flatnonzero(placed)])

    @property
    def num_layers(self) -> int:
        """Layers."""
        return self.problem.num_layers

    @cached_property
    def solved(self) -> NDArray[np.intp]:
        """Numbers of the layers that have a placement."""
        if self.placement is None:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero((self.placement.phy2log >= 0).any(axis=1))

    @cached_property
    def gpu_load(self) -> NDArray[np.float64]:
        """``[layers, gpus]`` load of every GPU in tokens, under the problem's split; NaN without a placement."""
        load = np.full((self.num_layers, self.problem.num_gpus), np.nan)
        if self.placement is not None:
            load[self.solved] = self.problem[self.solved].gpu_load(self.placement[self.solved])
        return frozen(load)

    @cached_property
    def makespan(self) -> NDArray[np.float64]:
        """``[layers]`` load of the fullest GPU in tokens; NaN without a placement."""
        return frozen(metrics.makespan(self.gpu_load))

    @cached_property
    def moves(self) -> NDArray[np.float64]:
        """``[layers]`` moves from ``problem.reference``; NaN without placement or reference."""
        moves = np.full(self.num_layers, np.nan)
        if self.placement is not None and self.problem.reference is not None:
            moves[self.solved] = metrics.moves(self.problem.reference[self.solved], self.placement[self.solved])
        return frozen(moves)

    @property
    def objective(self) -> NDArray[np.float64]:
        """``[layers]`` makespan or moves, whichever the problem minimises."""
        return self.makespan if self.problem.objective == "makespan" else self.moves

    @property
    def lower_bound(self) -> NDArray[np.float64]:
        """``[layers]`` proven bound on the objective; NaN = unknown."""
        return self.bound.value

    @property
    def bound_source(self) -> tuple[str, ...]:
        """What proves the bound, per layer."""
        return self.bound.source

    @property
    def certificate(self) -> tuple[Certificate | None, ...]:
        """What lets an outsider prove the bound again; None where it rests on a solver's search."""
        return self.bound.certificate

    @property
    def gap(self) -> NDArray[np.float64]:
        """``objective / lower_bound - 1`` per layer; NaN where either is unknown."""
        return metrics.gap(self.objective, self.lower_bound)

    @cached_property
    def status(self) -> tuple[SolveStatus, ...]:
        """What is proven, per layer."""
        gaps = self.gap
        return tuple(
            decide(bool(has), float(gap), stop, self.tolerance)
            for has, gap, stop in zip(~np.isnan(self.makespan), gaps, self.stop, strict=True)
        )

    @property
    def _slots(self) -> NDArray[np.int64]:
        """``[layers, slots]`` of the placement, -1 where there is none."""
        if self.placement is None:
            return np.full((self.num_layers, self.problem.slots), -1)
        return self.placement.phy2log

    @property
    def is_optimal(self) -> bool:
        """Whether every layer is proven optimal."""
        return all(status is SolveStatus.OPTIMAL for status in self.status)

    @property
    def still_open(self) -> NDArray[np.intp]:
        """Numbers of the layers that are neither optimal nor proven infeasible."""
        closed = (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
        return np.flatnonzero([status not in closed for status in self.status])

    def join(self, later: Solution) -> Solution:
        """Put together what two methods know about the same problem.

        Layer by layer the better placement (this one where they are equally good) and the better
        bound, none where no placement exists; the seconds of both; why the later one ended, and the
        notes of both. A bound that stands above a placement by no more than a floating-point solver's
        tolerance is lowered to it.

        Raises
        ------
        ContradictionError
            If a placement beats a bound, or stands where none is said to exist: one of the two is wrong.
        """
        mine, theirs = self.objective, later.objective
        take = np.isnan(mine) | (theirs < mine)
        stop = [a if a is Stop.INFEASIBLE else b for a, b in zip(self.stop, later.stop, strict=True)]
        joined = Solution(
            self.problem,
            np.where(take[:, None], later._slots, self._slots),
            self.bound.join(later.bound).without(np.array([s is Stop.INFEASIBLE for s in stop])),
            stop,
            [a if b in a else "; ".join(filter(None, (a, b))) for a, b in zip(self.note, later.note, strict=True)],
            self.runtime + later.runtime,
            self.tolerance,
        )
        return joined._consistent()

    def updated(self, layers: NDArray[np.intp], later: Solution) -> Solution:
        """Return the same knowledge with that of some layers replaced by ``later``, which has these alone."""
        order = np.arange(self.num_layers)
        order[layers] = self.num_layers + np.arange(len(layers))
        stop, note = self.stop + later.stop, self.note + later.note
        return Solution(
            self.problem,
            np.concatenate([self._slots, later._slots])[order],
            self.bound.updated(layers, later.bound),
            [stop[i] for i in order],
            [note[i] for i in order],
            np.concatenate([self.runtime, later.runtime])[order],
            self.tolerance,
        )

    def ended(self, stop: Stop, note: str = "") -> Solution:
        """Return the same knowledge, the work on all layers having ended for this reason."""
        return replace(self, stop=(stop,), note=(note,) if note else self.note)

    def _consistent(self) -> Solution:
        """Refuse contradictions, and lower bounds that exceed what is reached by rounding only."""
        reached, value = self.objective, self.lower_bound
        layers = self.problem.load.layer_ids
        for layer in np.flatnonzero(reached < value * (1 - FLOAT_RESOLUTION)):
            raise ContradictionError(
                f"layer {layers[layer]} of {self.problem.load.source}: a placement reaches {reached[layer]:.12g}, "
                f"below the lower bound {value[layer]:.12g} of {self.bound_source[layer]}; one of the two is wrong"
            )
        for layer in self.solved:
            if self.stop[layer] is Stop.INFEASIBLE:
                raise ContradictionError(
                    f"layer {layers[layer]} of {self.problem.load.source}: one method says that no placement "
                    "exists, and another has one"
                )
        if not (reached < value).any():
            return self
        lowered = np.where(reached < value, reached, value)
        return replace(self, bound=Bound(lowered, self.bound_source, self.certificate))

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: LayerIndex) -> Solution:
        rows = layer_indices(index, self.num_layers)
        return replace(
            self,
            problem=self.problem[rows],
            placement=None if self.placement is None else self.placement[rows],
            bound=self.bound[rows],
            stop=tuple(self.stop[i] for i in rows),
            note=tuple(self.note[i] for i in rows),
            runtime=self.runtime[rows],
        )

    def __str__(self) -> str:
        objective = "load of the fullest GPU" if self.problem.objective == "makespan" else "moves"
        counts = Counter(self.status)
        told = ", ".join(f"{counts[status]} {status}" for status in SolveStatus if counts[status])
        lines = [f"Solution of {self.num_layers} layers: {told}"]
        if self.solved.size:
            reached, bound = self.objective[self.solved], self.lower_bound[self.solved]
            line = f"{objective}, sum over {len(reached)} layers: {reached.sum():.10g}"
            if not np.isnan(bound).any():
                line += f", at least {bound.sum():.10g}"
            if not np.isnan(self.gap).all():
                worst = int(np.nanargmax(self.gap))
                line += f"; worst layer {self.problem.load.layer_ids[worst]}, {100 * self.gap[worst]:.3f} % at most"
            lines.append(line)
        sources = Counter(source for source in self.bound_source if source)
        if sources:
            lines.append("bounds by " + ", ".join(f"{name} ({n})" for name, n in sources.most_common()))
        notes = Counter(note for note in self.note if note)
        lines += [f"{note} ({n} layers)" for note, n in notes.most_common(3)]
        stops = Counter(self.stop)
        lines.append(f"{self.runtime.sum():.3g} s; ended: " + ", ".join(f"{s} ({n})" for s, n in stops.most_common()))
        return "\n".join(lines)


def stack(problem: PlacementProblem, parts: Sequence[Solution]) -> Solution:
    """Put solutions of the layers of ``problem``, in their order, together to one of all layers."""
    return Solution(
        problem,
        np.concatenate([part._slots for part in parts]),
        Bound.stack([part.bound for part in parts]),
        [stop for part in parts for stop in part.stop],
        [note for part in parts for note in part.note],
        np.concatenate([part.runtime for part in parts]),
        parts[0].tolerance,
    )


def placement_of(answer: Placement | Solution | Any) -> Placement:
    """Return the placement that a method has answered with.

    Raises
    ------
    InputError
        If there is none; says what there was, as the rest of a sentence that the method's name begins.
    """
    placement = answer.placement if isinstance(answer, Solution) else answer
    if not isinstance(placement, Placement):
        raise InputError(f"returned {type(answer).__name__} without a placement")
    return placement


def decide(has_placement: bool, gap: float, stop: Stop, tolerance: float) -> SolveStatus:
    """Decide a layer's status: the one place where that is done.

    ``gap`` is the recomputed objective over the proven bound, less 1; NaN = unknown.
    """
    if has_placement:
        return SolveStatus.OPTIMAL if gap <= max(tolerance, FLOAT_RESOLUTION) else SolveStatus.FEASIBLE
    ends = {Stop.INFEASIBLE: SolveStatus.INFEASIBLE, Stop.SKIPPED: SolveStatus.SKIPPED, Stop.ERROR: SolveStatus.ERROR}
    return ends.get(stop, SolveStatus.NO_SOLUTION)


def gap_to_bound(problem: PlacementProblem, placement: Any) -> NDArray[np.float64]:
    """How far every layer of ``placement`` is from the best possible, at most, ``[layers]``.

    Measured against the combinatorial lower bounds, in milliseconds; an exact method's
    ``Solution.lower_bound`` can be sharper. Takes a Placement or ``[layers, slots]``.

    Raises
    ------
    PlacementError
        If the placement breaks the problem.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2], [3, 3, 3, 3]], num_gpus=2)
    >>> gap_to_bound(problem, balancers.contiguous(problem)).round(3).tolist()
    [0.273, 0.0]
    """
    placement = as_placement(placement, problem.num_experts, problem.num_gpus)
    problem.check(placement)
    return Solution(problem, placement, bounds.lower_bound(problem)).gap
