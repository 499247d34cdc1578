"""Minimise moves: swap experts of near-equal load back to the GPU they came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeopt import _arguments as arguments
from moeopt._kernel import kernel
from moeopt._stop import Flag, raised, stoppable
from moeopt.balancers._reasons import counts_no_moves
from moeopt.balancers.contiguous import contiguous
from moeopt.balancers.start import as_start, first_placement
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(counts_no_moves)
def minimize_moves(problem: PlacementProblem, *, start: Placement | Any = None, tolerance: float = 0.02) -> Placement:
    """Bring replicas home by swapping them for one of near-equal load.

    A replica that sits away from the reference is exchanged with a replica on its home GPU that
    is itself away from home, if their loads differ by at most ``tolerance`` of the larger one.
    Every swap saves at least one move; the closest load is chosen, and one that also goes home
    wins among loads within the tolerance. Within nodes only, where groups bind experts to nodes.

    Parameters
    ----------
    start
        The placement to tidy (Placement or ``[layers, slots]``); by default EPLB's, dealt apart where copies
        may not share a GPU. Home is ``problem.reference``, or the
        contiguous layout where there is none.
    tolerance
        Largest relative difference of the two loads, >= 0.

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised: no limit and no ceiling is kept.
    InputError
        If ``tolerance`` is no number >= 0 or ``start`` no placement; PlacementError if that breaks the problem.

    Notes
    -----
    Replica counts stay as they are. A GPU load changes by at most ``tolerance`` of what was
    swapped. O(layers * slots * slots_per_gpu) a pass.
    """
    tolerance = arguments.fraction("tolerance", tolerance)
    home = contiguous(problem) if problem.reference is None else problem.reference
    first = first_placement(problem) if start is None else as_start(problem, start)
    phy2log = first.phy2log.copy()
    share = problem.load.values / np.maximum(first.replica_count, 1)
    node = problem.node_of_gpu if problem.hierarchical else np.zeros(problem.num_gpus, dtype=np.intp)
    copies = first.copies.copy()

    def work(stop: Flag) -> None:
        _bring_home(phy2log, share, node, copies, home.copies, problem.allow_colocated, tolerance, stop)

    stoppable(work)
    return Placement(phy2log, problem.num_experts, problem.num_gpus)


@kernel
def _bring_home(phy2log, share, node, copies, home, colocated, tolerance, stop):  # type: ignore[no-untyped-def]
    """Swap in place until no replica can be brought home."""
    layers, gpus = copies.shape[:2]
    size = phy2log.shape[1] // gpus
    for layer in range(layers):
        here, there = copies[layer], home[layer]
        changed = True
        while changed:
            changed = False
            for slot in range(phy2log.shape[1]):
                if raised(stop):
                    return
                gpu, expert = slot // size, phy2log[layer, slot]
                if expert < 0 or here[gpu, expert] <= there[gpu, expert]:
                    continue
                best, best_rank = -1, np.inf
                for target in range(gpus):
                    if here[target, expert] >= there[target, expert] or node[target] != node[gpu]:
                        continue
                    for other in range(target * size, (target + 1) * size):
                        swap = phy2log[layer, other]
                        weight = 0.0 if swap < 0 else share[layer, swap]
                        distance = abs(share[layer, expert] - weight)
                        if distance > tolerance * max(share[layer, expert], weight):
                            continue
                        if swap >= 0 and here[target, swap] <= there[target, swap]:
                            continue
                        if not colocated and (here[target, expert] > 0 or (swap >= 0 and here[gpu, swap] > 0)):
                            continue
                        goes_home = swap >= 0 and here[gpu, swap] < there[gpu, swap]
                        rank = distance if goes_home else distance + share[layer, expert] + 1
                        if rank < best_rank:
                            best, best_rank = other, rank
                if best < 0:
                    continue
                target, swap = best // size, phy2log[layer, best]
                phy2log[layer, slot], phy2log[layer, best] = swap, expert
                here[gpu, expert] -= 1
                here[target, expert] += 1
                if swap >= 0:
                    here[target, swap] -= 1
                    here[gpu, swap] += 1
                changed = True
