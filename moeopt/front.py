"""The front between balance and migration: how few moves every step toward the best makespan costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt._arguments import fraction, real
from moeopt._arrays import to_numpy
from moeopt.balancers.repair import repaired
from moeopt.balancers.search import search
from moeopt.balancers.start import as_start
from moeopt.bounds import Bound
from moeopt.errors import InputError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

CEILINGS = (0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Relative distances above the best makespan."""


@dataclass(frozen=True, eq=False)
class MovesFront:
    """Fewest moves found for every ceiling, ``[layers, points]``; NaN where no placement was found within it.

    Parameters
    ----------
    problem
        What was asked, without limits.
    best
        ``[layers]`` makespan that the ceilings are relative to, in tokens.
    ceilings
        ``[points]`` relative distances above it, rising.
    moves, makespan
        Of the placements found. A placement for a lower ceiling serves for a higher one, so moves fall.
    bounds
        One per point: moves that no placement within the ceiling can do without.
    placements
        One per point; a layer without one is all -1.
    """

    problem: PlacementProblem
    best: Floats
    ceilings: Floats
    moves: Floats
    makespan: Floats
    bounds: tuple[Bound, ...]
    placements: tuple[Placement, ...]

    def posed(self, point: int) -> PlacementProblem:
        """Fewest moves for one ceiling."""
        return at_ceiling(self.problem, self.best, self.ceilings[point])

    @property
    def lower_bound(self) -> Floats:
        """``[layers, points]`` values of ``bounds``."""
        return np.stack([bound.value for bound in self.bounds], axis=1)

    @property
    def bound_source(self) -> tuple[tuple[str, ...], ...]:
        """What proves them: a name per layer and point."""
        return tuple(zip(*(bound.source for bound in self.bounds), strict=True))

    @property
    def proven(self) -> NDArray[np.bool_]:
        """``[layers, points]`` whether no placement within the ceiling has fewer moves."""
        return np.asarray(self.moves <= self.lower_bound)

    def __len__(self) -> int:
        return self.problem.num_layers

    def __getitem__(self, layer: int) -> pd.DataFrame:
        """Table of one layer: a row per ceiling."""
        table = self.to_frame()
        return table[table.layer == self.problem.load.layer_ids[layer]].reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """Tidy table: a row per layer and ceiling."""
        import pandas as pd

        layers, points = self.moves.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(self.problem.load.layer_ids, points),
                "above_best": np.tile(self.ceilings, layers),
                "ceiling": (self.best[:, None] * (1 + self.ceilings)).ravel(),
                "moves": self.moves.ravel(),
                "makespan": self.makespan.ravel(),
                "lower_bound": self.lower_bound.ravel(),
                "bound_source": [name for row in self.bound_source for name in row],
                "proven": self.proven.ravel(),
            }
        )


def moves_front(
    problem: PlacementProblem,
    ceilings: Sequence[float] = CEILINGS,
    *,
    best: Any = None,
    start: Placement | Any = None,
    budget: float | None = None,
    seed: int = 0,
) -> MovesFront:
    """Fewest moves from the reference for several ceilings on the makespan, with a bound beside each.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads with a ``reference``, and neither ``max_moves`` nor ``max_makespan``. Pose it with
        ``allow_empty_slots=False``: where a slot may stay empty, dropping a copy costs no move.
    ceilings
        Relative distances above the best makespan, >= 0.
    best
        ``[layers]`` makespan that they are relative to, such as a proven optimum; that of ``start`` by default.
    start
        A near-optimum (Placement or ``[layers, slots]``) that repairs may go back from; ``search``'s by default.
    budget
        Seconds for all ceilings together, spent on annealing; None = none, the same answer on every machine.
    seed
        Of the random draws.

    Raises
    ------
    InputError
        Without a reference, with a limit of its own, for no ceilings or one below 0, or ``best`` of a wrong shape;
        PlacementError if ``start`` breaks the problem.

    Notes
    -----
    Every ceiling starts from the reference again (``balancers.repair``): a placement that is right for a loose
    ceiling is the wrong one to go on from for a tight one. All placements are then put together, so that
    none of the front is dominated by another. As many repairs as ceilings, and one search at most.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, 3]])
    >>> front = moves_front(problem, ceilings=(0.0, 0.3))
    >>> front.moves.tolist(), front.makespan.tolist()
    ([[2.0, 0.0]], [[11.0, 14.0]])
    """
    if problem.reference is None:
        raise InputError("moves_front needs a problem with a reference to count moves from")
    if problem.max_moves is not None or problem.max_makespan is not None:
        raise InputError("moves_front sets the limits itself: leave max_moves and max_makespan out")
    points = np.unique([fraction("ceilings", real("ceilings", value)) for value in ceilings])
    if not points.size:
        raise InputError("ceilings must name at least one distance above the best makespan")
    near = search(problem, seed=seed) if start is None else as_start(problem, start)
    reached = metrics.makespan(metrics.gpu_load(problem.load, near))
    base = reached if best is None else to_numpy("best", best).astype(float)
    if base.shape != (problem.num_layers,):
        raise InputError(f"best must be [{problem.num_layers}], got shape {base.shape}")
    share = None if budget is None else budget / len(points)
    posed = [at_ceiling(problem, base, above) for above in points]
    found = [repaired(part, start=near, budget=share, seed=seed)[0] for part in posed]
    moves, makespan, placements = _best_within([part.highest_makespan for part in posed], problem, found)
    return MovesFront(
        problem=problem,
        best=base,
        ceilings=points,
        moves=moves,
        makespan=makespan,
        bounds=tuple(bounds.lower_bound(part) for part in posed),
        placements=placements,
    )


def at_ceiling(problem: PlacementProblem, best: Floats, above: float) -> PlacementProblem:
    """Pose fewest moves for the ceiling that lies ``above`` the best makespan, ``[layers]``."""
    return replace(problem, max_makespan=best * (1 + above))


def _best_within(
    ceilings: Sequence[Floats], problem: PlacementProblem, found: Sequence[Placement]
) -> tuple[Floats, Floats, tuple[Placement, ...]]:
    """For every ceiling the placement of all found that keeps it with the fewest moves, then the least makespan."""
    assert problem.reference is not None
    rows = np.stack([placement.phy2log for placement in found])
    moves = np.stack([metrics.moves(problem.reference, placement) for placement in found]).astype(float)
    makespan = np.stack([metrics.makespan(metrics.gpu_load(problem.load, placement)) for placement in found])
    layers = np.arange(problem.num_layers)
    fewest, reached, placements = [], [], []
    for ceiling in ceilings:
        keeps = np.less_equal(makespan, ceiling)
        order = np.lexsort((makespan, np.where(keeps, moves, np.inf)), axis=0)
        first: NDArray[np.intp] = order[0]
        any_keeps: NDArray[np.bool_] = np.asarray(keeps.any(axis=0))
        fewest.append(np.where(any_keeps, moves[first, layers], np.nan))
        reached.append(np.where(any_keeps, makespan[first, layers], np.nan))
        chosen = np.where(any_keeps[:, None], rows[first, layers], -1)
        placements.append(Placement(chosen, problem.num_experts, problem.num_gpus))
    return np.stack(fewest, axis=1), np.stack(reached, axis=1), tuple(placements)
