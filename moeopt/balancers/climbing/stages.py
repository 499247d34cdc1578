"""The stages of ``search``: which there are, and in which order a layer meets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle, islice
from typing import NamedTuple

from moeopt.balancers.climbing.windows import MAX_ITEMS
from moeopt.problem import PlacementProblem

SWAPS, DEAL, REPAIR, WALK, MEND, COUNTS, LEVEL, PAIRS, COVER = range(9)
"""Kinds of stages: swaps from the fullest GPU; a deal from scratch; a deal of a few GPUs at a time; the walk of
``triples``; a few changed counts and deals after a first look; changed counts; exchanges of subsets
(``levels``); annealed counts (``pairing``); sets within a window of loads (``covers``)."""

QUICK, BRISK, THOROUGH = range(3)
"""Paces: a first look under a cap that leaves room, a short run, a full run."""


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

_FURTHER = 2
"""Stages in turn that every further round adds."""


def stages(problem: PlacementProblem, rounds: int | None) -> Iterator[tuple[int, Stage]]:
    """Numbered stages for layers without nodes: those of the default mode, more with ``rounds``, None = without end."""
    once, turn = _order(problem)
    if problem.num_redundant:
        once = tuple(chain.from_iterable((stage, Stage(MEND)) if _looks(stage) else (stage,) for stage in once))
    else:  # there are no counts to change: the stage before comes again
        once = tuple(stage for stage in once if stage.kind != COUNTS)
        turn = tuple(turn[i - 1] if stage.kind == COUNTS else stage for i, stage in enumerate(turn))
    usual = None if rounds is None else len(once) + _FURTHER * (rounds - 1)
    return islice(enumerate(chain(once, cycle(turn))), usual)


def _looks(stage: Stage) -> bool:
    return stage.pace == QUICK and stage.kind in (DEAL, REPAIR, WALK)


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
