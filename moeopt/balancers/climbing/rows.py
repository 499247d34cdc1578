"""The work of stages on rows of one shape: layers without nodes, or single nodes."""

import numpy as np

from moeopt._kernel import copy_rows, kernel
from moeopt._random import random_state
from moeopt.balancers.climbing.counts import recount
from moeopt.balancers.climbing.deals import construct, repack
from moeopt.balancers.climbing.stages import BRISK, QUICK
from moeopt.balancers.swaps import descend, least_makespan, sum_loads
from moeopt.balancers.triples import walk_row

FAR = 1.01
"""How far above the target a first look leaves layers whose counts must be wrong."""

_MOST_SWAPS = 10_000
"""Swaps that a stage makes at most, more than a recorded layer needs."""

# Measured on 58 x 256 recorded loads: more draws per GPU find better fits, fewer leave time for more GPUs.
_QUICK_DRAWS = 3
_DRAWS = 10


# One kernel for each kind, so that a layer compiles no more than the stages that it meets.
@kernel
def swap_rows(all_slots, all_weight, target, colocated, makespan, stop):  # type: ignore[no-untyped-def]
    """Swaps on every row that is above its target; like all stages they leave no row worse."""
    for row in range(all_slots.shape[0]):
        slots, size, _, load = _opened(all_slots[row], all_weight[row], makespan, row)
        if makespan[row] > target[row]:
            descend(slots, size, load, target[row], _MOST_SWAPS, colocated, stop)
            _keep(slots, all_slots[row], size, load, makespan, row)


@kernel
def recount_rows(all_slots, all_weight, target, number, seed, colocated, gaps, makespan, stop):  # type: ignore[no-untyped-def]
    """Changed counts on every row that is above its target."""
    steps = max(20, 20000 // all_slots[0].size)
    for row in range(all_slots.shape[0]):
        slots, size, copies, load = _opened(all_slots[row], all_weight[row], makespan, row)
        if makespan[row] > target[row]:
            state = random_state(seed, number)
            recount(slots, all_weight[row], size, copies, target[row], steps, colocated, gaps, state, stop)
            _keep(slots, all_slots[row], size, load, makespan, row)


@kernel
def walk_rows(all_slots, all_weight, target, number, seed, pace, halfway, colocated, makespan, stop):  # type: ignore[no-untyped-def]
    """The walk of ``triples`` on every row that is above its target, and may come closer with other contents."""
    for row in range(all_slots.shape[0]):
        slots, size, copies, load = _opened(all_slots[row], all_weight[row], makespan, row)
        aim = max(target[row], least_makespan(slots, size))
        if makespan[row] > aim:
            state = random_state(seed, number)
            walk_row(slots, size, aim, makespan[row], pace, halfway, colocated, state, stop)
            _count(slots, all_weight[row], copies, size)
            _keep(slots, all_slots[row], size, load, makespan, row)


@kernel
def deal_rows(all_slots, all_weight, target, number, seed, scratch, pace, halfway, colocated, makespan, stop):  # type: ignore[no-untyped-def]
    """Deals, from scratch or not, on every row that is above its target, and may come closer with other contents."""
    for row in range(all_slots.shape[0]):
        slots, size, _, load = _opened(all_slots[row], all_weight[row], makespan, row)
        aim = max(target[row], least_makespan(slots, size))
        if makespan[row] > aim:
            state = random_state(seed, number)
            _redeal(slots, size, load, aim, makespan[row], pace, halfway, scratch, colocated, state, stop)
            _keep(slots, all_slots[row], size, load, makespan, row)


@kernel
def mend_rows(all_slots, all_weight, target, number, seed, colocated, gaps, makespan, stop):  # type: ignore[no-untyped-def]
    """A few changed counts, then deals, on every row that a first look left far from its target."""
    for row in range(all_slots.shape[0]):
        slots, size, copies, load = _opened(all_slots[row], all_weight[row], makespan, row)
        if makespan[row] > FAR * target[row]:
            state = random_state(seed, number)
            recount(slots, all_weight[row], size, copies, target[row], 30, colocated, gaps, state, stop)
            most = sum_loads(slots, size, load)
            best = slots.copy()
            repack(slots, size, load, (target[row] + most) / 2, 100, _DRAWS, colocated, state, best, most, stop)
            _keep(best, all_slots[row], size, load, makespan, row)


@kernel
def _opened(kept, weight, makespan, row):  # type: ignore[no-untyped-def]
    """Slots to work on, sizes and copies of experts, GPU loads; notes the makespan."""
    slots = kept.copy()
    size, copies = np.zeros(weight.size + 1), np.empty(weight.size + 1, np.int64)
    load = np.empty(kept.shape[0])
    _count(slots, weight, copies, size)
    makespan[row] = sum_loads(slots, size, load)
    return slots, size, copies, load


@kernel
def _keep(slots, kept, size, load, makespan, row):  # type: ignore[no-untyped-def]
    """Keep what has become of a row if that is better."""
    after = sum_loads(slots, size, load)
    if after < makespan[row]:
        makespan[row] = after
        copy_rows(slots, kept)


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
    copy_rows(best, slots)
    if sum_loads(slots, size, load) > target and most > cap:
        descend(slots, size, load, target, _MOST_SWAPS, colocated, stop)
