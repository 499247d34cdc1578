"""Two slots per GPU: search the replica counts, prove that no others do better."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._stop import stoppable
from moeopt.balancers.pairing import PATIENCE, STEPS_PER_SLOT, anneal, greedy_counts, pair_up, paired_makespan
from moeopt.bounds import Bound, Certificate
from moeopt.methods import even_split, made_for, refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, FLOAT_RESOLUTION, Solution
from solvers.drive import Limits, Progress, Start, drive
from solvers.pairing.branch import grow
from solvers.pairing.compose import compose
from solvers.pairing.decide import Verdict, decide
from solvers.pairing.mend import repair
from solvers.pairing.model import (
    MARGIN,
    MAX_COLUMNS,
    Columns,
    cheapest,
    columns_at,
    exclude,
    largest_refuted,
    restrict,
    witness,
)
from solvers.pairing.relaxation import relax

_FIRST_STEPS = 30
"""Steps per slot in the annealing before the first relaxation, which says little about a poor makespan."""

_EFFORT = 0.2
"""CP-SAT's first deterministic time, about its seconds; raised where it does not suffice."""

_STEPS = 80_000
"""Steps of the repair per unit of that effort, a quarter of a second."""

_FEW = 600
"""Columns left up to which a tree of branches is likely to be small; it proves what CP-SAT could only claim."""

_MANY = 1200
"""Columns left that CP-SAT does not search in a moment; with more effort it is given more."""

_LIKELY = (0.03, 0.1)
"""Shares of the relaxation's slack that a count may cost to be tried before the others; the repair tries both."""

_COMPOSED = 0.5
"""Redundant slots per expert from which counts are composed of cells: with fewer, cells are large."""

_FINE = 4
"""Gaps between threshold and makespan at which composing ends: it may fail at one threshold and not at the next."""

_PLENTY = 1.5
"""Room in cells when counts are composed again, beside that at first; it grows with the root of the effort."""

_SECONDS_PER_COUNT = 2e-7
"""What listing the counts of all experts takes; where no more than that is left, nothing new is begun."""

_SECONDS_PER_COLUMN = 2e-5
"""What a linear program on the columns of those counts takes; likewise."""

_PRECISION = 1e-5
"""Relative precision to which the relaxation's bound is found at best; half the gap suffices."""

_BISECTION = 4
"""Linear programs, as slow as foreseen, that the bisection takes: left to it by the annealing, a quarter at most."""

_STALLED = 0.9
"""Share of the columns left by a round of the relaxation above which another is not worth it."""


def _reason(problem: PlacementProblem) -> str:
    other = made_for(problem, 2) or even_split(problem)
    if other:
        return other
    if problem.num_experts * problem.max_replicas > MAX_COLUMNS:
        return (
            f"lists every count of every expert: {problem.num_experts} experts with up to "
            f"{problem.max_replicas} copies each are more than {MAX_COLUMNS}"
        )
    return ""


@refuses(_reason)
def solve_pairing(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    start: Start | None = None,
    seed: int = 0,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Optimal placement for two slots per GPU, with or without replicas.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads on GPUs of two slots; no hierarchy, no move limit.
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`. The search begins at the replica counts of ``start`` where they beat
        EPLB's; ``workers`` are CP-SAT's threads.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.
    UnsupportedError
        For another number of slots per GPU, a hierarchical or a move-limited problem, or millions of counts.

    Notes
    -----
    For given replica counts, pairing the largest replica with the smallest is optimal, so only the counts are
    searched: a short annealing, a first linear relaxation, whose dual weights bound at every threshold, and a
    long annealing; before it, where copies are about as many as experts, counts are composed of cells of few
    experts. Then the makespan to beat, less the gap, is tried as a threshold. The relaxation refutes it
    (bound source ``pairing_lp``, with a certificate that exact arithmetic re-checks), or leaves few counts
    open. A tree of branches refutes these (``pairing_tree``, likewise), or, where they are many, CP-SAT finds
    better ones or proves there are none (``pairing_cpsat``: rests on that solver's search). Where CP-SAT
    takes long, local search repairs what the relaxation favours at thresholds in between. Within a time limit
    the long annealing leaves time to bisect for the best bound of the relaxation.

    Whether slots may stay empty makes no difference to the optimum where colocation is allowed. Where it is
    not, the bound is that of the problem with colocation (and at most one copy of an expert per GPU in
    number), and the placement is repaired, so a layer can stay FEASIBLE.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_pairing
    >>> found = solve_pairing(PlacementProblem([[9, 5, 4, 2]], num_gpus=3, num_slots=6))
    >>> found.status[0].name, found.makespan.tolist()
    ('OPTIMAL', [7.0])
    """
    limits = Limits(time_limit, tolerance, workers, seed)
    return drive(problem, solve_layer, limits, start=start, jobs=jobs, budget=budget, progress=progress)


@refuses(_reason)
def solve_layer(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve one layer, given what is known about it."""
    return _LayerSearch(known, limits).run()


@dataclass(frozen=True)
class _Left:
    """Columns that the relaxation leaves possible, the likely ones among them, its favourites, its rounds."""

    possible: Columns
    likely: list[Columns]
    favoured: NDArray[np.int64]
    rounds: list[dict[str, Any]]


class _LayerSearch:
    """One layer: the best counts so far, the best bound so far, and the steps that close the gap."""

    def __init__(self, known: Solution, limits: Limits) -> None:
        problem = known.problem
        self.problem, self.known, self.limits = problem, known, limits
        finest = FLOAT_RESOLUTION if problem.num_redundant == 0 else max(limits.tolerance, FLOAT_RESOLUTION)
        self.gap = 0.99 * finest  # without replicas there is nothing to search, so no reason to stop early
        self.load = problem.load.values[0].astype(float)
        self.counts = greedy_counts(self.load, problem)
        self.makespan = paired_makespan(self.load, self.counts, problem.slots)
        self.bound = 0.0 if np.isnan(known.lower_bound[0]) else float(known.lower_bound[0])
        self.proven = Bound.unknown(1)
        self.effort, self.descended = _EFFORT, 0.0
        self.round = self.listing = len(self.load) * problem.max_replicas * _SECONDS_PER_COUNT
        self.tightened = False

    def run(self) -> Solution:
        if self.known.placement is not None:
            self._accept(self.known.placement.replica_count[0])
        self._improve(_FIRST_STEPS, patience=1)
        if not self._closed() and not self._late():
            self._refute(self._ceiling())  # before the long annealing, lest time run out with a poor bound
        self._compose(1.0)
        self._improve()
        self._close()
        placement = Placement(
            pair_up(self.load, self.counts, self.problem), self.problem.num_experts, self.problem.num_gpus
        )
        return Solution(self.problem, placement, self.proven, self.limits.stop)

    def _close(self) -> None:
        """Try the makespan to beat; where that takes too long, lower thresholds, then more effort.

        Thresholds close to the relaxation's bound are quick to refute, those close to the best
        makespan quick to reach; the hard ones lie between.
        """
        undecided = math.inf
        while not self._closed() and not self._late():
            ceiling = self._ceiling()
            if undecided - self.bound < max(self.gap * self.bound, (ceiling - self.bound) / 4):
                self.effort *= 2
                undecided = math.inf
                self._descend()
                continue
            threshold = min(ceiling, (self.bound + undecided) / 2)
            before = self.makespan
            if not self._decide(threshold):
                if undecided == math.inf:
                    self._descend()
                undecided = min(threshold, self._ceiling())
            elif self.makespan < before:
                undecided = math.inf
                self._improve()

    def _compose(self, plenty: float) -> None:
        """Where copies are many, compose counts of cells at thresholds between bound and makespan."""
        if self.problem.num_redundant < _COMPOSED * self.problem.num_experts:
            return
        floor = self.bound
        deadline = self.limits.deadline - self._kept()
        while self._ceiling() - floor > _FINE * self.gap * floor and time.perf_counter() < deadline:
            threshold = (floor + self._ceiling()) / 2
            counts = compose(self.load, threshold, self.problem.num_gpus, plenty, deadline)
            if counts is None:
                floor = threshold
            else:
                self._accept(counts)

    def _tighten(self) -> None:
        """Raise the bound to the relaxation's, by bisection.

        The least excess may be 0 over a whole range of thresholds, so only its sign is used.
        """
        if self.tightened:
            return
        self.tightened = True
        high = self._ceiling()
        while high - self.bound > max(self.gap, _PRECISION) * self.bound / 2 and not self._late():
            threshold = (self.bound + high) / 2
            if not self._refute(threshold):
                high = threshold

    def _refute(self, threshold: float) -> bool:
        """Solve the relaxation at ``threshold``; whether the bound has come so far."""
        columns = self._columns(threshold)
        if columns is None:
            self._prove(threshold, "pairing_lp", [])
        elif not self._late():
            self._weigh(columns)
        return self.bound >= threshold

    def _weigh(self, columns: Columns) -> NDArray[np.int64]:
        """Solve the relaxation; its weights bound at every threshold: raise the bound to the largest they refute."""
        weights = relax(columns, self.limits.deadline)
        weighted = witness(columns, weights)
        bound = largest_refuted(
            self.load, self.problem.slots, self.problem.max_replicas, weighted, self.bound, self._ceiling()
        )
        self._prove(bound, "pairing_lp", [weighted])
        return weights

    def _descend(self) -> None:
        """Bisect between bound and makespan: refuted by relaxation, reached by repair, or given up."""
        self._tighten()
        if self.descended == self.effort:
            return  # it would repeat itself
        self.descended = self.effort
        self._compose(_PLENTY * math.sqrt(self.effort / _EFFORT))
        floor, steps = self.bound, round(_STEPS * self.effort)
        while self._ceiling() > floor * (1 + self.gap) and not self._late():
            threshold = (floor + self._ceiling()) / 2
            left = self._relax(threshold)
            counts = None if left is None else self._repair(left, steps)
            if counts is None:
                floor = threshold
            else:
                self._accept(counts)

    def _repair(self, left: _Left, steps: int) -> NDArray[np.int64] | None:
        for columns in left.likely:
            mended = partial(repair, columns, left.favoured, steps, self.limits.seed)
            counts = stoppable(mended, self.limits.deadline)
            if counts is not None:
                return counts
        return None

    def _ceiling(self) -> float:
        """The threshold whose refutation closes the layer."""
        return self.makespan / (1 + self.gap)

    def _closed(self) -> bool:
        return self.makespan <= self.bound * (1 + self.gap)

    def _late(self) -> bool:
        return self.limits.left <= self.round

    def _kept(self) -> float:
        """Seconds that the search for counts leaves to the bisection for a bound, where it has not been."""
        left = self.limits.left
        return 0.0 if self.tightened or left == math.inf else min(_BISECTION * self.round, left / 4)

    def _accept(self, counts: NDArray[np.int64]) -> None:
        makespan = paired_makespan(self.load, counts, self.problem.slots)
        if makespan < self.makespan:
            self.counts, self.makespan = counts, makespan

    def _improve(self, per_slot: int = STEPS_PER_SLOT, patience: int = PATIENCE) -> None:
        """Anneal the best counts, as long as there is time for the bound as well."""
        if not self._closed():
            target = self.bound * (1 + self.gap)
            steps, seed = per_slot * self.problem.slots, self.limits.seed
            work = partial(anneal, self.load, self.counts, self.problem, target, steps, seed, patience)
            self._accept(stoppable(work, self.limits.deadline - self._kept()))

    def _columns(self, threshold: float) -> Columns | None:
        columns = columns_at(self.load, threshold * (1 + MARGIN), self.problem.slots, self.problem.max_replicas)
        if columns is not None:
            self.round = self.listing + len(columns.expert) * _SECONDS_PER_COLUMN
        return columns

    def _relax(self, threshold: float) -> _Left | None:
        """Refute ``threshold`` by relaxation (None), or return the counts it leaves."""
        columns = self._columns(threshold)
        rounds: list[dict[str, Any]] = []
        while columns is not None:
            if self._late():
                return _Left(columns, [], self.counts, rounds)
            weights = self._weigh(columns)
            rounds.append(witness(columns, weights))
            possible = exclude(columns, weights)
            if not possible.any():
                break
            likely = [restrict(columns, exclude(columns, weights, share)) for share in _LIKELY]
            favoured = columns.count[cheapest(columns, weights)]
            columns = restrict(columns, possible)
            if possible.mean() > _STALLED:
                return _Left(columns, likely, favoured, rounds)
        self._prove(threshold, "pairing_lp", rounds)
        return None

    def _decide(self, threshold: float) -> bool:
        """Refute ``threshold`` or find counts that reach it; False if neither with the present effort."""
        left = self._relax(threshold)
        if left is None or self._grow(threshold, left):
            return True
        if len(left.possible.expert) > _MANY:
            self._descend()
        if self._late():
            return False
        if self.makespan <= threshold or self._search(left.likely[0]).counts is not None:
            return True
        if len(left.possible.expert) > _MANY * self.effort / _EFFORT:
            return False
        if len(left.possible.expert) > _MANY / 2:
            self._tighten()  # lest time run out with a poor bound
        verdict = self._search(left.possible)
        undecided = verdict.counts is None and not verdict.infeasible
        if undecided and self.effort == _EFFORT and not self._late():
            self._descend()
            self.effort *= 4
            return self.makespan <= threshold or self._decide(threshold)
        if verdict.infeasible:
            self._prove(threshold, "pairing_cpsat", left.rounds)
        return verdict.infeasible or verdict.counts is not None

    def _grow(self, threshold: float, left: _Left) -> bool:
        """Where few columns are left: whether a tree refutes ``threshold`` or meets counts that reach it."""
        if len(left.possible.expert) > _FEW or self._late():
            return False
        grown = grow(left.possible, self.limits)
        if grown.tree is not None:
            tree = {"witnesses": list(grown.witnesses), "nodes": grown.tree}
            self._prove(threshold, "pairing_tree", left.rounds, tree)
        if grown.counts is not None:
            self._accept(grown.counts)
        return self.bound >= threshold or self.makespan <= threshold

    def _search(self, columns: Columns) -> Verdict:
        """Let CP-SAT choose among ``columns``."""
        verdict = decide(columns, self.counts, max(self.limits.left, 0.01), self.effort, self.limits)
        if verdict.counts is not None:
            self._accept(verdict.counts)
        return verdict

    def _prove(
        self, bound: float, source: str, rounds: list[dict[str, Any]], tree: dict[str, Any] | None = None
    ) -> None:
        if bound > self.bound:
            certificate: Certificate = {"method": source, "threshold": bound, "rounds": rounds, **(tree or {})}
            self.bound, self.proven = bound, Bound.of_layer(bound, source, certificate)
