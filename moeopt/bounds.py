"""Combinatorial lower bounds: no placement of the problem can have a smaller makespan.

Every function takes a problem and returns ``[layers]`` float64 values, NaN where it has nothing
to say, and carries its proof. All hold in the problem's widest reading (colocation and empty
slots allowed). Notation: loads ``w_1 >= w_2 >= ...`` of one layer, ``m`` GPUs, ``k`` slots a GPU,
``R`` redundant slots, ``S_t`` the sum of the ``t`` smallest loads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeopt.balancers.greedy_replication import replicate
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bound:
    """The best of several bounds: ``value [layers]`` and the name of what proves each."""

    value: Floats
    source: tuple[str, ...]


def mean_load(problem: PlacementProblem) -> Floats:
    """Mean GPU load: some GPU carries at least the mean; rounded up where makespans are integers."""
    return _quotient(_total(problem.load.values), problem.num_gpus, problem)


def hottest_replica(problem: PlacementProblem) -> Floats:
    """Largest replica load under the best choice of replica counts.

    Proof: some GPU holds the hottest replica, so the makespan is at least ``max_e w_e / c_e``,
    and greedy replication minimises that maximum over all counts with ``sum c_e <= slots``.
    With groups and nodes, an expert can be copied only within the node of its group: the group's
    own experts share at most ``redundant / nodes`` extra copies, which gives a bound per group.
    O(layers * slots * log experts).
    """
    value = _min_max_replica(problem.load.values, problem.slots)
    if problem.hierarchical:
        size = problem.num_experts // problem.num_groups
        groups = problem.load.values.reshape(-1, size)
        per_group = _min_max_replica(groups, size + problem.num_redundant // problem.num_nodes)
        value = np.maximum(value, per_group.reshape(problem.num_layers, -1).max(axis=1))
    return value


def hottest_with_companions(problem: PlacementProblem) -> Floats:
    """Hottest replica plus the cheapest possible load in the other slots of its GPU.

    Proof: the GPU of the hottest replica has ``k-1`` further slots. Let its replicas and empty
    slots there use up ``r <= R`` redundancy in all (an expert with ``c`` copies uses ``c-1``, an
    empty slot one). Spending a unit on leaving a slot empty saves that slot's whole load, more
    than any split does: ``i`` copies of one expert with ``c >= i`` copies cost ``i*w/c`` and use
    ``c-1`` units; with ``c = i`` they cost ``w``, as one whole copy and ``i-1`` empty slots do,
    and for ``c > i`` emptying all ``i`` slots is cheaper and uses no more. So the companions
    weigh at least the ``k-1-R`` smallest loads, ``hottest_replica + S_{k-1-R}``.
    """
    ascending = np.sort(problem.load.values, axis=1)
    companions = max(problem.slots_per_gpu - 1 - problem.num_redundant, 0)
    return _down(hottest_replica(problem) + ascending[:, :companions].sum(axis=1), companions, problem)


def hottest_experts(problem: PlacementProblem) -> Floats:
    """Bound from the ``j`` hottest experts, ``1 <= j <= m``; partitions only.

    Proof: either the ``j`` hottest sit on ``j`` different GPUs, which then hold them and at least
    the ``j(k-1)`` smallest loads, so one of these GPUs has ``(w_1+..+w_j + S_{j(k-1)}) / j``; or
    two of them share a GPU, which then has at least ``w_{j-1} + w_j + S_{k-2}``. The smaller of
    the two holds for every ``j``. After Dell'Amico and Martello, "Bounds for the cardinality
    constrained P||Cmax problem", J. Scheduling 4 (2001), doi 10.1002/jos.68.
    """
    if problem.num_redundant:
        return _nothing(problem)
    return _hottest_items(problem.load.values, problem.num_gpus, problem)


def pigeonhole(problem: PlacementProblem) -> Floats:
    """Bound from ``q+1`` of the ``qm+1`` hottest experts on one GPU, ``1 <= q < k``; partitions only.

    Proof: of the ``qm+1`` hottest experts some GPU holds at least ``q+1``, at best the lightest
    ones, ``w_{qm-q+1} + .. + w_{qm+1}``, beside ``k-q-1`` others that weigh at least ``S_{k-q-1}``.
    """
    m, k = problem.num_gpus, problem.slots_per_gpu
    if problem.num_redundant or k < 2:
        return _nothing(problem)
    prefix, smallest = _prefix_sums(problem.load.values)
    q = np.arange(1, k)
    value = prefix[:, q * m + 1] - prefix[:, q * m - q] + smallest[:, k - q - 1]
    return _down(value.max(axis=1), problem.num_experts, problem)


def node_load(problem: PlacementProblem) -> Floats:
    """Load of the fullest node over its GPUs; hierarchical problems only.

    Proof: every node hosts ``groups / nodes`` whole groups and all copies of their experts, hence
    their whole load. The fullest node is at least any bound on partitioning the groups over the
    nodes in equal numbers (mean, ``hottest_experts``), and its fullest GPU at least its mean.
    """
    if not problem.hierarchical:
        return _nothing(problem)
    groups = problem.load.values.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2)
    fullest = _hottest_items(groups, problem.num_nodes, None)
    return _quotient(fullest, problem.num_gpus // problem.num_nodes, problem)


def moves_needed(problem: PlacementProblem) -> Floats:
    """Moves that no feasible placement can do without, ``[layers]``; needs a reference.

    Proof: an expert that the reference does not hold must be brought in; and where no slot may
    stay empty, at most the reference's copies can stay, the rest are moves.
    """
    if problem.reference is None:
        return _nothing(problem)
    counts = problem.reference.replica_count
    missing = (counts == 0).sum(axis=1)
    unfilled = 0 if problem.allow_empty_slots else problem.slots - counts.sum(axis=1)
    return np.maximum(np.maximum(missing, unfilled), 0).astype(float)


BOUNDS: dict[str, Callable[[PlacementProblem], Floats]] = {
    function.__name__: function
    for function in (mean_load, hottest_replica, hottest_with_companions, hottest_experts, pigeonhole, node_load)
}
"""Bounds on the makespan by name, in the order in which a tie is credited."""


def lower_bound(problem: PlacementProblem) -> Bound:
    """Best combinatorial bound on the problem's objective, per layer, and where it came from."""
    functions = BOUNDS if problem.objective == "makespan" else {"moves_needed": moves_needed}
    values = np.array([function(problem) for function in functions.values()])
    best = np.argmax(np.where(np.isnan(values), -np.inf, values), axis=0)
    names = tuple(functions)
    return Bound(values[best, np.arange(problem.num_layers)], tuple(names[i] for i in best))


def integral(problem: PlacementProblem) -> bool:
    """Whether every makespan is an integer: counts as loads, and no expert split."""
    return problem.load.is_integer and problem.num_redundant == 0


def _nothing(problem: PlacementProblem) -> Floats:
    return np.full(problem.num_layers, np.nan)


def _total(values: NDArray[np.int64] | Floats) -> Floats:
    """Row sums: exact for counts (LoadMatrix keeps them below 2**53), rounded down otherwise."""
    total = values.sum(axis=1)
    return total.astype(float) if values.dtype.kind == "i" else total * (1 - values.shape[1] * 2.0**-53)


def _quotient(total: Floats, divisor: int, problem: PlacementProblem) -> Floats:
    """``total / divisor``, rounded up where makespans are integers, else never above the true quotient."""
    if integral(problem):
        return np.ceil(total / divisor)
    exact = np.remainder(total, divisor) == 0
    return np.where(exact, total / divisor, np.nextafter(total / divisor, 0))


def _down(value: Floats, terms: int, problem: PlacementProblem | None) -> Floats:
    """Take the rounding of a sum of ``terms`` floats off, where the loads are not counts."""
    return value if problem is not None and integral(problem) else value * (1 - (terms + 2) * 2.0**-53)


def _min_max_replica(values: NDArray[np.int64] | Floats, num_replicas: int) -> Floats:
    _, share = replicate(values.astype(float), num_replicas)
    hottest = share.max(axis=1)
    experts = values.shape[1]
    return hottest if num_replicas == experts else np.nextafter(hottest, 0)


def _prefix_sums(values: NDArray[np.int64] | Floats) -> tuple[Floats, Floats]:
    """Sums of the ``t`` largest and of the ``t`` smallest values, ``[layers, t = 0..items]``."""
    ascending = np.sort(values, axis=1).astype(float)
    zero = np.zeros((len(values), 1))
    smallest = np.concatenate([zero, np.cumsum(ascending, axis=1)], axis=1)
    largest = np.concatenate([zero, np.cumsum(ascending[:, ::-1], axis=1)], axis=1)
    return largest, smallest


def _hottest_items(values: NDArray[np.int64] | Floats, m: int, problem: PlacementProblem | None) -> Floats:
    """``hottest_experts`` for any items spread over ``m`` sets in equal numbers."""
    items = values.shape[1]
    k = items // m
    largest, smallest = _prefix_sums(values)
    j = np.arange(1, m + 1)
    apart = (largest[:, j] + smallest[:, j * (k - 1)]) / j
    if problem is not None and integral(problem):
        apart = np.ceil(apart)
    best = apart[:, 0]
    if k > 1 and m > 1:
        sharing = largest[:, j[1:]] - largest[:, j[1:] - 2] + smallest[:, [k - 2]]
        best = np.maximum(best, np.minimum(apart[:, 1:], sharing).max(axis=1))
    elif m > 1:
        best = np.maximum(best, apart[:, 1:].max(axis=1))
    return _down(best, items, problem)
