"""Bounds for every problem: mean load, hottest replica, and what must sit beside it.

Notation: loads ``w_1 >= w_2 >= ..`` of one layer, ``m`` GPUs, ``k`` slots per GPU, ``R`` redundant
slots, ``S_t`` the sum of the ``t`` smallest loads. Proofs speak of equal shares; those for the optimal
split are in ``docs/bounds.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt.bounds._rounding import Floats, down, quotient, total_load
from moeopt.problem import PlacementProblem
from moeopt.replication import replicate


def mean_load(problem: PlacementProblem) -> Floats:
    """Mean GPU load: some GPU carries at least the mean; rounded up where makespans are integers.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 5, 4, 3]], num_gpus=2)
    >>> bounds.mean_load(problem).tolist()
    [11.0]
    """
    return quotient(total_load(problem.load.values), problem.num_gpus, problem)


def hottest_replica(problem: PlacementProblem) -> Floats:
    """Largest replica load under the best choice of replica counts.

    Proof: some GPU holds the hottest replica, so the makespan is at least ``max_e w_e / c_e``,
    and greedy replication minimises that maximum over all counts with ``sum c_e <= slots``.
    With groups and nodes, an expert can be copied only within the node of its group: the group's
    own experts share at most ``redundant / nodes`` extra copies, which gives a bound per group.
    O(layers * slots * log experts).

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> bounds.hottest_replica(PlacementProblem([[30, 5, 4, 2]], num_gpus=2)).tolist()
    [30.0]
    >>> bounds.hottest_replica(PlacementProblem([[30, 5, 4, 2]], num_gpus=2, num_slots=6)).round(6).tolist()
    [10.0]
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

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[30, 5, 4, 2]], num_gpus=2)
    >>> bounds.hottest_with_companions(problem).tolist()
    [32.0]
    """
    ascending = np.sort(problem.load.values, axis=1)
    companions = max(problem.slots_per_gpu - 1 - problem.num_redundant, 0)
    return down(hottest_replica(problem) + ascending[:, :companions].sum(axis=1), companions, problem)


def _min_max_replica(values: NDArray[np.int64] | Floats, num_replicas: int) -> Floats:
    _, share = replicate(values.astype(float), num_replicas)
    hottest = share.max(axis=1)
    experts = values.shape[1]
    return hottest if num_replicas == experts else np.nextafter(hottest, 0)
