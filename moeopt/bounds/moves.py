"""Lower bounds on moves for a ceiling on the makespan, and on the makespan for a limit of moves.

Notation: loads ``w_e`` of one layer, their sum ``W``, ceiling ``T``. The reference puts ``c_e`` copies of
expert ``e`` on GPUs and loads GPU ``g`` with ``L_g`` (new loads, old places). An *arrival* is a copy that
its GPU does not hold in the reference: moves are arrivals. Ceilings count as ``problem.check`` counts
them, a part in 1e9 higher.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt._kernel import kernel
from moeopt._sorting import rising_order
from moeopt.bounds._rounding import Floats, nothing
from moeopt.problem import PlacementProblem

_MOST_TOKENS = 2.0**53
"""What a layer's loads total at most: a higher ceiling says nothing more."""

_BISECTIONS = 60
"""Halvings of an interval of ceilings: more than any float or count below 2**53 needs."""


def moves_needed(problem: PlacementProblem) -> Floats:
    """Moves that no feasible placement can do without, ``[layers]``; needs a reference.

    Proof: an expert that the reference does not hold must be brought in; and where no slot may
    stay empty, at most the reference's copies can stay, the rest are moves.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, -1]], max_makespan=11)
    >>> bounds.moves_needed(problem).tolist()
    [1.0]
    """
    if problem.reference is None:
        return nothing(problem)
    counts = problem.reference.replica_count
    missing = (counts == 0).sum(axis=1)
    unfilled = 0 if problem.allow_empty_slots else problem.slots - counts.sum(axis=1)
    return np.maximum(np.maximum(missing, unfilled), 0).astype(float)


def arrivals_needed(problem: PlacementProblem) -> Floats:
    """Moves needed to keep ``max_makespan`` where reference and placement hold every expert once.

    Returns
    -------
    ``[layers]`` whole numbers. NaN where the bound does not apply: without a ceiling, with replicas,
    where the reference is no partition, and where the argument shows that nothing keeps the ceiling.

    Notes
    -----
    *Proof.* Every slot is full before and after, so a GPU with ``j`` arrivals has ``j`` departures, and no
    expert's size changes. Its load ends in ``[low_g(j), high_g(j)]``: ``low_g(j)`` is ``L_g`` less its ``j``
    largest experts plus the ``j`` smallest of the other GPUs, ``high_g(j)`` is ``L_g`` less its ``j``
    smallest plus the ``j`` largest of the others. All loads are at most ``T`` and add up to ``W``, so any
    placement within the ceiling has ``low_g(j_g) <= T`` on every GPU and ``sum_g min(T, high_g(j_g)) >= W``.
    The bound is the least ``sum_g j_g`` under these rules. Differences of sorted lists are monotone: the
    steps of ``low_g`` rise with ``j``, so the first rule leaves an interval of ``j``; the steps of ``high_g``
    fall, so ``min(T, high_g)`` is concave. Hence to start from the least ``j`` allowed on each GPU and to
    add the largest steps of ``min(T, high_g)`` until ``W`` is covered is optimal.

    *With groups on nodes* either every node keeps its groups: then the same holds on each node, with its own
    experts only. Or a group leaves its node and another takes its place: then every expert of the two
    arrives somewhere. The smaller of the two holds, and so does the bound without groups.

    Counts are exact; for other loads every comparison allows for the rounding of its sums.
    O(experts * (log experts + GPUs)) per layer at worst.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, 3]], max_makespan=11)
    >>> bounds.arrivals_needed(problem).tolist()
    [2.0]
    """
    if problem.max_makespan is None or not _partitions(problem).any():
        return nothing(problem)
    highest = _highest(problem)
    if problem.load.is_integer:
        return _fewest(problem, np.floor(highest).astype(np.int64))
    return _fewest(problem, highest)


def copies_needed(problem: PlacementProblem) -> Floats:
    """Moves needed to keep ``max_makespan`` because experts need more copies than the reference has.

    Returns
    -------
    ``[layers]`` whole numbers. NaN without a ceiling, and where no number of copies keeps it.

    Notes
    -----
    *Proof.* No copy weighs more than ``T``, so expert ``e`` ends with at least ``max(1, ceil(w_e / T))``
    copies. Those beyond ``c_e`` are arrivals, wherever copies sit, whatever else changes, and whether or
    not slots are empty; and arrivals of different experts are different moves. O(layers * experts).

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem(
    ...     [[9, 1, 1]], num_gpus=2, num_slots=4, reference=[[0, 1, 2, 2]], max_makespan=6
    ... )
    >>> bounds.copies_needed(problem).tolist()
    [1.0]
    """
    if problem.reference is None or problem.max_makespan is None:
        return nothing(problem)
    with np.errstate(divide="ignore", invalid="ignore"):
        fewest = np.ceil(problem.load.values / _highest(problem)[:, None] * (1 - 2.0**-50))
    fewest = np.where(problem.load.values == 0, 1.0, np.maximum(fewest, 1.0))
    extra = np.maximum(fewest - problem.reference.replica_count, 0).sum(axis=1)
    return np.where(fewest.sum(axis=1) <= problem.slots, extra, np.nan)


def regrouping_needed(problem: PlacementProblem) -> Floats:
    """Moves needed to keep ``max_makespan`` because the groups of a node weigh too much for its GPUs.

    Returns
    -------
    ``[layers]`` twice the experts of a group, or 0 where the groups may stay. NaN without a ceiling or
    groups on nodes, and where the reference does not keep its groups on nodes.

    Notes
    -----
    *Proof.* A node carries its groups' whole load, however copies share it. If that exceeds ``T`` times the
    node's GPUs, a group must leave and, since every node hosts as many groups, another must come. The
    reference has no copy of a group outside its node, so each expert of both groups arrives somewhere.
    O(layers * slots).

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem(
    ...     [[6, 5, 2, 1]], num_gpus=2, num_nodes=2, num_groups=4, reference=[[0, 1, 2, 3]], max_makespan=8
    ... )
    >>> bounds.regrouping_needed(problem).tolist()
    [2.0]
    """
    if problem.max_makespan is None or not problem.hierarchical:
        return nothing(problem)
    least = _fullest_node(problem)
    return np.where(least > _highest(problem), 2.0 * _group_size(problem), np.where(np.isnan(least), np.nan, 0.0))


def makespan_within_moves(problem: PlacementProblem) -> Floats:
    """Makespan that no placement within ``max_moves`` stays below.

    Returns
    -------
    ``[layers]`` loads, NaN without ``max_moves``, and where the reference lacks more experts than may move.

    Notes
    -----
    *Proof.* The bounds above fall as ``T`` grows, and a placement of makespan ``T`` within ``max_moves`` has at
    least as many moves as they say for ``T``. So its makespan is at least the least ``T`` for which they
    say ``max_moves`` or less.

    For partitions that is ``arrivals_needed``, by bisection: exact for counts; else the last ``T`` refuted.
    With replicas it is ``copies_needed``: the ``max_moves`` extra copies are best granted one by one to
    the expert with the largest load per copy, as in ``hottest_replica``. With groups on nodes, fewer moves
    than two groups have experts leave every group where it is, and some GPU of the fullest node carries at
    least the node's mean. O(log W) times ``arrivals_needed``, or O(max_moves * experts) per layer.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[0, 1, 2, 3]], max_moves=0)
    >>> bounds.makespan_within_moves(problem).tolist()
    [14.0]
    """
    if problem.reference is None or problem.max_moves is None:
        return nothing(problem)
    value = _least_share(problem)
    if problem.hierarchical and problem.max_moves < 2 * _group_size(problem):
        value = np.fmax(value, _fullest_node(problem))
    partitions = _partitions(problem)
    return np.where(partitions, _least_ceiling(problem), value) if partitions.any() else value


def _least_ceiling(problem: PlacementProblem) -> Floats:
    """``[layers]`` least ceiling that ``max_moves`` arrivals may keep; for fractions the highest that they may not."""
    assert problem.reference is not None
    assert problem.max_moves is not None
    high = metrics.makespan(metrics.gpu_load(problem.load, problem.reference))
    mean = problem.load.values.sum(axis=1) / problem.num_gpus
    if problem.load.is_integer:
        high, low = high.astype(np.int64), np.ceil(mean).astype(np.int64) - 1
    else:
        low = mean * (1 - problem.num_experts * 2.0**-51)
    for _ in range(_BISECTIONS):
        middle = low + (high - low) // 2 if problem.load.is_integer else (low + high) / 2
        kept = _fewest(problem, middle) <= problem.max_moves
        high, low = np.where(kept, middle, high), np.where(kept, low, middle)
        if problem.load.is_integer and (high - low <= 1).all():
            break
    return (high if problem.load.is_integer else low).astype(float)


def _fewest(problem: PlacementProblem, ceiling: NDArray[Any]) -> Floats:
    """``[layers]`` least arrivals for a ceiling, in the loads' own type; NaN where none will do, or no partition.

    A load computed by adding and taking off fractions one by one, ``3 * slots`` of them at most, errs by less
    than ``slack``: raising the ceiling by twice that and lowering what all must cover by it for each GPU,
    no comparison turns against the reference.
    """
    assert problem.reference is not None
    size = np.take_along_axis(problem.load.values, np.maximum(problem.reference.phy2log, 0), axis=1)
    slack = np.zeros_like(ceiling)
    if not problem.load.is_integer:
        slack = problem.load.values.sum(axis=1) * (problem.num_experts * 2.0**-49)
    grouped = np.zeros(problem.num_layers, dtype=bool)
    if problem.hierarchical:
        grouped = ~np.isnan(_fullest_node(problem))
    nodes = problem.num_nodes if problem.hierarchical else 1
    needed = np.empty(problem.num_layers, dtype=np.int64)
    _arrivals_needed(
        size, problem.num_gpus, nodes, grouped, 2 * _group_size(problem), ceiling + 2 * slack, slack, needed
    )
    return np.where(_partitions(problem) & (needed >= 0), needed, np.nan)


def _partitions(problem: PlacementProblem) -> NDArray[np.bool_]:
    """``[layers]`` whether the reference holds every expert once, in as many slots as the problem has."""
    if problem.reference is None or problem.num_redundant or problem.reference.num_slots != problem.slots:
        return np.zeros(problem.num_layers, dtype=bool)
    return (problem.reference.replica_count == 1).all(axis=1)


def _highest(problem: PlacementProblem) -> Floats:
    """``[layers]`` the largest makespan that ``problem.check`` may let pass."""
    return np.minimum(problem.highest_makespan, _MOST_TOKENS)


def _group_size(problem: PlacementProblem) -> int:
    return problem.num_experts // problem.num_groups


def _fullest_node(problem: PlacementProblem) -> Floats:
    """``[layers]`` mean load of the GPUs of the fullest node, NaN where groups are not on nodes; rounded down."""
    assert problem.reference is not None
    layers, nodes = problem.num_layers, problem.num_nodes
    by_node = problem.reference.copies.reshape(layers, nodes, -1, problem.num_experts).any(axis=2)
    hosts = by_node.reshape(layers, nodes, problem.num_groups, -1).any(axis=3)
    grouped = (hosts.sum(axis=1) == 1).all(axis=1) & (hosts.sum(axis=2) == problem.num_groups // nodes).all(axis=1)
    group = problem.load.values.reshape(layers, problem.num_groups, -1).sum(axis=2)
    load = (hosts * group[:, None, :]).sum(axis=2).max(axis=1)
    return np.where(grouped, load * (1 - problem.num_experts * 2.0**-52) / (problem.num_gpus // nodes), np.nan)


def _least_share(problem: PlacementProblem) -> Floats:
    """``[layers]`` least load of the hottest copy after ``max_moves`` extra copies, NaN where experts stay missing."""
    assert problem.reference is not None
    assert problem.max_moves is not None
    count = problem.reference.replica_count.copy()
    missing = (count == 0).sum(axis=1)
    count = np.maximum(count, 1)
    share = np.empty(problem.num_layers)
    left = np.minimum(problem.max_moves, problem.slots) - missing
    _grant_copies(problem.load.values.astype(float), count, left, share)
    return np.where(left >= 0, np.nextafter(share, 0), np.nan)


@kernel
def _grant_copies(load, count, left, share):  # type: ignore[no-untyped-def]
    """Fill ``share`` with the largest load per copy once ``left`` extra copies are granted to the hottest."""
    for layer in range(load.shape[0]):
        heat = load[layer] / count[layer]
        for _ in range(left[layer]):
            hottest = np.argmax(heat)
            count[layer, hottest] += 1
            heat[hottest] = load[layer, hottest] / count[layer, hottest]
        share[layer] = heat.max()


@kernel
def _arrivals_needed(sizes, gpus, nodes, grouped, regrouped, ceiling, slack, needed):  # type: ignore[no-untyped-def]
    """Fill ``needed`` with the least arrivals of every layer; -1 where no numbers of arrivals keep its ceiling."""
    per_node = sizes.shape[1] // nodes
    for layer in range(sizes.shape[0]):
        size, top, margin = sizes[layer], ceiling[layer], slack[layer]
        needed[layer] = _arrivals(size, gpus, top, margin)
        if needed[layer] < 0 or not grouped[layer]:
            continue
        kept = 0
        for node in range(nodes):
            there = _arrivals(size[node * per_node : (node + 1) * per_node], gpus // nodes, top, margin)
            kept += there if there >= 0 else regrouped
        needed[layer] = max(needed[layer], min(kept, regrouped))


@kernel
def _arrivals(size, gpus, ceiling, slack):  # type: ignore[no-untyped-def]
    """Least arrivals on GPUs that hold ``size`` slot by slot; -1 if no numbers of arrivals keep the ceiling."""
    n = size.size
    k = n // gpus
    order = rising_order(size)
    holder = order // k
    own = np.empty((gpus, k), size.dtype)  # rising on each GPU
    held = np.zeros(gpus, np.int64)
    load = np.zeros(gpus, size.dtype)
    for i in range(n):
        g = holder[i]
        own[g, held[g]] = size[order[i]]
        held[g] += 1
        load[g] += size[order[i]]
    missing = size.sum() - (gpus + 1) * slack
    steps = np.empty(n, size.dtype)
    needed = count = 0
    for g in range(gpus):
        low = high = load[g]
        reached = ceiling
        light, heavy, fewest = -1, n, -1
        for j in range(min(k, n - k) + 1):
            if j > 0:
                light += 1
                while holder[light] == g:
                    light += 1
                heavy -= 1
                while holder[heavy] == g:
                    heavy -= 1
                low += size[order[light]] - own[g, k - j]
                high += size[order[heavy]] - own[g, j - 1]
            if low > ceiling:
                if fewest >= 0:
                    break
                continue
            if fewest < 0:
                fewest = j
                reached = min(high, ceiling)
                missing -= reached
            else:
                steps[count] = min(high, ceiling) - reached
                reached = min(high, ceiling)
                count += 1
            if reached >= ceiling:
                break
        if fewest < 0:
            return -1
        needed += fewest
    rising = rising_order(steps[:count])
    while missing > 0:
        if count == 0:
            return -1
        count -= 1
        missing -= steps[rising[count]]
        needed += 1
    return needed
