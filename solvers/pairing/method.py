"""Two slots per GPU: search the replica counts, prove that no others do better."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from moeopt._stop import stoppable
from moeopt.balancers.pairing import PATIENCE, STEPS_PER_SLOT, anneal, greedy_counts, pair_up, paired_makespan
from moeopt.bounds import Bound, Certificate
from moeopt.methods import even_split, made_for, refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, FLOAT_RESOLUTION, Solution
from solvers.drive import Limits, Progress, Start, drive
from solvers.pairing.branch import STEPS, Left, Tree, squeeze
from solvers.pairing.compose import compose
from solvers.pairing.decide import decide
from solvers.pairing.dives import parts
from solvers.pairing.model import (
    MARGIN,
    MAX_COLUMNS,
    Columns,
    Integers,
    columns_at,
    largest_refuted,
    replica_cost,
    restrict,
    witness,
)
from solvers.pairing.relaxation import relax
from solvers.pairing.walks import SLOT, Walks

_FIRST_STEPS = 30
"""Steps per slot in the annealing before the first relaxation, which says little about a poor makespan."""

_EFFORT = 1.6
"""CP-SAT's first deterministic time, about its seconds; raised where it does not suffice."""

_TREE = 6_000_000
"""Columns weighed in a tree before, per unit of that effort: about an eighth of its time."""

_SMALL = 2_000_000
"""Columns weighed in a tree on a part of what is left."""

_FEW = 500
"""Columns left of which CP-SAT may dispose in less time than a dive takes, so that it is asked before."""

_GLANCE = 1 / 64
"""Part of the effort that CP-SAT has for that."""

_LOOK = 1 / 32
"""Part of the effort that CP-SAT has on the way."""

_NEAREST = 1 / 16
"""Part of the distance to the makespan within which the bound of prices alone is found."""

_ROUNDS = 6
"""Rounds of prices that a further threshold begins with."""

_COMPOSED = 0.5
"""Redundant slots per expert from which counts are composed of cells: with fewer, cells are large."""

_SECONDS_PER_COUNT = 2e-7
"""What listing the counts of all experts takes; where no more than that is left, nothing new is begun."""

_SECONDS_PER_COLUMN = 2e-5
"""What a linear program on the columns of those counts takes; likewise."""

_BISECTION = 4
"""Linear programs, as slow as foreseen, whose time annealing leaves to what comes after it, a quarter at most."""


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
    searched. After an annealing, a linear relaxation gives a first bound, whose dual weights bound at every
    threshold (source ``pairing_lp``), and first prices of experts. Better prices, by ascent, refute higher
    thresholds, and strike out counts (``pairing_walks``; both certificates are re-checked in exact arithmetic).
    Between this bound and the makespan, thresholds are tried by bisection: dives settle most counts as the prices
    favour them, or as they are, and small trees of branches decide the others; where copies are about as many
    as experts, counts are composed of cells of few experts before. At last the makespan to beat, less the gap,
    is tried as a threshold: a tree of branches, with prices in each, refutes it (``pairing_tree``) or finds better
    counts; where it grows too large, CP-SAT does so (``pairing_cpsat``: rests on that solver's search).

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
        self.effort = _EFFORT
        self.random = np.random.default_rng(limits.seed)
        self.rounds: tuple[Integers, ...] = ()
        self.round = self.listing = len(self.load) * problem.max_replicas * _SECONDS_PER_COUNT

    def run(self) -> Solution:
        if self.known.placement is not None:
            self._accept(self.known.placement.replica_count[0])
        self._improve(_FIRST_STEPS, patience=1)
        if not self._closed() and not self._late():
            self._refute(self._ceiling())  # before the long annealing, lest time run out with a poor bound
        self._improve()
        self._close()
        placement = Placement(
            pair_up(self.load, self.counts, self.problem), self.problem.num_experts, self.problem.num_gpus
        )
        return Solution(self.problem, placement, self.proven, self.limits.stop)

    def _close(self) -> None:
        """Try the makespan to beat; where that takes too long, lower thresholds, then more effort.

        Thresholds close to the bound are quick to refute, those close to the best makespan quick to reach; the
        hard ones lie between.
        """
        undecided = math.inf
        self._tighten()
        self._approach()
        while not self._closed() and not self._late():
            ceiling = self._ceiling()
            if undecided - self.bound < max(self.gap * self.bound, (ceiling - self.bound) / 4):
                self.effort *= 4
                undecided = math.inf
                self._approach()
                continue
            threshold = min(ceiling, (self.bound + undecided) / 2)
            before = self.makespan
            if not self._decide(threshold):
                undecided = min(threshold, self._ceiling())
            elif self.makespan < before:
                undecided = math.inf

    def _tighten(self) -> None:
        """Raise the bound to what prices alone prove, by bisection; further rounds begin with the prices found."""
        threshold = self._ceiling()
        nearest = max(self.gap * self.bound, (threshold - self.bound) * _NEAREST)
        while threshold - self.bound > nearest and not self._closed() and not self._late():
            left = self._left(threshold)
            threshold = (self.bound + (self._ceiling() if left is None or left.nothing else threshold)) / 2

    def _approach(self) -> None:
        """Bisect between bound and makespan: refuted by prices, reached by a dive, or given up.

        A makespan that closes the layer will do.
        """
        floor = self.bound
        while self._ceiling() > floor + self.gap * self.bound / 2 and not self._closed() and not self._late():
            threshold = max((floor + self._ceiling()) / 2, self.bound * (1 + self.gap))
            left = self._left(threshold)
            if left is not None and not left.nothing and not self._compose(threshold):
                self._dive(left, threshold)
            if self.makespan > threshold:
                floor = max(threshold, self.bound)

    def _dive(self, left: Left, threshold: float) -> None:
        """Let CP-SAT look at what is left, if little, and grow small trees on parts, until the threshold is reached."""
        noisy = self.effort > _EFFORT
        if len(left.walks.at) <= _FEW and self._search(left, self.effort * _GLANCE):
            return
        for part in parts(left, self.counts, noisy, self.random, self.limits):
            Tree(part, self.limits).grow(partial(self._reaches, threshold), _SMALL)
            if self.makespan <= threshold or self._late():
                return
        self._search(left, self.effort * _LOOK)

    def _reaches(self, threshold: float, counts: Integers) -> bool:
        if counts.sum() <= self.problem.slots:
            self._accept(counts)
        return self.makespan <= threshold

    def _compose(self, threshold: float) -> bool:
        """Where copies are many, compose counts of cells; whether they reach the threshold."""
        if self.problem.num_redundant < _COMPOSED * self.problem.num_experts or self._late():
            return False
        plenty = math.sqrt(self.effort / _EFFORT)
        counts = compose(self.load, threshold, self.problem.num_gpus, plenty, self.limits.deadline)
        return counts is not None and self._reaches(threshold, counts)

    def _refute(self, threshold: float) -> None:
        """Solve the relaxation at ``threshold``; its weights bound at every one, and give the first prices."""
        columns = self._columns(threshold)
        if columns is not None and not self._late():
            weights = relax(columns, self.limits.deadline)
            weighted = witness(columns, weights)
            bound = largest_refuted(
                self.load, self.problem.slots, self.problem.max_replicas, weighted, self.bound, self._ceiling()
            )
            self._prove(bound, {"method": "pairing_lp", "rounds": [weighted]})
            if weights.any():
                cost = np.minimum.reduceat(columns.count * replica_cost(columns, weights), columns.first)
                self.rounds = (np.rint(cost / weights.sum() * SLOT).astype(np.int64),)

    def _decide(self, threshold: float) -> bool:
        """Refute ``threshold`` or find counts that reach it; False if neither with the present effort."""
        left = self._left(threshold)
        if left is None or left.nothing:
            return True
        tree = Tree(left, self.limits)
        if tree.grow(partial(self._reaches, threshold), self.effort * _TREE):
            if self.makespan > threshold:
                self._prove(threshold, tree.certificate)
            return True
        return not self._late() and self._search(left, self.effort)

    def _search(self, left: Left, effort: float) -> bool:
        """Let CP-SAT choose among the columns left; whether it decides."""
        columns = left.walks.columns
        possible = np.isin(np.arange(len(columns.expert)), left.walks.at)
        verdict = decide(restrict(columns, possible), self.counts, max(self.limits.left, 0.01), effort, self.limits)
        if verdict.counts is not None:
            self._accept(verdict.counts)
        elif verdict.infeasible:
            rounds = [prices.tolist() for prices in left.rounds]
            self._prove(columns.threshold / (1 + MARGIN), {"method": "pairing_cpsat", "rounds": rounds})
        return verdict.counts is not None or verdict.infeasible

    def _left(self, threshold: float) -> Left | None:
        """What the prices known and better ones leave of all columns; None if an expert has none to begin with."""
        columns = self._columns(threshold)
        if columns is None:
            return None
        experts = len(self.load)
        left = Left(Walks.over(columns, float(self.load.sum())), np.zeros(experts), np.ones(experts))
        for prices in self.rounds:
            if not left.nothing:
                left = left.strike(prices)
        left = squeeze(left, STEPS, self.limits)
        if left.nothing:
            self._prove(threshold, Tree(left, self.limits).certificate)
        else:
            self.rounds = left.rounds[-_ROUNDS:]
        return left

    def _ceiling(self) -> float:
        """The threshold whose refutation closes the layer."""
        return self.makespan / (1 + self.gap)

    def _closed(self) -> bool:
        return self.makespan <= self.bound * (1 + self.gap)

    def _late(self) -> bool:
        return self.limits.left <= self.round

    def _kept(self) -> float:
        """Seconds that the search for counts leaves to the search for a bound."""
        left = self.limits.left
        return 0.0 if left == math.inf else min(_BISECTION * self.round, left / 4)

    def _accept(self, counts: Integers) -> None:
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
        """All columns at a threshold; None if some expert has none, which refutes it."""
        columns = columns_at(self.load, threshold * (1 + MARGIN), self.problem.slots, self.problem.max_replicas)
        if columns is None:
            self._prove(threshold, {"method": "pairing_lp", "rounds": []})
        else:
            self.round = self.listing + len(columns.expert) * _SECONDS_PER_COLUMN
        return columns

    def _prove(self, bound: float, certificate: Certificate) -> None:
        if bound > self.bound:
            self.bound = bound
            self.proven = Bound.of_layer(bound, certificate["method"], {**certificate, "threshold": bound})
