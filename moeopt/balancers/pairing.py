"""Two slots per GPU: search the replica counts alone, pair the largest replica with the smallest."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments as arguments
from moeopt._kernel import kernel
from moeopt._random import below, random_state, uniform
from moeopt._stop import Flag, never, raised, stoppable
from moeopt.balancers.start import capped_counts
from moeopt.methods import made_for, refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_STEP = 1e-4
"""How far below the best makespan so far the annealing aims next, relative."""


@refuses(partial(made_for, slots_per_gpu=2))
def pairing(problem: PlacementProblem, *, steps: int = 200_000, seed: int = 0) -> Placement:
    """Near-optimal placement for two slots per GPU, by annealing on the replica counts.

    For given counts, pairing the largest replica with the smallest, the second largest with the
    second smallest and so on minimises the makespan, so only the counts are searched: one replica
    at a time changes hands, and a sorted list of replicas is merged again.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads on GPUs of two slots; no hierarchy, no limit of moves.
    steps
        Steps in a run of the annealing, >= 1; it stops after three runs in vain.
    seed
        Seed of the random steps, 0 to 2**31 - 1; the same seed gives the same placement.

    Raises
    ------
    UnsupportedError
        For another number of slots per GPU, a hierarchical or a move-limited problem.
    InputError
        If ``steps`` or ``seed`` breaks its rule.

    Notes
    -----
    O(steps * slots) a run. Without ``allow_colocated``, copies of one expert that meet on a GPU
    are exchanged with another GPU's, which may cost a little.
    """
    steps, seed = arguments.integer("steps", steps, 1), arguments.seed(seed)

    def work(stop: Flag) -> list[Counts]:
        return [anneal_layer(problem, layer, 0.0, steps, seed, stop) for layer in range(problem.num_layers)]

    return Placement(np.array(stoppable(work)), problem.num_experts, problem.num_gpus)


def anneal_layer(problem: PlacementProblem, layer: int, target: float, steps: int, seed: int, stop: Flag) -> Counts:
    """Slots ``[slots]`` of one layer: EPLB's counts, annealed down to ``target`` or for as long as that helps."""
    load = problem.load.values[layer].astype(float)
    counts = anneal(load, greedy_counts(load, problem), problem, target, steps, seed, stop=stop)
    return pair_up(load, counts, problem)


def greedy_counts(load: Floats, problem: PlacementProblem) -> Counts:
    """EPLB's replica counts, ``[experts]``, capped at what the problem allows."""
    return capped_counts(load, problem.slots, problem.max_replicas)


def anneal(
    load: Floats,
    counts: Counts,
    problem: PlacementProblem,
    target: float,
    steps: int,
    seed: int,
    patience: int = 3,
    stop: Flag | None = None,
) -> Counts:
    """Lower the makespan of ``counts`` (``[experts]``) bit by bit.

    Stops at ``target``, after ``patience`` runs of ``steps`` steps in vain, or when ``stop`` is raised.
    """
    if counts.sum() == len(counts):
        return counts
    stop = never() if stop is None else stop
    slots, cap = problem.slots, problem.max_replicas
    best, makespan, failed, run = counts, paired_makespan(load, counts, slots), 0, 0
    while failed < patience and makespan > target and not stop[0]:
        aim = max(target, makespan * (1 - _STEP))
        lowest = np.maximum(np.ceil(load / aim * (1 - 1e-12)), 1).astype(np.int64)
        found = _anneal(load, best, lowest, cap, slots, aim, steps, seed, run, stop)
        value = paired_makespan(load, found, slots)
        if value < makespan:
            best, makespan = found, value
        failed = 0 if value <= aim else failed + 1
        run += 1
    return best


def paired_makespan(load: Floats, counts: Counts, num_slots: int) -> float:
    """Makespan of ``counts``, largest paired with smallest; left-over slots are empty."""
    sizes = np.zeros(num_slots)
    sizes[: counts.sum()] = np.repeat(load / counts, counts)
    sizes.sort()
    return float((sizes + sizes[::-1]).max())


def pair_up(load: Floats, counts: Counts, problem: PlacementProblem) -> Counts:
    """Place ``counts`` copies of every expert in pairs, ``[slots]``, keeping the problem's rules.

    Where colocation is allowed no placement of these counts has a smaller makespan, and filling
    the empty slots does not raise it (see ``_fill``). O(slots log slots + gpus * colocated).
    """
    order = np.argsort(-(load / counts), kind="stable")
    items = np.full(problem.slots, -1, dtype=np.int64)
    items[: counts.sum()] = np.repeat(order, counts[order])
    pairs = np.stack([items[: problem.num_gpus], items[problem.num_gpus :][::-1]], axis=1)
    if not problem.allow_colocated:
        _separate(pairs, load / counts)
    if not problem.allow_empty_slots:
        _fill(pairs, load, counts.copy(), problem.allow_colocated)
    return pairs.ravel()


def _separate(pairs: Counts, size: Floats) -> None:
    """Exchange copies until no pair is twice the same expert; each time the cheapest exchange."""
    size = np.append(size, 0.0)  # what expert -1, an empty slot, weighs
    for gpu in np.flatnonzero((pairs[:, 0] == pairs[:, 1]) & (pairs[:, 0] >= 0)):
        expert = pairs[gpu, 0]
        if pairs[gpu, 1] != expert:
            continue  # an exchange with an earlier pair has parted it
        others = np.flatnonzero((pairs != expert).all(axis=1))
        other = others[np.argmin(size[pairs[others]].max(axis=1))]
        pairs[gpu, 1], pairs[other, 0] = pairs[other, 0], expert


def _fill(pairs: Counts, load: Floats, counts: Counts, allow_colocated: bool) -> None:
    """Fill every empty slot, without raising the makespan ``T`` where colocation is allowed.

    An empty GPU takes a copy of any expert: all its copies shrink. Else let ``e`` with ``c`` copies
    be alone on a GPU. If another copy of ``e`` has a neighbour ``x``, a further copy of ``x`` fits
    here too, even smaller. If two copies of ``e`` share a GPU, then ``2 w/c <= T``, and
    ``2 w/(c+1)`` fits here. Else all ``c`` copies are alone, and doubling each leaves every load.
    """
    while (pairs < 0).any():
        holes = np.argwhere(pairs < 0)
        bare = [gpu for gpu, _ in holes if (pairs[gpu] < 0).all()]
        if bare:
            expert = int(np.argmax(load / counts))
            pairs[bare[0], 0] = expert
            counts[expert] += 1
            continue
        gpu, slot = holes[0]
        alone = pairs[gpu, 1 - slot]
        hosts = pairs[(pairs == alone).any(axis=1)]
        neighbours = hosts[(hosts != alone) & (hosts >= 0)]
        if len(neighbours):
            added = {(gpu, slot): int(neighbours[np.argmin((load / counts)[neighbours])])}
        elif not allow_colocated:
            added = {(gpu, slot): int(np.argmin(np.where(np.arange(len(load)) == alone, np.inf, load / (counts + 1))))}
        elif (hosts == alone).all(axis=1).any():
            added = {(gpu, slot): int(alone)}
        else:
            added = {(g, s): int(alone) for g, s in holes if pairs[g, 1 - s] == alone}
        for (g, s), expert in added.items():
            pairs[g, s] = expert
            counts[expert] += 1


@kernel
def _anneal(load, start, lowest, cap, slots, aim, steps, seed, run, stop):  # type: ignore[no-untyped-def]
    """Hand replicas between experts to bring every pair below ``aim``; energy: the sum of the excesses."""
    experts = load.size
    counts = start.copy()
    sizes = np.zeros(slots)
    filled = 0
    for expert in range(experts):
        for _ in range(counts[expert]):
            sizes[filled] = load[expert] / counts[expert]
            filled += 1
    sizes.sort()
    trial = np.empty(slots)
    energy = _excess(sizes, aim)
    best, least = counts.copy(), energy
    heat = 3e-3 * aim
    cooling = 1e-2 ** (1.0 / steps)
    state = random_state(seed, run)
    for _ in range(steps):
        if raised(stop):
            break
        heat *= cooling
        giver, taker = below(state, experts), below(state, experts)
        if giver == taker or counts[giver] <= lowest[giver] or counts[taker] >= cap:
            continue
        _merge(sizes, trial, load[giver], counts[giver], load[taker], counts[taker])
        value = _excess(trial, aim)
        if value <= energy or uniform(state) < np.exp((energy - value) / heat):
            sizes, trial, energy = trial, sizes, value
            counts[giver] -= 1
            counts[taker] += 1
            if energy < least:
                least = energy
                best[:] = counts
                if energy <= 0.0:
                    break
    return best


@kernel
def _excess(sizes, aim):  # type: ignore[no-untyped-def]
    """Sum over the pairs (smallest with largest) of what exceeds ``aim``."""
    total = 0.0
    last = sizes.size - 1
    for i in range(sizes.size // 2):
        over = sizes[i] + sizes[last - i] - aim
        if over > 0.0:
            total += over
    return total


@kernel
def _merge(sizes, out, load_a, count_a, load_b, count_b):  # type: ignore[no-untyped-def]
    """Write ``sizes`` to ``out`` in order after expert a gave a copy to expert b."""
    old_a, old_b = load_a / count_a, load_b / count_b
    low, low_left, high, high_left = load_a / (count_a - 1), count_a - 1, load_b / (count_b + 1), count_b + 1
    if low > high:
        low, low_left, high, high_left = high, high_left, low, low_left
    filled = 0
    for size in sizes:
        while low_left > 0 and low <= size:
            out[filled] = low
            filled += 1
            low_left -= 1
        while low_left == 0 and high_left > 0 and high <= size:
            out[filled] = high
            filled += 1
            high_left -= 1
        if count_a > 0 and size == old_a:
            count_a -= 1
        elif count_b > 0 and size == old_b:
            count_b -= 1
        else:
            out[filled] = size
            filled += 1
    for _ in range(low_left):
        out[filled] = low
        filled += 1
    for _ in range(high_left):
        out[filled] = high
        filled += 1
