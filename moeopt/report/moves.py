"""What balance costs in migration: every method's moves from the placement in force, beside what is proven needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.balancers.eplb import eplb
from moeopt.balancers.minimize_moves import minimize_moves
from moeopt.balancers.relabel import relabel
from moeopt.balancers.search import search
from moeopt.bounds import Bound
from moeopt.errors import ContradictionError, UnsupportedError
from moeopt.front import CEILINGS, MovesFront, at_ceiling, moves_front
from moeopt.migration import migration_rounds
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.study import Effort, Study

Floats = NDArray[np.float64]

PROVEN_AT = tuple(CEILINGS.index(above) for above in (0.001, 0.01, 0.05, 0.1, 0.2))
"""Where bounds that take time are sought; a ceiling in between needs what the next looser one needs."""

MovesBound = Callable[..., Bound]
"""``bound(problem, *, time_limit, target) -> Bound`` on moves for ``max_makespan``; see ``solvers.moves_cover``."""


@dataclass(frozen=True, eq=False)
class Migration:
    """From the reference to one placement, layer by layer; NaN where there is no placement, or it is not known.

    Parameters
    ----------
    placement
        All -1 in layers without one.
    moves, transfers
        ``[layers]`` slots to be written, and experts that cross the network.
    rounds
        ``[layers]`` rounds of migration, one arrival on a GPU in each; NaN where the reference has other slots.
    makespan
        ``[layers]`` in tokens.
    """

    placement: Placement
    moves: Floats
    transfers: Floats
    rounds: Floats
    makespan: Floats

    @classmethod
    def of(cls, problem: PlacementProblem, placement: Placement) -> Migration:
        """Return what ``placement`` costs from ``problem.reference``."""
        reference = problem.reference
        assert reference is not None
        there = (placement.phy2log >= 0).any(axis=1)
        rounds = np.full(problem.num_layers, np.nan)
        if reference.num_slots == placement.num_slots:
            for layer in np.flatnonzero(there):
                rounds[layer] = len(migration_rounds(reference[int(layer)], placement[int(layer)]))
        return cls(
            placement=placement,
            moves=np.where(there, metrics.moves(reference, placement), np.nan),
            transfers=np.where(there, metrics.transfers(reference, placement), np.nan),
            rounds=rounds,
            makespan=np.where(there, metrics.makespan(metrics.gpu_load(problem.load, placement)), np.nan),
        )


@dataclass(frozen=True, eq=False)
class MovesStudy:
    """The front between balance and migration on one setting.

    Parameters
    ----------
    problem
        The setting with its reference and with full slots, unless the reference itself leaves some empty.
    best
        ``[layers]`` the least makespan known of placements of this problem, in tokens.
    ceilings
        ``[points]`` relative distances above ``best``, rising.
    fixed
        Methods that know no ceiling, by name: one placement each.
    repaired
        The fewest moves found for every ceiling.
    proven
        Bounds on the moves for every ceiling, each proven for its own ceiling.
    """

    problem: PlacementProblem
    best: Floats
    ceilings: Floats
    fixed: Mapping[str, Migration]
    repaired: tuple[Migration, ...]
    proven: tuple[Bound, ...]

    def above(self, found: Migration) -> Floats:
        """``[layers]`` relative distance of a makespan above the best."""
        return metrics.gap(found.makespan, self.best)

    def within(self, found: Migration, ceiling: float) -> NDArray[np.bool_]:
        """``[layers]`` whether a placement keeps a ceiling."""
        return np.asarray(found.makespan <= self.best * (1 + ceiling) * (1 + metrics.FLOAT_SLACK))

    def posed(self, point: int) -> PlacementProblem:
        """Fewest moves for one ceiling."""
        return at_ceiling(self.problem, self.best, self.ceilings[point])

    def needed(self, point: int) -> Bound:
        """Moves that one ceiling takes at least: what a looser one needs, a tighter one needs too."""
        best = self.proven[point]
        for looser in self.proven[point + 1 :]:
            best = best.join(looser)
        return best

    def optimal(self, point: int) -> NDArray[np.bool_]:
        """``[layers]`` whether the moves found for a ceiling are proven to be the fewest."""
        return np.asarray(self.repaired[point].moves <= self.needed(point).value)


def study_moves(
    done: Study, effort: Effort, prove: MovesBound | None = None, progress: Callable[[int], None] = lambda layers: None
) -> MovesStudy:
    """Measure what the setting's placements cost in moves from its reference, and what less balance would save.

    Parameters
    ----------
    done
        A setting whose problem has a reference. The best of its placements is what ceilings are relative to, where
        it is better than ``search``'s.
    effort
        Seed, and the seconds for ``prove``: ``time_limit`` per layer and ceiling, ``budget`` in all.
    prove
        A bound on moves that takes time, for what the cheap bounds leave open.
    progress
        Told how many layers were finished.

    Raises
    ------
    ContradictionError
        If a placement takes fewer moves than a bound claims.
    """
    reference = done.problem.reference
    assert reference is not None
    problem = replace(done.problem, allow_empty_slots=bool((reference.phy2log < 0).any()))
    near = _nearest(problem, done, search(problem, seed=effort.seed))
    front = moves_front(problem, CEILINGS, start=near, seed=effort.seed)
    fixed = {
        "eplb": eplb(problem),
        "relabel": relabel(problem, start=near),
        "minimize_moves": minimize_moves(problem, start=near),
    }
    proven = front.bounds if prove is None else _proven(prove, front, effort)
    progress(problem.num_layers)
    found = MovesStudy(
        problem=problem,
        best=front.best,
        ceilings=front.ceilings,
        fixed={name: Migration.of(problem, placement) for name, placement in fixed.items()},
        repaired=tuple(Migration.of(problem, placement) for placement in front.placements),
        proven=proven,
    )
    _refuse_contradictions(found)
    return found


def _nearest(problem: PlacementProblem, done: Study, near: Placement) -> Placement:
    """The layers of ``near``, or of a placement of the study that keeps the problem's rules and is better."""
    rows = near.phy2log.copy()
    least = metrics.makespan(metrics.gpu_load(problem.load, near))
    for run in done.runs.values():
        placement = run.found.placement
        if placement is None:
            continue
        allowed = (placement.phy2log >= (-1 if problem.allow_empty_slots else 0)).all(axis=1)
        better = allowed & (run.found.makespan < least)
        rows[better] = placement.phy2log[better]
        least = np.where(better, run.found.makespan, least)
    return Placement(rows, problem.num_experts, problem.num_gpus)


def _proven(prove: MovesBound, front: MovesFront, effort: Effort) -> tuple[Bound, ...]:
    """Raise the bounds of layers that are open, at some ceilings; the loosest and easiest come first."""
    begin = time.perf_counter()
    proven = list(front.bounds)
    above: Bound | None = None
    for point in reversed(PROVEN_AT):
        best = proven[point] if above is None else proven[point].join(above)
        layers = np.flatnonzero(~(front.moves[:, point] <= best.value))
        above = best
        if not layers.size:
            continue
        limit = _share(effort, time.perf_counter() - begin, (PROVEN_AT.index(point) + 1) * len(layers))
        if limit <= 0:
            continue
        try:
            found = prove(front.posed(point)[layers], time_limit=limit, target=front.moves[layers, point])
        except UnsupportedError:
            break
        proven[point] = proven[point].updated(layers, proven[point][layers].join(found))
        above = best.join(proven[point])
    return tuple(proven)


def _share(effort: Effort, spent: float, parts: int) -> float:
    """Seconds for one of so many parts of the work."""
    limit = np.inf if effort.time_limit is None else effort.time_limit
    return float(limit if effort.budget is None else min(limit, (effort.budget - spent) / parts))


def _refuse_contradictions(found: MovesStudy) -> None:
    for point, above in enumerate(found.ceilings):
        needed = found.needed(point)
        for name, one in {"repair": found.repaired[point], **found.fixed}.items():
            for layer in np.flatnonzero(found.within(one, above) & (one.moves < needed.value)):
                raise ContradictionError(
                    f"{needed.source[layer]}: layer {found.problem.load.layer_ids[layer]} needs at least "
                    f"{needed.value[layer]:g} moves for {above:.1%} above the best, and {name} has {one.moves[layer]:g}"
                )
