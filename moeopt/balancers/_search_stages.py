"""The stages of ``search`` on rows of one shape, each applied to the rows still above their target."""

import numpy as np

from moeopt._kernel import kernel
from moeopt.balancers._search_kernels import below, construct, descend, recount, repack, sum_loads
from moeopt.balancers.triples import _walk

# Measured on 58 x 256 recorded loads: more draws a GPU find better fits, fewer leave time for more GPUs.
_QUICK_DRAWS = 3
_DRAWS = 10

# From so many GPUs on, repairing a few of them no longer finds anything with three slots a GPU.
_MANY_GPUS = 8


@kernel
def improve(all_slots, all_weight, target, stage, seed, colocated, gaps, makespan):  # type: ignore[no-untyped-def]
    """One stage of the search on every row that is above its target; never leaves a row worse.

    Stage 0 swaps down. Later stages alternate between dealing anew and repairing the best known,
    under a cap between the target and the best makespan, and changes of the counts.
    """
    rows, gpus, k = all_slots.shape
    experts = all_weight.shape[1]
    size = np.zeros(experts + 1)
    copies = np.empty(experts + 1, np.int64)
    load = np.empty(gpus)
    state = np.empty(1, np.uint64)
    for row in range(rows):
        kept = all_slots[row]
        copies[:] = 0
        for expert in kept.reshape(-1):
            copies[expert] += 1
        for expert in range(experts):
            size[expert] = all_weight[row, expert] / copies[expert]
        before = sum_loads(kept, size, load)
        makespan[row] = before
        if before <= target[row] or (k == 1 and gpus * k == experts):
            continue
        state[0] = np.uint64(88172645463325252) + np.uint64(seed) * np.uint64(1000003) + np.uint64(stage)
        for _ in range(4):
            below(state, 2)
        slots = kept.copy()
        if stage == 0:
            descend(slots, size, load, target[row], colocated)
        elif (stage % 6 == 5 or k < 3) and gpus * k > experts:
            steps = max(20, 20000 // (gpus * k))
            recount(slots, all_weight[row], size, copies, target[row], steps, colocated, gaps, state)
        elif k >= 3:
            _redeal(slots, size, load, target[row], before, stage, colocated, state)
            if stage == 1 and gpus * k > experts and sum_loads(slots, size, load) > 1.01 * target[row]:
                recount(slots, all_weight[row], size, copies, target[row], 30, colocated, gaps, state)
                most = sum_loads(slots, size, load)
                best = slots.copy()
                repack(slots, size, load, (target[row] + most) / 2, 100, _DRAWS, colocated, state, best, most)
                slots = best
        else:
            continue
        copies[:] = 0
        for expert in slots.reshape(-1):
            copies[expert] += 1
        for expert in range(experts):
            size[expert] = all_weight[row, expert] / copies[expert]
        after = sum_loads(slots, size, load)
        if after < before:
            makespan[row] = after
            kept[:] = slots


@kernel
def _redeal(slots, size, load, target, before, stage, colocated, state):  # type: ignore[no-untyped-def]
    """Repack under a cap, from a new deal in odd stages; leaves the best found in ``slots``."""
    if slots.shape[1] == 3 and slots.shape[0] >= _MANY_GPUS and stage % 12 != 7:
        _walk_triples(slots, size, target, before, stage, colocated, state)
        return
    best = slots.copy()
    turn = stage % 6
    anew = colocated and turn != 3 and turn != 1
    cap, steps, draws = target, 3000, _DRAWS
    if stage == 1:
        anew = colocated
        cap, steps, draws = target * 1.0003, 60, _QUICK_DRAWS
    elif turn < 2:
        cap = (target + before) / 2
    if cap >= before:
        cap = target
    if anew:
        construct(slots, size, load, cap, draws, state)
    most = repack(slots, size, load, cap, steps, draws, colocated, state, best, before)
    slots[:] = best
    if sum_loads(slots, size, load) > target and most > cap:
        descend(slots, size, load, target, colocated)


@kernel
def _walk_triples(slots, all_size, target, before, stage, colocated, state):  # type: ignore[no-untyped-def]
    """Pack ``slots [gpus, 3]`` anew under a cap by the walk of ``pack_triples``, or leave them."""
    gpus = slots.shape[0]
    expert = slots.copy().reshape(-1)
    expert = expert[np.argsort(all_size[expert], kind="mergesort")]
    if stage == 1:
        cap, hot, cold, cooling, steps, loose = target * 1.0006, 1.0, 0.5, 1000, 2000, 3
    elif stage % 6 < 2:
        cap, hot, cold, cooling, steps, loose = (target + before) / 2, 2.0, 0.6, 20_000, 60_000, 4
    elif stage == 2:
        cap, hot, cold, cooling, steps, loose = target, 4.0, 0.66, 40_000, 60_000, 4
    else:
        cap, hot, cold, cooling, steps, loose = target, 4.0, 0.66, 150_000, 300_000, 4
    if cap >= before:
        cap = target
    size = all_size[expert] / (cap * (1 - 1e-12))
    slack = 1 - size.sum() / gpus
    if size[-1] > 1 or slack <= 0:
        return
    owner = expert.copy()
    for r in range(owner.size):  # empty slots are all different, experts are not
        if owner[r] == all_size.size - 1:
            owner[r] += r
    members = np.full((gpus, 3), -1, np.int64)
    seed = below(state, 1 << 40)
    if _walk(size, size, owner, not colocated, loose, hot * slack, cold * slack, cooling, steps, seed, members):
        for g in range(gpus):
            for t in range(3):
                slots[g, t] = expert[members[g, t]]
