"""Two slots per GPU: search the replica counts alone, pair the largest replica with the smallest."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments as arguments
from moeopt._kernel import copy_into, kernel
from moeopt._random import below, random_state, uniform
from moeopt._sorting import number_below, rising_order
from moeopt._stop import Flag, never, raised, stoppable
from moeopt.balancers.start import capped_counts
from moeopt.methods import made_for, refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

STEPS_PER_SLOT = 100
"""Steps per slot in a run of the annealing: about ten milliseconds at 320 slots."""

PATIENCE = 3
"""Runs in vain after which the annealing ends."""

_STEP = 1e-4
"""How far below the best makespan so far the annealing aims next, relative."""

_HOT, _COLD = 1e-3, 1e-5
"""Temperatures at the first and last step, relative to the makespan: rises that are accepted now and then."""

_ROUGH = 7.0
"""Slots over which, squared, a run begins hotter: with few slots every change is a large one."""

_UNITS = 2**20
"""Makespan in the whole numbers that the annealing reckons with; fewer where sums might exceed 32 bits."""


@refuses(partial(made_for, slots_per_gpu=2))
def pairing(problem: PlacementProblem, *, steps: int | None = None, seed: int = 0) -> Placement:
    """Near-optimal placement for two slots per GPU, by annealing on the replica counts.

    For given counts, pairing the largest replica with the smallest, the second largest with the
    second smallest and so on minimises the makespan, so only the counts are searched: one replica
    at a time changes hands, and its owners' sizes change places in a sorted list.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads on GPUs of two slots; no hierarchy, no limit of moves.
    steps
        Steps in a run of the annealing, >= 1; a hundred per slot by default. It ends after three runs in vain.
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
    O(steps * slots) a run, on 32-bit integers that the compiler takes several at a time. Without
    ``allow_colocated``, copies of one expert that meet on a GPU are exchanged with another GPU's,
    which may cost a little.
    """
    steps = STEPS_PER_SLOT * problem.slots if steps is None else arguments.integer("steps", steps, 1)
    seed = arguments.seed(seed)

    def one(layer: int, stop: Flag) -> Counts:
        load = problem.load.values[layer].astype(float)
        return pair_up(load, anneal(load, greedy_counts(load, problem), problem, 0.0, steps, seed, stop=stop), problem)

    def work(stop: Flag) -> list[Counts]:
        return [one(layer, stop) for layer in range(problem.num_layers)]

    return Placement(np.array(stoppable(work)), problem.num_experts, problem.num_gpus)


def anneal_layer(
    problem: PlacementProblem,
    layer: int,
    start: Counts,
    target: float,
    steps: int,
    seed: int,
    run: int,
    stop: Flag,
) -> Counts:
    """Slots ``[slots]`` of one layer: the better of EPLB's counts and those of ``start [slots]``, after one run."""
    load = problem.load.values[layer].astype(float)
    counts = np.bincount(start[(start >= 0) & (start < len(load))], minlength=len(load))
    starts = [greedy_counts(load, problem), counts]
    begin = min(starts, key=lambda counts: paired_makespan(load, counts, problem.slots))
    return pair_up(load, anneal_once(load, begin, problem, target, steps, seed, run, stop), problem)


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
    patience: int = PATIENCE,
    stop: Flag | None = None,
) -> Counts:
    """Lower the makespan of ``counts`` (``[experts]``) by runs of ``steps`` steps, each from the best so far.

    Stops at ``target``, after ``patience`` runs in vain, or when ``stop`` is raised.
    """
    stop = never() if stop is None else stop
    best, makespan, failed, run = counts, paired_makespan(load, counts, problem.slots), 0, 0
    while failed < patience and makespan > target and not stop[0]:
        best = anneal_once(load, best, problem, target, steps, seed, run, stop)
        before, makespan = makespan, paired_makespan(load, best, problem.slots)
        failed = 0 if makespan < before else failed + 1
        run += 1
    return best


def anneal_once(
    load: Floats, counts: Counts, problem: PlacementProblem, target: float, steps: int, seed: int, run: int, stop: Flag
) -> Counts:
    """The best counts that one run of annealing meets, ``counts`` itself where none are better."""
    if counts.sum() == len(counts):
        return counts
    units = min(_UNITS, 2**31 // (problem.num_gpus + 1))
    start = counts.copy()  # numba would compile once more for an array that may not be written to
    found: Counts = _anneal(load, start, problem.max_replicas, problem.slots, target, units, steps, seed, run, stop)
    slots = problem.slots
    return found if paired_makespan(load, found, slots) < paired_makespan(load, counts, slots) else counts


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
def _anneal(load, start, cap, slots, target, units, steps, seed, run, stop):  # type: ignore[no-untyped-def]
    """Hand replicas between experts to bring every pair below an aim, which is lowered as often as it is reached.

    Energy: the sum of the excesses. Sizes are 32-bit whole numbers, rounded up, with ``units`` to the makespan.
    """
    experts = load.size
    counts, best = start.copy(), start.copy()
    exact = np.zeros(slots)
    filled = 0
    for expert in range(experts):
        for _ in range(counts[expert]):
            exact[filled] = load[expert] / counts[expert]
            filled += 1
    order = rising_order(exact)
    most = 0.0
    for i in range(slots):
        most = max(most, exact[order[i]] + exact[order[slots - 1 - i]])
    scale = units / most
    sizes = np.empty(slots, np.int32)
    for i in range(slots):
        sizes[i] = np.int32(np.ceil(exact[order[i]] * scale))
    fewer, trial = np.empty(slots - 1, np.int32), np.empty(slots, np.int32)
    goal = np.int32(min(target * scale, units))
    aim = _next_aim(_fullest(sizes), goal)
    givers, place, given = np.empty(experts, np.int64), np.full(experts, -1), 0
    for expert in range(experts):
        given = _list_giver(expert, counts[expert], load[expert] * scale, aim, givers, place, given)
    energy = _excess(sizes, aim)
    heat, cooling = max(_HOT, (_ROUGH / slots) ** 2) * aim, (_COLD / _HOT) ** (1.0 / steps)
    state = random_state(seed, run)
    for _ in range(steps):
        if raised(stop) or given == 0:
            break
        heat *= cooling
        giver, taker = givers[below(state, given)], below(state, experts)
        if giver == taker or counts[taker] >= cap:
            continue
        load_a, copies_a, load_b, copies_b = load[giver] * scale, counts[giver], load[taker] * scale, counts[taker]
        _resize(sizes, fewer, _size(load_a, copies_a), copies_a, _size(load_a, copies_a - 1), copies_a - 1)
        _resize(fewer, trial, _size(load_b, copies_b), copies_b, _size(load_b, copies_b + 1), copies_b + 1)
        value = _excess(trial, aim)
        if value > energy and uniform(state) >= np.exp((energy - value) / heat):
            continue
        sizes, trial, energy = trial, sizes, value
        counts[giver] -= 1
        counts[taker] += 1
        given = _list_giver(giver, counts[giver], load_a, aim, givers, place, given)
        given = _list_giver(taker, counts[taker], load_b, aim, givers, place, given)
        if energy == 0:
            copy_into(counts, best)
            reached = _fullest(sizes)
            if reached <= goal:
                break
            aim = _next_aim(reached, goal)
            energy = _excess(sizes, aim)
            for expert in range(experts):
                given = _list_giver(expert, counts[expert], load[expert] * scale, aim, givers, place, given)
    return best


@kernel
def _next_aim(reached, goal):  # type: ignore[no-untyped-def]
    """A little below what has been reached, but not below the goal."""
    return np.int32(max(min(reached * (1 - _STEP), reached - 1), goal))


@kernel
def _list_giver(expert, copies, load, aim, givers, place, given):  # type: ignore[no-untyped-def]
    """List an expert among ``givers[:given]``, or strike it out, by whether it fits with a copy less; how many then."""
    gives = copies > 1 and load <= aim * (copies - 1)
    if gives and place[expert] < 0:
        givers[given], place[expert] = expert, given
        return given + 1
    if not gives and place[expert] >= 0:
        last = givers[given - 1]
        givers[place[expert]], place[last] = last, place[expert]
        place[expert] = -1
        return given - 1
    return given


@kernel
def _size(load, copies):  # type: ignore[no-untyped-def]
    """What one of the copies weighs, rounded up."""
    return np.int32(np.ceil(load / copies))


@kernel
def _resize(sizes, out, old, copies, new, number):  # type: ignore[no-untyped-def]
    """Write ``sizes`` (rising) to ``out`` with ``copies`` entries ``old`` replaced by ``number`` entries ``new``."""
    gone, at = number_below(sizes, old), number_below(sizes, new)
    if new > old:
        first = at - copies
        copy_into(sizes[:gone], out[:gone])
        copy_into(sizes[gone + copies : at], out[gone:first])
        copy_into(sizes[at:], out[first + number :])
    else:
        first = at
        copy_into(sizes[:at], out[:at])
        copy_into(sizes[at:gone], out[at + number : gone + number])
        copy_into(sizes[gone + copies :], out[gone + number :])
    for i in range(first, first + number):
        out[i] = new


@kernel
def _fullest(sizes):  # type: ignore[no-untyped-def]
    """The fullest pair, smallest with largest."""
    most = np.int32(0)
    for i in range(sizes.size // 2):
        most = max(most, np.int32(sizes[i] + sizes[sizes.size - 1 - i]))
    return most


@kernel
def _excess(sizes, aim):  # type: ignore[no-untyped-def]
    """Sum over the pairs (smallest with largest) of what exceeds ``aim``."""
    total = np.int32(0)
    half = sizes.size // 2
    large = sizes[half:]  # slices, so that the compiler sees what it may vectorise
    for i in range(half):
        total += max(np.int32(sizes[half - 1 - i] + large[i] - aim), np.int32(0))
    return total
