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
from moeopt.balancers.swaps import descend, sum_loads
from moeopt.balancers.triples import walk_row
from moeopt.problem import PlacementProblem

SWAPS, DEAL, REPAIR, WALK, COUNTS, LEVEL, PAIRS = range(7)
"""Kinds of stages: swaps from the fullest GPU; a deal from scratch; a deal of a few GPUs at a time; the walk of
``triples``; changed counts; exchanges of subsets (``levels``); annealed counts (``pairing``)."""

QUICK, BRISK, THOROUGH = range(3)
"""Paces: a first look, a short run, a full run."""


class Stage(NamedTuple):
    """A kind at a pace, under a cap at the target, or halfway between target and makespan."""

    kind: int
    pace: int = THOROUGH
    halfway: bool = False


class Order(NamedTuple):
    """Stages that come once, and those that follow in turn."""

    once: tuple[Stage, ...]
    turn: tuple[Stage, ...]


_DEALS = Order(
    (Stage(SWAPS), Stage(DEAL, QUICK)),
    (Stage(DEAL), Stage(REPAIR), Stage(DEAL), Stage(COUNTS), Stage(DEAL, halfway=True), Stage(REPAIR, halfway=True)),
)
_WALKS = Order(
    (Stage(SWAPS), Stage(WALK, QUICK), Stage(WALK, BRISK)),
    (
        *(Stage(WALK), Stage(WALK), Stage(COUNTS), Stage(WALK, halfway=True), Stage(REPAIR, halfway=True), Stage(WALK)),
        *(Stage(WALK), Stage(WALK), Stage(COUNTS), Stage(WALK, halfway=True), Stage(WALK, halfway=True), Stage(WALK)),
    ),
)
_LEVELS = Order((), (*[Stage(LEVEL)] * 5, Stage(COUNTS)))
_PAIRS = Order((), (Stage(PAIRS),))
_FEW = Order((Stage(SWAPS),), (Stage(COUNTS),))
_SWAPS = Order((Stage(SWAPS),), ())
_NOTHING = Order((), ())

_MANY_GPUS = 8
"""GPUs from which on repairing a few of them no longer finds anything with three slots per GPU."""

_SMALL = 64
"""Slots up to which further stages are cheap enough to belong to the default mode."""

_LARGE = 512
"""Slots from which a layer is levelled: a deal from scratch takes too long, and exchanges find all but the best."""

# Measured on 58 x 256 recorded loads: more draws per GPU find better fits, fewer leave time for more GPUs.
_QUICK_DRAWS = 3
_DRAWS = 10


def stages(problem: PlacementProblem, rounds: int | None) -> Iterator[tuple[int, Stage]]:
    """Numbered stages for layers without nodes: ``rounds`` times the few of the default mode, None = without end."""
    once, turn = _order(problem)
    usual = 1 if turn == _PAIRS.turn else 7 if problem.slots <= _SMALL else 2
    if problem.num_redundant == 0:  # there are no counts to change: the stage before comes again
        turn = tuple(turn[i - 1] if stage.kind == COUNTS else stage for i, stage in enumerate(turn))
    return islice(enumerate(chain(once, cycle(turn))), None if rounds is None else rounds * usual)


def _order(problem: PlacementProblem) -> Order:
    """The stages that suit the slots per GPU."""
    per_gpu, redundant = problem.slots_per_gpu, problem.num_redundant > 0
    if per_gpu == 1:
        return _FEW if redundant else _NOTHING
    if per_gpu == 2:
        return _PAIRS if redundant else _SWAPS
    if per_gpu == 3:
        return _WALKS if problem.num_gpus >= _MANY_GPUS else _DEALS
    return _LEVELS if problem.slots >= _LARGE else _DEALS


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
        if kind == SWAPS:
            descend(slots, size, load, target[row], colocated, stop)
        elif kind == COUNTS:
            steps = max(20, 20000 // (gpus * k))
            recount(slots, all_weight[row], size, copies, target[row], steps, colocated, gaps, state, stop)
        else:
            if kind == WALK:
                walk_row(slots, size, target[row], before, pace, halfway, colocated, state, stop)
            else:
                scratch = kind == DEAL and colocated
                _redeal(slots, size, load, target[row], before, pace, halfway, scratch, colocated, state, stop)
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
        cap, steps, draws = target * 1.0003, 60, _QUICK_DRAWS
    elif halfway:
        cap = (target + before) / 2
    if cap >= before:
        cap = target
    if scratch:
        construct(slots, size, load, cap, draws, state)
    most = repack(slots, size, load, cap, steps, draws, colocated, state, best, before, stop)
    slots[:] = best
    if sum_loads(slots, size, load) > target and most > cap:
        descend(slots, size, load, target, colocated, stop)
