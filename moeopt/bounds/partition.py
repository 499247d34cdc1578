"""Lower bounds for partitions (one copy of every expert) that look at where the hottest experts can sit.

Notation: loads ``w_1 >= w_2 >= ..`` of one layer, ``m`` GPUs, ``k``
slots per GPU, ``S_t`` the sum of the ``t`` smallest loads, ``H_j`` the sum of the ``j`` largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.bounds._rounding import Floats, integral
from moeopt.problem import PlacementProblem

_MAX_HOT_PAIRS = 4_000_000
"""How many (j, q) ``hot_on_few_gpus`` looks at in a layer; every j gives a bound, so fewer stay valid."""

_MOST_HOT = 6
"""Most hot experts ``hottest_gpus`` looks at."""

_MAX_NODES = 20_000


def hot_on_few_gpus(problem: PlacementProblem) -> Floats:
    """Bound from the ``j`` hottest experts and the number ``q`` of GPUs they occupy; partitions only.

    Proof: let the ``j`` hottest occupy exactly ``q`` GPUs, ``j/k <= q <= min(j, m)``. Some GPU holds
    ``i >= ceil(j/q)`` of them, which weigh at least the ``i`` lightest of the ``j``, beside ``k-i``
    other experts of weight at least ``S_{k-i}``; this sum does not fall as ``i`` grows, so the GPU has
    at least ``t_j(ceil(j/q))``, where ``t_j(i) = w_{j-i+1} + .. + w_j + S_{k-i}``. And the ``q`` GPUs
    hold all ``j`` beside ``qk-j`` other experts, so one of them has at least
    ``(H_j + S_{qk-j}) / q``. The larger of the two holds for this ``q``, the least over ``q`` for
    every placement, the greatest over ``j`` is returned. ``j`` = all experts gives the mean load,
    ``j <= m`` the bounds of Dell'Amico and Martello [1]_, ``j = qm + 1`` the pigeonhole principle.
    O(experts * GPUs) per layer, and never more than a few
    million steps: where that is exceeded only some ``j`` are used.

    References
    ----------
    .. [1] M. Dell'Amico, S. Martello, "Bounds for the cardinality constrained P||Cmax problem",
       J. Scheduling 4 (2001), doi 10.1002/jos.68

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 9, 9, 2, 2, 2, 2, 1]], num_gpus=2)
    >>> bounds.hot_on_few_gpus(problem).tolist()
    [21.0]
    """
    return _rounded(_hottest(problem)[0], problem)


def hottest_gpus(problem: PlacementProblem, *, max_nodes: int = _MAX_NODES) -> Floats:
    """Bound from solving the GPUs of the ``j`` hottest experts exactly, ``2 <= j <= 6``; partitions only.

    Proof: either the ``j`` hottest sit on ``j`` different GPUs. Their companions are ``j(k-1)`` other
    experts; replace the lightest of them by the lightest expert that is not one of the ``j``, the
    next by the next: no GPU gets heavier. So the fullest of the ``j`` GPUs has at least
    the least makespan ``K_j`` of dealing the ``j(k-1)`` lightest experts to GPUs that hold
    ``w_1 .. w_j``, ``k-1`` to each, found by exhaustive depth-first search. Or they occupy ``q < j``
    GPUs, and the bound of ``hot_on_few_gpus`` for that ``q`` holds. The smaller of the two holds
    for every ``j``. A search that grows beyond ``max_nodes`` gives no bound; the default costs about a
    milliseconds per layer, ten times as many nodes settle almost every recorded layer.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[21, 10, 10, 9, 3, 3]], num_gpus=2)
    >>> bounds.hottest_gpus(problem).tolist()
    [29.0]
    """
    return certified_hottest_gpus(problem, max_nodes=max_nodes)[0]


def hottest_experts(problem: PlacementProblem) -> list[list[int]]:
    """Ids of the ``j`` hottest experts on which ``hot_on_few_gpus`` rests, per layer."""
    return _ids(problem, _hottest(problem)[1])


def certified_hottest_gpus(
    problem: PlacementProblem, *, max_nodes: int = _MAX_NODES
) -> tuple[Floats, list[dict[str, Any]]]:
    """``hottest_gpus`` and what proves it again, per layer: the hottest experts whose formula and search to repeat.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[21, 10, 10, 9, 3, 3]], num_gpus=2)
    >>> value, certificate = bounds.certified_hottest_gpus(problem)
    >>> value.tolist(), certificate
    ([29.0], [{'method': 'hottest_gpus', 'hottest': [0, 1]}])
    """
    value, hot = _hottest_gpus(problem, max_nodes)
    certificates = [{"method": "hottest_gpus", "hottest": experts} for experts in _ids(problem, hot)]
    return _rounded(value, problem), certificates


def fullest_set(values: Floats, num_sets: int, known: Floats, *, max_nodes: int = _MAX_NODES) -> Floats:
    """Least weight of the fullest set when items are spread in equal numbers, by exhaustive search.

    Parameters
    ----------
    values
        ``[layers, items]`` weights.
    known
        ``[layers]`` lower bounds, returned where the search cannot raise them: where they are
        reached, and where it outgrows ``max_nodes``.
    """
    weights = np.concatenate([np.zeros((len(values), num_sets)), np.sort(values, axis=1)[:, ::-1]], axis=1)
    reached = np.empty(len(values))
    _fullest_set(weights, num_sets, known, max_nodes, reached)
    return np.maximum(known, reached)


def _ids(problem: PlacementProblem, hot: NDArray[np.int64]) -> list[list[int]]:
    order = np.argsort(-problem.load.values, axis=1, kind="stable")
    return [row[:j].tolist() for row, j in zip(order, hot, strict=True)]


def _hottest(problem: PlacementProblem) -> tuple[Floats, NDArray[np.int64]]:
    value, hot = _nothing(problem)
    if problem.num_redundant == 0:
        stride = max(1, -(-problem.num_experts * problem.num_gpus // _MAX_HOT_PAIRS))
        _hot_on_few_gpus(_descending(problem), problem.num_gpus, stride, integral(problem), value, hot)
    return value, hot


def _hottest_gpus(problem: PlacementProblem, max_nodes: int) -> tuple[Floats, NDArray[np.int64]]:
    value, hot = _nothing(problem)
    if problem.num_redundant == 0 and problem.num_gpus > 1 and problem.slots_per_gpu > 1:
        known = _hottest(problem)[0]
        _solve_hottest(_descending(problem), problem.num_gpus, known, integral(problem), max_nodes, value, hot)
    return value, hot


def _nothing(problem: PlacementProblem) -> tuple[Floats, NDArray[np.int64]]:
    return np.full(problem.num_layers, np.nan), np.zeros(problem.num_layers, dtype=np.int64)


def _descending(problem: PlacementProblem) -> Floats:
    return np.ascontiguousarray(np.sort(problem.load.values, axis=1)[:, ::-1].astype(float))


def _rounded(value: Floats, problem: PlacementProblem) -> Floats:
    """Take off what float sums may be too large by: nothing where all sums are of counts, hence exact.

    Differences of prefix sums are off by at most ``2n`` roundings of the total, and the total is at most
    ``m`` times any of these bounds, which are never below the mean.
    """
    if integral(problem):
        return value
    return value * (1 - (2 * problem.num_experts + 8) * problem.num_gpus * 2.0**-53)


@kernel
def _few(j, q, m, k, largest, smallest, whole):  # type: ignore[no-untyped-def]
    """Bound for the ``j`` hottest experts on exactly ``q`` GPUs."""
    average = (largest[j] + smallest[q * k - j]) / q
    if whole:
        average = np.ceil(average)
    i = (j + q - 1) // q
    return max(average, largest[j] - largest[j - i] + smallest[k - i])


@kernel
def _prefixes(weight):  # type: ignore[no-untyped-def]
    """Sums of the t largest and of the t smallest of descending ``weight``."""
    n = weight.size
    largest = np.zeros(n + 1)
    smallest = np.zeros(n + 1)
    for t in range(n):
        largest[t + 1] = largest[t] + weight[t]
        smallest[t + 1] = smallest[t] + weight[n - 1 - t]
    return largest, smallest


@kernel
def _hot_on_few_gpus(weights, m, stride, whole, value, hot):  # type: ignore[no-untyped-def]
    """Fill ``value`` with the best bound of every layer and ``hot`` with its j."""
    layers, n = weights.shape
    k = n // m
    for layer in range(layers):
        largest, smallest = _prefixes(weights[layer])
        best, best_j = -1.0, n
        for back in range(0, n, stride):
            j = n - back
            least = np.inf
            for q in range(min(j, m), (j + k - 1) // k - 1, -1):
                least = min(least, _few(j, q, m, k, largest, smallest, whole))
                if least <= best:
                    break
            if least > best:
                best, best_j = least, j
        value[layer] = best
        hot[layer] = best_j


@kernel
def _solve_hottest(weights, m, known, whole, max_nodes, value, hot):  # type: ignore[no-untyped-def]
    """Fill ``value`` and ``hot`` where the hottest experts' GPUs prove more than ``known``."""
    layers, n = weights.shape
    k = n // m
    for layer in range(layers):
        largest, smallest = _prefixes(weights[layer])
        best = known[layer]
        for j in range(2, min(m, _MOST_HOT) + 1):
            ceiling = np.inf
            for q in range(j - 1, (j + k - 1) // k - 1, -1):
                ceiling = min(ceiling, _few(j, q, m, k, largest, smallest, whole))
            if ceiling <= best:
                continue
            least = min(ceiling, _deal(weights[layer], j, k, best * (1 + 1e-6), ceiling, max_nodes))
            if least > best:
                best = least
                value[layer] = least
                hot[layer] = j


@kernel
def _deal(weight, j, k, floor, ceiling, max_nodes):  # type: ignore[no-untyped-def]
    """Least makespan of dealing the lightest experts to the j hottest, or ``ceiling`` if that is smaller.

    -1 if it is not above ``floor`` or the search is cut off.
    """
    n = weight.size
    items = weight[n - j * (k - 1) :]  # descending
    count = items.size
    prefix = np.zeros(count + 1)
    for i in range(count):
        prefix[i + 1] = prefix[i] + items[i]
    load = weight[:j].copy()
    total = load.sum() + prefix[count]
    free = np.full(j, k - 1)
    place = np.full(count, -1)
    incumbent = ceiling
    depth = nodes = 0
    while depth >= 0:
        item = items[depth]
        gpu = place[depth]
        if gpu >= 0:
            load[gpu] -= item
            free[gpu] += 1
        gpu += 1
        # no GPU may need to stay so light that the others cannot share the rest below the incumbent
        least = (total - (j - 1) * incumbent) * (1 - 1e-12)
        while gpu < j:
            after = load[gpu] + item
            lightest = prefix[count] - prefix[count - free[gpu] + 1] if free[gpu] > 0 else np.inf
            if after + lightest < incumbent:
                possible = True
                for other in range(j):
                    if other == gpu:
                        continue
                    # an equal GPU was tried before, or one can no longer be filled far enough
                    if other < gpu and free[other] == free[gpu] and load[other] == load[gpu]:
                        possible = False
                    heaviest = prefix[depth + 1 + free[other]] if depth + 1 + free[other] <= count else prefix[count]
                    if load[other] + heaviest - prefix[depth + 1] < least:
                        possible = False
                if after + prefix[depth + free[gpu]] - prefix[depth + 1] < least:
                    possible = False
                if possible:
                    break
            gpu += 1
        if gpu == j:
            place[depth] = -1
            depth -= 1
            continue
        nodes += 1
        if nodes > max_nodes:
            return -1.0
        place[depth] = gpu
        load[gpu] += item
        free[gpu] -= 1
        if depth + 1 < count:
            depth += 1
            continue
        incumbent = load.max()
        if incumbent <= floor:
            return -1.0
    return incumbent


@kernel
def _fullest_set(weights, num_sets, known, max_nodes, reached):  # type: ignore[no-untyped-def]
    """Deal all items of every layer to sets that hold nothing but a weightless first item."""
    size = weights.shape[1] // num_sets
    for layer in range(weights.shape[0]):
        reached[layer] = _deal(weights[layer], num_sets, size, known[layer], np.inf, max_nodes)
