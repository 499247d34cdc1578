"""The least makespan that a budget of moves buys: ``repair`` at one ceiling after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt._kernel import copy_into, kernel
from moeopt._stop import raised, stoppable
from moeopt.balancers.repairing.best import Best, Floats
from moeopt.balancers.repairing.kernels import count_moves, enter, exchange, new_row, recount_loads
from moeopt.balancers.repairing.rows import anneal_rows, repair_rows, rows_of
from moeopt.placement import Placement

_HALVINGS = 14
"""Ceilings tried between the bound and the start."""

_PARTS = 8
"""Lower and lower ceilings among which the steps of an annealing are shared."""

At = Callable[[NDArray[Any], Floats], Placement]
"""``at(layers, ceiling)``: a repair of these layers with few moves."""


def bisect(best: Best, layers: NDArray[Any], at: At) -> None:
    """Halve the ceiling's interval again and again, offering what every ceiling gives.

    Below the lowest ceiling that was kept a few more are tried: a greedy's moves do not grow steadily.
    """
    problem = best.problem
    low = bounds.lower_bound(problem).value[layers]
    high = best.makespan[layers].copy()
    for _ in range(_HALVINGS):
        if best.late:
            return
        middle = (low + high) / 2
        best.offer(layers, at(layers, middle))
        kept = best.makespan[layers] <= middle
        low, high = np.where(kept, low, middle), np.minimum(high, best.makespan[layers])
    floor = bounds.lower_bound(problem).value[layers]
    for share in (0.98, 0.95, 0.9, 0.8):
        if best.late:
            return
        best.offer(layers, at(layers, floor + share * (best.makespan[layers] - floor)))


def anneal_within(best: Best, layers: NDArray[Any], steps: int, seed: int, deadline: float | None, hot: float) -> None:
    """Anneal towards lower and lower ceilings, with ``steps`` steps or until the clock says ``deadline``.

    The distance to the bound is cut by a share that halves after a failure and grows after a success.
    """
    problem = best.problem[layers]
    assert problem.max_moves is not None
    floor = bounds.lower_bound(problem).value
    share = np.full(len(layers), 0.1)
    for turn in range(_PARTS) if deadline is None else count():
        if deadline is not None and time.perf_counter() >= deadline:
            return
        now = best.placement()[layers]
        rows = rows_of(problem, now, best.deadline)
        ceiling = best.makespan[layers] - share * (best.makespan[layers] - floor)
        ceiling[~best.reached[layers]] = np.inf  # where the budget is exceeded, only moves count
        held, moves = repair_rows(rows, rows.held(now), np.full(len(rows.member), -1.0), forwards=False)
        moves += np.repeat(problem.max_moves - best.moves[layers], rows.per_layer) + 1
        anneal_rows(rows, held, moves, np.repeat(ceiling, rows.per_layer), steps // _PARTS, seed + turn, deadline, hot)
        improved = best.offer(layers, rows.placement(held))
        share = np.where(improved, np.minimum(1.5 * share, 0.5), share / 2)


def limited_descent(best: Best, layers: NDArray[Any]) -> None:
    """Offer what swaps of the fullest GPU reach within the budget of moves, starting from the reference."""
    problem = best.problem[layers]
    assert problem.reference is not None
    assert problem.max_moves is not None
    nodes = problem.num_nodes if problem.hierarchical else 1
    held = np.where(problem.reference.phy2log < 0, problem.num_experts, problem.reference.phy2log)
    weight = problem.load.values.astype(float)
    per_node, most = np.int64(problem.num_gpus // nodes), np.int64(problem.max_moves)
    gpus = np.int64(problem.num_gpus)
    stoppable(lambda stop: _limited(held, weight, gpus, per_node, most, problem.allow_colocated, stop), best.deadline)
    held = np.where(held == problem.num_experts, -1, held)
    best.offer(layers, Placement(held, problem.num_experts, problem.num_gpus))


@kernel
def _limited(held, weight, gpus, per_node, most, colocated, stop):  # type: ignore[no-untyped-def]
    """Swap the fullest GPU of every row down, each time with the swap that leaves the lighter pair."""
    row = new_row(held.shape[1], gpus, weight.shape[1])
    k = held.shape[1] // gpus
    empty = weight.shape[1]
    for r in range(held.shape[0]):
        enter(row, held[r], weight[r], held[r])
        here, home, load = row.here, row.home, row.load
        for _ in range(most * held.shape[1] + 1):
            if raised(stop):
                break
            recount_loads(row)
            left = most - count_moves(row)
            f = np.argmax(load)
            top = load[f] * (1 - 1e-12)
            i_top = j_top = -1
            for h in range(f // per_node * per_node, (f // per_node + 1) * per_node):
                if h == f or (load[f] + load[h]) / 2 >= top:
                    continue
                for i in range(f * k, (f + 1) * k):
                    a = row.held[i]
                    for j in range(h * k, (h + 1) * k):
                        b = row.held[j]
                        give = row.size[a] - row.size[b]
                        after = max(load[f] - give, load[h] + give)
                        if give <= 0.0 or after >= top:
                            continue
                        cost = int(here[h, a] >= home[h, a]) - int(here[f, a] > home[f, a])
                        if b < empty:
                            cost += int(here[f, b] >= home[f, b]) - int(here[h, b] > home[h, b])
                        if cost > left or not (colocated or (here[h, a] == 0 and (b == empty or here[f, b] == 0))):
                            continue
                        top, i_top, j_top = after, i, j
            if i_top < 0:
                break
            exchange(row, i_top, j_top)
        copy_into(row.held, held[r])
