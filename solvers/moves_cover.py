"""Fewest moves of partitions: contents of GPUs that prices leave worth having, and covers of all experts by them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._stop import Flag, stoppable
from moeopt.bounds import Bound, lower_bound
from moeopt.covers import find_cover, whole_loads
from moeopt.methods import refusal, refuses
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from solvers._contents import list_contents, worth_of_rest
from solvers.drive import Limits
from solvers.moves_bound import moves_bound, too_many_slots

Floats = NDArray[np.float64]

MAX_EXPERTS = 1024
"""Experts beyond which tables and bit masks grow too large to be quick."""

MAX_CONTENTS = 200_000
"""Contents of all GPUs that prices may leave; more are seldom searched to the end."""

_STEPS = 512
"""Steps of the ceiling in the table that prunes the listing."""

_PRICES_SHARE = 0.6
"""Share of the time left that the prices may take."""

_WORK = 300_000_000
"""Contents that one search for covers may look at: a second or two."""

_TABLE = 1 << 17
"""Sets of experts remembered as leaving no cover: two megabytes."""

_FINEST = 10
"""Halvings of a move from which on the most that contents are worth is looked for below what the table says."""


def _reason(problem: PlacementProblem) -> str:
    if problem.objective != "moves":
        return "is on moves"
    if problem.num_redundant or problem.hierarchical:
        return "is for partitions without groups"
    if problem.num_experts > MAX_EXPERTS:
        return f"takes at most {MAX_EXPERTS} experts, got {problem.num_experts}"
    return too_many_slots(problem)


@refuses(_reason)
def solve_layer(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    r"""Prove the fewest moves of one layer without replicas, or find them.

    Let :math:`\pi_e` be a price of every expert, :math:`v_g(C)` the prices of contents ``C`` of a GPU less one for each
    arrival, and :math:`V_g` the most that contents within the ceiling have. A placement with ``M`` moves has
    :math:`\sum_g v_g = \sum_e \pi_e - M`, so what its contents lack of the :math:`V_g` adds up to exactly
    :math:`M - (\sum_e \pi_e - \sum_g V_g)`. Where the prices are those of a good bound that is little, and few contents
    lack so little. They are listed, and a depth-first search decides whether some of them, one for each GPU, hold
    every expert once. ``M`` rises from the bound; the first that has a cover is the optimum.

    References
    ----------
    R. Baldacci, N. Christofides, A. Mingozzi, "An exact algorithm for the vehicle routing problem based on the set
    partitioning formulation with additional cuts", Math. Program. 115 (2008), doi 10.1007/s10107-007-0178-5.
    """
    return _covered(known, known.objective, limits)


def proven_moves(problem: PlacementProblem, *, time_limit: float | None = None, target: Floats | None = None) -> Bound:
    """Lower bound on the moves that keep ``max_makespan``: prices on copies, and covers where there are no replicas.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads with ``reference`` and ``max_makespan``.
    time_limit
        Seconds per layer; None = until neither gets any further.
    target
        ``[layers]`` moves of the best placements known: a layer is left as soon as they are proven needed.

    Raises
    ------
    InputError, UnsupportedError
        As :func:`solvers.moves_bound.moves_bound`.
    """
    if refusal(solve_layer, problem):
        return moves_bound(problem, time_limit=time_limit, target=target)
    fewest = np.full(problem.num_layers, np.nan) if target is None else target
    parts = []
    for i in range(problem.num_layers):
        known = Solution(problem[i], bound=lower_bound(problem[i]))
        parts.append(known.join(_covered(known, fewest[i : i + 1], Limits(time_limit).started())).bound)
    return Bound.stack(parts)


def _covered(known: Solution, fewest: Floats, limits: Limits) -> Solution:
    """Prices and covers for one layer; ``fewest [1]`` moves are known to do, NaN = none."""
    seconds = None if math.isinf(limits.left) else _PRICES_SHARE * limits.left
    bound = moves_bound(known.problem, time_limit=seconds, target=fewest)
    found = Solution(known.problem, bound=bound)
    known = known.join(found)
    certificate = bound.certificate[0]
    if certificate is None or known.lower_bound[0] >= fewest[0]:
        return found
    return found.join(LayerSearch(known, fewest[0], certificate, limits).run())


class LayerSearch:
    """One layer in whole numbers, hottest expert first, with a price for every expert."""

    def __init__(self, known: Solution, fewest: float, certificate: dict[str, Any], limits: Limits) -> None:
        self.problem, self.limits = known.problem, limits
        self.least = int(known.lower_bound[0])
        # no placement has more moves than experts
        self.fewest = int(np.nanmin([fewest, self.problem.num_experts]))
        true = self.problem.load.values[0]
        self.order = np.argsort(-true, kind="stable")
        whole, digits = whole_loads(true)
        self.load = whole[self.order]
        self.most = math.floor(math.ldexp(float(self.problem.highest_makespan[0]), digits))
        self.unit = int(certificate["unit"])
        prices = np.array([row[0] for row in certificate["bring"]])
        stays = np.zeros((self.problem.num_gpus, self.problem.num_experts), dtype=bool)
        for gpu, expert, price in certificate["keep"]:
            prices[expert] = min(prices[expert], price)
            stays[gpu, expert] = True
        self.prices = prices
        self.value = np.ascontiguousarray(np.where(stays, prices, prices - self.unit)[:, self.order])
        self.size = np.minimum(self.load * _STEPS // max(self.most, 1), _STEPS + 1)
        self.rest = np.empty((self.load.size + 1, self.problem.slots_per_gpu + 1, _STEPS + 1), dtype=np.int64)
        self.worth: list[int] = []
        self.proven = Bound.unknown(1)
        self.phy2log: NDArray[np.intp] | None = None

    def run(self) -> Solution:
        """Raise the moves from the bound until a placement has so few."""
        if not stoppable(self._appraise, self.limits.deadline):
            return Solution(self.problem, stop=self.limits.stop)
        moves = self.least
        while moves < self.fewest and not self.limits.late:
            if self._decide(moves) is not False:
                break
            moves += 1
            self._prove(moves)
        return Solution(self.problem, self.phy2log, self.proven, self.limits.stop)

    def _appraise(self, stop: Flag) -> bool:
        """Bound what the contents of every GPU are worth; False where that fails."""
        for gpu in range(self.problem.num_gpus):
            worth_of_rest(self.value[gpu], self.size, self.rest)
            highest, below = int(self.rest[0, -1, -1]), self.unit >> _FINEST
            listed = self._list(gpu, highest - below, stop)
            while listed is not None and not listed[1].size and below < self.unit << _FINEST:
                below *= 2
                listed = self._list(gpu, highest - below, stop)
            if stop[0] or (listed is not None and not listed[1].size):
                return False
            # where too many are worth that, none was worth half of ``below`` more
            self.worth.append(highest - below // 2 if listed is None else int(listed[1].max()))
        return True

    def _list(self, gpu: int, least: int, stop: Flag) -> tuple[NDArray[np.uint16], NDArray[np.int64]] | None:
        """Contents of a GPU that are worth ``least`` or more, and what they are worth; None = too many."""
        contents = np.empty((MAX_CONTENTS, self.problem.slots_per_gpu), dtype=np.uint16)
        worth = np.empty(MAX_CONTENTS, dtype=np.int64)
        count = list_contents(
            self.value[gpu], self.size, self.load, self.most, self.rest, least, contents, worth, stop
        )  # fmt: skip
        return None if count < 0 else (contents[:count], worth[:count])

    def _decide(self, moves: int) -> bool | None:
        """Whether a placement has so many moves, which is then kept; None where that takes too long."""
        lacking = moves * self.unit - (int(self.prices.sum()) - sum(self.worth))
        return False if lacking < 0 else stoppable(lambda stop: self._cover(lacking, stop), self.limits.deadline)

    def _cover(self, lacking: int, stop: Flag) -> bool | None:
        experts, gpus = self.load.size, self.problem.num_gpus
        parts, slacks = [], []
        for gpu in range(gpus):
            worth_of_rest(self.value[gpu], self.size, self.rest)
            listed = self._list(gpu, self.worth[gpu] - lacking, stop)
            if listed is None:
                return None
            parts.append(np.insert(listed[0], listed[0].shape[1], experts + gpu, axis=1))
            slacks.append(self.worth[gpu] - listed[1])
        members, slack = np.concatenate(parts), np.concatenate(slacks)
        if len(slack) > MAX_CONTENTS:
            return None
        least_first = np.argsort(slack, kind="stable")
        members, slack = members[least_first], slack[least_first]
        cover, table = np.zeros(gpus, dtype=np.int64), np.zeros((_TABLE, -(-(experts + gpus) // 64)), dtype=np.uint64)
        found = find_cover(members, slack, lacking, table, np.array([_WORK]), cover, stop)
        if found == 1:
            slots = self.order[members[cover[np.argsort(members[cover, -1])], :-1]]
            if self.problem.load.values[0, slots].sum(axis=1).max() > self.problem.highest_makespan[0]:
                return None  # within the ceiling by rounded loads alone
            self.phy2log = slots.ravel()
        return None if found < 0 else bool(found)

    def _prove(self, moves: int) -> None:
        certificate = {
            "method": "moves_cover",
            "moves": moves,
            "unit": self.unit,
            "prices": self.prices.tolist(),
            "worth": self.worth,
        }
        self.proven = Bound.of_layer(moves, "moves_cover", certificate)
