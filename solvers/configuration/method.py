"""Configuration LP (Gilmore-Gomory): prices on experts that no lightly loaded GPU can collect."""

from __future__ import annotations

import functools
import math
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._stop import stoppable
from moeopt.balancers.triples import COLD, HOT, LEANS, pack_triples
from moeopt.bounds import Bound
from moeopt.errors import InputError, UnsupportedError
from moeopt.methods import even_split, made_for, refuses
from moeopt.problem import PlacementProblem
from moeopt.replication import divisor_counts
from moeopt.solution import DEFAULT_TOLERANCE, FLOAT_RESOLUTION, Solution
from solvers.configuration.dual import ConfigurationBound, Dual
from solvers.configuration.master import fill_contents
from solvers.configuration.tree import Tree
from solvers.drive import Limits, Progress, Start, drive

Floats = NDArray[np.float64]

MAX_PAIRS = {2: 200_000, 3: 50_000, 4: 1_000}
"""Pairs of expert and replica count that pricing can take, by slots per GPU: it is quadratic, at four slots cubic."""


def configuration_bound(
    loads: Any,
    num_gpus: int,
    slots_per_gpu: int,
    *,
    target: float | None = None,
    time_limit: float | None = None,
) -> ConfigurationBound:
    r"""Lower bound on the makespan of one layer from prices on its experts.

    Parameters
    ----------
    loads
        ``[experts]`` loads >= 0.
    num_gpus, slots_per_gpu
        GPUs and slots on each, 2 to 4; at least one slot per expert in all.
    target
        Stop as soon as this value is proven.
    time_limit
        Seconds; the best bound so far is returned. None = until the LP is solved.

    Returns
    -------
    ConfigurationBound
        The bound, with a certificate ``{"method": "configuration_lp", "prices": [int per expert],
        "needed": int, "threshold": float}`` that JSON carries unchanged.

    Raises
    ------
    InputError
        For loads that are not one layer's, or more experts than slots.
    UnsupportedError
        For one slot or more than four slots per GPU, or more pairs of expert and count than ``MAX_PAIRS``.

    Notes
    -----
    **The bound.** Give every expert an integer price :math:`p_e \ge 0`, and a replica of an expert
    with ``c`` replicas the price ``ceil(p_e / c)``. All replicas of all experts together cost at
    least ``sum(p)``, so some GPU holds replicas worth at least ``needed = ceil(sum(p) / num_gpus)``.
    Hence the makespan is at least the least load of any ``slots_per_gpu`` or fewer replicas that
    are worth ``needed`` together, each of any expert in any number of copies
    ``1 <= c <= slots - experts + 1`` (more copies leave another expert without a slot). Neither
    colocation nor empty slots nor the hierarchy are excluded, so the bound holds in every reading
    that has the copies of an expert share its load equally.
    With prices = loads it is the mean load.

    **The exact check.** With Python integers or fractions: every entry of ``prices`` is an integer
    >= 0, ``needed * num_gpus <= sum(prices) + num_gpus - 1``, and no multiset of at most
    ``slots_per_gpu`` pairs ``(e, c)`` has ``sum(ceil(prices[e] / c)) >= needed`` and
    ``sum(loads[e] / c) < threshold``. Sorting the pairs by load and keeping those more valuable than every
    lighter one leaves few; for three slots one pass with two pointers for each is exact.

    **The best prices** solve the dual of the configuration LP with replica counts: maximise
    ``sum(p)`` such that no content of load <= T is worth more than 1. One variable an expert (for
    given prices, the count columns are priced by ``p_e / c``), one constraint a content, found by pricing.
    T is raised to the best bound proven so far after every round: rows found at a lower T stay
    valid, and the LP is solved where no prices beat ``num_gpus``. Prices are separated halfway
    between the LP's and the best ones known, which damps their swings.

    Gilmore and Gomory, "A linear programming approach to the cutting-stock problem", Operations
    Research 9 (1961), doi 10.1287/opre.9.6.849. A round is O((experts * (redundant + 1))^2) for
    three slots at worst, far less after dominance.

    Examples
    --------
    >>> from solvers import configuration_bound
    >>> round(configuration_bound([9, 5, 4, 2], num_gpus=2, slots_per_gpu=3).value, 6)
    10.0
    """
    problem = PlacementProblem(loads, num_gpus, num_gpus * slots_per_gpu)
    if problem.num_layers != 1:
        raise InputError(f"loads must be those of one layer, got {problem.num_layers} layers")
    loads = problem.load.values[0].astype(float)
    if slots_per_gpu not in MAX_PAIRS:
        raise UnsupportedError(f"the configuration LP covers 2 to 4 slots per GPU, not {slots_per_gpu}")
    if _pairs(problem) > MAX_PAIRS[slots_per_gpu]:
        raise UnsupportedError(
            f"the configuration LP takes at most {MAX_PAIRS[slots_per_gpu]} pairs of expert and replica count "
            f"at {slots_per_gpu} slots per GPU, not {_pairs(problem)}"
        )
    if not loads.any():
        nothing = {"method": "configuration_lp", "prices": [0] * len(loads), "needed": 0, "threshold": 0.0}
        return ConfigurationBound(0.0, nothing, 0.0)
    return Dual(loads, num_gpus, slots_per_gpu).climb(target, time_limit)


def _pairs(problem: PlacementProblem) -> int:
    return problem.num_experts * (problem.num_redundant + 1)


def _reason(problem: PlacementProblem) -> str:
    return made_for(problem, 3) or even_split(problem)


@refuses(_reason)
def solve_configuration(
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
    """Near-optimal placement and configuration-LP bound for three slots per GPU.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads on GPUs of three slots; no hierarchy, no move limit.
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`. Without a time limit a layer ends when it is closed or some two
        hundred walks have failed; ``workers`` change nothing, since this method has a single thread.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.
    UnsupportedError
        For another number of slots per GPU, a hierarchical or a move-limited problem.

    Notes
    -----
    Replica counts of EPLB, then of other divisor methods, are packed under the combinatorial bound times
    ``1 + tolerance`` by a walk over partial partitions (``pack_triples``). Where that fails, the configuration LP
    raises the bound, and with it the ceiling for the packing. Where it shares a hot expert between two
    counts, branching on them raises the bound further (``Tree``). Its prices leave few contents for a GPU
    where the bound is far above the mean load; branch and bound then chooses contents and counts
    (``fill_contents``), without a claim about what it does not find. Its primal solution proposes
    other counts for the walk, and its prices say which replicas must share a GPU.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_configuration
    >>> found = solve_configuration(PlacementProblem([[9, 5, 4, 2]], num_gpus=2, num_slots=6))
    >>> found.status[0].name, found.makespan.tolist(), found.lower_bound.tolist()
    ('OPTIMAL', [10.0], [10.0])
    """
    limits = Limits(time_limit, tolerance, workers, seed)
    return drive(problem, solve_layer, limits, start=start, jobs=jobs, budget=budget, progress=progress)


@refuses(_reason)
def solve_layer(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve one layer, given what is known about it."""
    return _LayerSearch(known, limits).run()


_ROUNDS = (
    (1, 12, False), (8, 2, False), (3, 2, False), (1, 4, True), (32, 4, True), (8, 4, True), (3, 4, True),
    (1, 200, False),
)  # fmt: skip
"""Packings from the relaxation: gaps above the bound, walks, branch and bound after them. A near miss is worth it."""

_NEAR_MISSES = (32, 8, 4, 2)
"""Gaps above the bound under which the first counts of a relaxation are packed where they do not fit below it."""

_MASTER_SHARE = 0.75
"""Share of the time left that one branch and bound may take."""

_STEPS, _FEWER_STEPS = 100_000, 40_000
"""Steps of a walk, and of the first ones by price: other counts are worth more than longer walks."""

_FIRST_WALKS = 2
"""Walks at a bound before linear programs raise it: most layers near their mean load need no more than one."""

_LOOSEST = 16
"""Gaps above the bound under which a first walk packs; a walk by size finds nothing more where the bound is further
above the mean load, and takes long."""

_SPREAD = 0.05
"""Standard deviation of the logarithms of random factors on loads, for other counts nearly in proportion."""

_MIX = 0.05
"""Share of the size in what a triple should collect, the rest is price: among triples worth the same, the fullest."""

_PRECIOUS_SLACK = 1e-3
"""Slack, in loads of a GPU, below which it sets the temperature of a walk: the mean load is the bottleneck."""

_FIRST_WASTE, _LAST_WASTE = 0.1, 0.01
"""First and last temperature of other walks by price, on all GPUs together."""

_TREE_SHARE = 0.5
"""Share of the time left that branching on counts may take, before the last walks."""


class _LayerSearch:
    """One layer: the best placement so far, the best bound so far, and the steps that close the gap."""

    def __init__(self, known: Solution, limits: Limits) -> None:
        self.known, self.problem, self.limits = known, known.problem, limits
        self.random = np.random.default_rng(limits.seed)
        self.gap = 0.99 * max(limits.tolerance, FLOAT_RESOLUTION)
        self.load = self.problem.load.values[0].astype(float)
        self._near = float(self.load.sum()) / self.problem.num_gpus * (1 + _LOOSEST * self.gap)
        self.bound = 0.0 if np.isnan(known.lower_bound[0]) else float(known.lower_bound[0])
        self.proven = Bound.unknown(1)
        self.makespan = math.inf
        self.phy2log: NDArray[np.int64] | None = None

    def run(self) -> Solution:
        if self.known.placement is not None:
            self._accept(self.known.placement.phy2log[0])
        self._pack_by_size()
        if _pairs(self.problem) <= MAX_PAIRS[3]:
            self._use_relaxation()
        return Solution(self.problem, self.phy2log, self.proven, self.limits.stop)

    def _use_relaxation(self) -> None:
        """Raise the bound and with it the ceiling; then take the relaxation's counts as well.

        A quarter of a gap, which one linear program gives, often suffices: try before the bisection.
        """
        if self._closed() or not self.load.any():
            return
        dual = Dual(self.load, self.problem.num_gpus, self.problem.slots_per_gpu)
        for highest, walks in ((self.bound * (1 + self.gap / 4), _FIRST_WALKS), (math.inf, len(LEANS))):
            self._raise_bound(dual, highest)
            if self.bound <= self._near:
                for counts in self.in_proportion[:walks]:
                    self._pack(counts, dual.prices / (1 + self.gap), 1, _FEWER_STEPS)
        tree = Tree(dual)
        for looser, walks, branch in _ROUNDS:
            if self._open() and self.makespan > self._ceiling(looser):
                if branch or self.bound > self._near:
                    self._branch(tree)
                self._pack_relaxation(tree.least.dual, looser, walks, branch)

    def _open(self) -> bool:
        return not self._closed() and not self.limits.late

    def _closed(self) -> bool:
        return self.makespan <= self.bound * (1 + self.gap)

    def _ceiling(self, looser: int) -> float:
        return self.bound * (1 + looser * self.gap)

    def _accept(self, phy2log: NDArray[np.int64]) -> None:
        counts = np.bincount(phy2log[phy2log >= 0], minlength=len(self.load))
        share = np.append(self.load / np.maximum(counts, 1), 0.0)
        makespan = float(share[phy2log].reshape(-1, 3).sum(axis=1).max())
        if makespan < self.makespan:
            self.phy2log, self.makespan = phy2log, makespan

    @functools.cached_property
    def in_proportion(self) -> list[NDArray[np.int64]]:
        """Different counts of divisor methods: they have the most packings where the mean load is the bottleneck."""
        counts = (divisor_counts(self.load, self.problem.slots, lean) for lean in LEANS)
        return list({tuple(some): some for some in counts}.values())

    def _draw_in_proportion(self) -> NDArray[np.int64]:
        """Counts that are nearly in proportion."""
        load = self.load * np.exp(_SPREAD * self.random.standard_normal(len(self.load)))
        return divisor_counts(load, self.problem.slots, float(self.random.choice(LEANS)))

    def _pack_by_size(self) -> None:
        """Walks with counts in proportion, while they come near the bound."""
        for looser in (_LOOSEST, 4):
            self._pack(self.in_proportion[0], None, looser, 300_000 // looser)
            if self.makespan > self._ceiling(looser) or self.bound > self._near:
                return
        for counts in self.in_proportion[:_FIRST_WALKS]:
            self._pack(counts, None, 1)

    def _pack_relaxation(self, dual: Dual, looser: int, walks: int, branch: bool) -> None:
        """Pack the LP's counts at a ceiling, or others, by its prices; or fill contents near them."""
        ceiling = self._ceiling(looser)
        relaxation = dual.relax(ceiling, self.limits.deadline)
        if relaxation is None:
            return
        for walk in range(walks):
            if not self._open() or self.makespan <= ceiling:
                return
            if walk % 2 and self.bound <= self._near:
                counts = self._draw_in_proportion()
            else:
                counts = self._round(relaxation.shares, draw=walk > 0)
            self._pack(counts, relaxation.prices, looser, _STEPS if branch else _FEWER_STEPS)
            if walk < 2:
                for miss in _NEAR_MISSES:
                    self._pack(counts, relaxation.prices, miss)
                    if self.makespan > self._ceiling(miss):
                        break
        if branch and self._open() and self.makespan > ceiling and self.problem.allow_colocated:
            seconds = _MASTER_SHARE * self.limits.left
            full = not self.problem.allow_empty_slots
            phy2log = fill_contents(
                self.load, self.problem.num_gpus, ceiling, relaxation.prices, full=full, seconds=seconds
            )
            if phy2log is not None:
                self._accept(phy2log)

    def _round(self, shares: Floats, draw: bool) -> NDArray[np.int64]:
        """Take every expert's largest share, or draw by the shares; then mend the total where it costs least."""
        if draw:
            cumulative = np.cumsum(shares, axis=1)
            drawn = self.random.random((len(shares), 1)) * cumulative[:, -1:]
            counts: NDArray[np.int64] = 1 + np.argmax(cumulative > drawn, axis=1)
        else:
            counts = 1 + np.argmax(shares, axis=1)
        rank = np.arange(1, shares.shape[1] + 1)
        while (missing := self.problem.slots - int(counts.sum())) != 0:
            # The next count the relaxation also uses, or else the hottest replica split, the coolest merged.
            side = rank > counts[:, None] if missing > 0 else rank < counts[:, None]
            within = side & (np.abs(rank - counts[:, None]) <= abs(missing))
            expert, copies = np.unravel_index(np.argmax(np.where(within, shares, 0.0)), shares.shape)
            if within[expert, copies] and shares[expert, copies] > 0:
                counts[expert] = copies + 1
            elif missing > 0:
                counts[np.argmax(self.load / counts)] += 1
            else:
                counts[np.argmin(np.where(counts > 1, self.load / np.maximum(counts - 1, 1), np.inf))] -= 1
        return counts

    def _pack(self, counts: NDArray[np.int64], prices: Floats | None, looser: int, steps: int = _STEPS) -> None:
        """Try to pack these counts under the bound and ``looser`` gaps on top."""
        ceiling = self._ceiling(looser) or 1.0  # any ceiling will do for a layer without load
        if not self._open() or self.makespan <= ceiling or (self.load / counts).max() > ceiling:
            return
        owner = np.repeat(np.arange(len(counts)), counts)
        size = (self.load / counts)[owner] / ceiling
        slack = max(1.0 - float(size.sum()) / self.problem.num_gpus, 0.0)
        if prices is None or slack < _PRECIOUS_SLACK:
            first, last = HOT * slack + 1e-7, COLD * slack + 1e-7
        else:
            first, last = _FIRST_WASTE / self.problem.num_gpus, _LAST_WASTE / self.problem.num_gpus
        walk = partial(
            pack_triples,
            size,
            size if prices is None else _MIX * size + (1 - _MIX) * (prices / counts)[owner],
            owner,
            distinct=not self.problem.allow_colocated,
            temperature=(first, last),
            cooling=steps // 3,
            steps=steps,
            seed=int(self.random.integers(1 << 31)),
        )
        triples = stoppable(lambda stop: walk(stop=stop), self.limits.deadline)
        if triples is not None:
            self._accept(owner[triples].ravel())

    def _raise_bound(self, dual: Dual, highest: float) -> None:
        if self._open():
            left = None if math.isinf(self.limits.deadline) else self.limits.left
            found = dual.climb(min(self.makespan / (1 + self.gap), highest), left)
            self._improve(found.value, "configuration_lp", found.certificate)

    def _branch(self, tree: Tree) -> None:
        """Raise the bound by branching on the counts of hot experts."""
        tree.grow(self.makespan / (1 + self.gap), time.perf_counter() + _TREE_SHARE * self.limits.left)
        self._improve(tree.bound, "configuration_tree", tree.certificate)

    def _improve(self, bound: float, source: str, certificate: dict[str, Any]) -> None:
        if bound > self.bound:
            self.bound = bound
            self.proven = Bound.of_layer(bound, source, certificate)
