"""The stages of ``search``: which there are, in which order a layer meets them, and their work on rows of one shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle, islice
from typing import NamedTuple

import numpy as np

from moeopt._kernel import kernel
from moeopt._random import random_state
from moeopt.balancers.climbing.counts import recount
from moeopt.balancers.climbing.deals import construct, repack
from moeopt.balancers.climbing.windows import MAX_ITEMS
from moeopt.balancers.swaps import descend, least_makespan, sum_loads
from moeopt.balancers.triples import walk_row
from moeopt.problem import PlacementProblem

SWAPS, DEAL, REPAIR, WALK, COUNTS, LEVEL, PAIRS, COVER = range(8)
"""Kinds of stages: swaps from the fullest GPU; a deal from scratch; a deal of a few GPUs at a time; the walk of
``triples``; changed counts; exchanges of subsets (``levels``); annealed counts (``pairing``); sets
within a window of loads (``covers``)."""

QUICK, BRISK, THOROUGH = range(3)
"""Paces: a first look under a cap that leaves room, a short run, a full run."""

ROOM = 6e-4
"""How far above the target the cap of a first look with three slots per GPU is."""


class Stage(NamedTuple):
    """A kind at a pace, under a cap at the target, or halfway between target and makespan."""

    kind: int
    pace: int = THOROUGH
    halfway: bool = False


class Order(NamedTuple):
    """Stages that come once, those of the default mode, and those that follow in turn."""

    once: tuple[Stage, ...]
    turn: tuple[Stage, ...]


_DEALS = (
    Stage(DEAL),
    Stage(REPAIR),
    Stage(DEAL),
    Stage(COUNTS),
    Stage(DEAL, halfway=True),
    Stage(REPAIR, halfway=True),
)
_WALKS = (
    *(Stage(WALK, BRISK), Stage(WALK), Stage(COUNTS), Stage(WALK, halfway=True), Stage(REPAIR, halfway=True)),
    *(Stage(WALK), Stage(WALK), Stage(COUNTS), Stage(WALK, halfway=True), Stage(WALK, halfway=True), Stage(WALK)),
)
_LEVELS = (*[Stage(LEVEL)] * 3, Stage(COUNTS))

_MANY_GPUS = 8
"""GPUs from which on repairing a few of them no longer finds anything with three slots per GPU."""

_COVERED = range(3, 7)
"""Slots per GPU with few enough contents to list, and too few for other stages to come close."""

_MOST_COPIES = 40
"""Slots up to which layers with replicas are covered: contents that differ in equal copies are listed one by one."""

_LARGE = 512
"""Slots from which a layer is levelled: a deal from scratch takes too long, and exchanges find all but the best."""

_MOST_SWAPS = 10_000
"""Swaps that a stage makes at most, more than a recorded layer needs."""

_FURTHER = 2
"""Stages in turn that every further round adds."""

# Measured on 58 x 256 recorded loads: more draws per GPU find better fits, fewer leave time for more GPUs.
_QUICK_DRAWS = 3
_DRAWS = 10


def stages(problem: PlacementProblem, rounds: int | None) -> Iterator[tuple[int, Stage]]:
    """Numbered stages for layers without nodes: those of the default mode, more with ``rounds``, None = without end."""
    once, turn = _order(problem)
    if problem.num_redundant == 0:  # there are no counts to change: the stage before comes again
        once = tuple(stage for stage in once if stage.kind != COUNTS)
        turn = tuple(turn[i - 1] if stage.kind == COUNTS else stage for i, stage in enumerate(turn))
    usual = None if rounds is None else len(once) + _FURTHER * (rounds - 1)
    return islice(enumerate(chain(once, cycle(turn))), usual)


def _order(problem: PlacementProblem) -> Order:
    """The stages that suit the slots per GPU."""
    per_gpu, redundant = problem.slots_per_gpu, problem.num_redundant > 0
    if per_gpu == 1:
        return Order((Stage(SWAPS), Stage(COUNTS)), (Stage(COUNTS),)) if redundant else Order((), ())
    if per_gpu == 2:
        return Order((Stage(PAIRS),), (Stage(PAIRS),)) if redundant else Order((Stage(SWAPS),), ())
    walks = per_gpu == 3 and problem.num_gpus >= _MANY_GPUS
    turn, first = (_WALKS, Stage(WALK, QUICK)) if walks else (_DEALS, Stage(DEAL, QUICK))
    if problem.slots >= _LARGE:
        return Order((Stage(SWAPS), first, Stage(LEVEL, QUICK)), turn) if walks else Order((Stage(LEVEL),) * 2, _LEVELS)
    return Order((Stage(SWAPS), first, *_closer(problem, walks)), turn)


def _closer(problem: PlacementProblem, walks: bool) -> tuple[Stage, ...]:
    """What is cheap in small layers, and all that others need after a first look."""
    redundant, again = problem.num_redundant > 0, Stage(REPAIR, BRISK)
    if walks and redundant:
        return (Stage(COUNTS), Stage(WALK, QUICK), Stage(COUNTS)) if problem.slots <= MAX_ITEMS else ()
    if problem.slots > MAX_ITEMS:
        return () if walks else (Stage(REPAIR, QUICK),)
    if problem.slots_per_gpu not in _COVERED:
        return (again,)
    if not redundant:
        return Stage(COVER), again
    if problem.slots <= _MOST_COPIES and problem.allow_colocated:
        return Stage(COVER), Stage(COUNTS), Stage(COVER)
    return again, Stage(COUNTS), again


@kernel
def improve(all_slots, all_weight, target, number, kind, pace, halfway, seed, colocated, gaps, makespan, stop):  # type: ignore[no-untyped-def]
    """One stage on every row that is above its target; never leaves a row worse."""
    rows, gpus, k = all_slots.shape
    experts = all_weight.shape[1]
    redundant = gpus * k > experts
    size = np.zeros(experts + 1)
    copies = np.empty(experts + 1, np.int64)
    load = np.empty(gpus)
    for row in range(rows):
        kept = all_slots[row]
        _count(kept, all_weight[row], copies, size)
        before = sum_loads(kept, size, load)
        makespan[row] = before
        if before <= target[row]:
            continue
        state = random_state(seed, number)
        slots = kept.copy()
        aim = max(target[row], least_makespan(slots, size))
        if kind == SWAPS:
            descend(slots, size, load, target[row], _MOST_SWAPS, colocated, stop)
        elif kind == COUNTS:
            steps = max(20, 20000 // (gpus * k))
            recount(slots, all_weight[row], size, copies, target[row], steps, colocated, gaps, state, stop)
        else:
            if kind == WALK and before > aim:
                walk_row(slots, size, aim, before, pace, halfway, colocated, state, stop)
            elif before > aim:
                scratch = kind == DEAL and colocated
                _redeal(slots, size, load, aim, before, pace, halfway, scratch, colocated, state, stop)
            if pace == QUICK and redundant and sum_loads(slots, size, load) > 1.01 * target[row]:
                recount(slots, all_weight[row], size, copies, target[row], 30, colocated, gaps, state, stop)
                most = sum_loads(slots, size, load)
                best = slots.copy()
                repack(slots, size, load, (target[row] + most) / 2, 100, _DRAWS, colocated, state, best, most, stop)
                slots = best
        _count(slots, all_weight[row], copies, size)
        after = sum_loads(slots, size, load)
        if after < before:
            makespan[row] = after
            kept[:] = slots


@kernel
def _count(slots, weight, copies, size):  # type: ignore[no-untyped-def]
    """Fill ``copies`` and what each of them weighs, ``size``, from the slots."""
    copies[:] = 0
    for g in range(slots.shape[0]):
        for t in range(slots.shape[1]):
            copies[slots[g, t]] += 1
    for expert in range(weight.size):
        size[expert] = weight[expert] / copies[expert]


@kernel
def _redeal(slots, size, load, target, before, pace, halfway, scratch, colocated, state, stop):  # type: ignore[no-untyped-def]
    """Repack under a cap, after a deal from scratch or not; leaves the best found in ``slots``."""
    best = slots.copy()
    cap, steps, draws = target, 3000, _DRAWS
    if pace == QUICK:
        cap, steps, draws = target * 1.00026, 60 if scratch else 300, _QUICK_DRAWS
    elif pace == BRISK:
        steps = 500
    elif halfway:
        cap = (target + before) / 2
    if cap >= before:
        if pace == QUICK and not scratch:
            return
        cap = target
    if scratch:
        construct(slots, size, load, cap, draws, state)
    most = repack(slots, size, load, cap, steps, draws, colocated, state, best, before, stop)
    slots[:] = best
    if sum_loads(slots, size, load) > target and most > cap:
        descend(slots, size, load, target, _MOST_SWAPS, colocated, stop)
