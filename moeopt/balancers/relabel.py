"""Optimal relabelling: rename the GPUs of a placement so that the most copies stay put."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.balancers._reasons import counts_no_moves
from moeopt.balancers.contiguous import contiguous
from moeopt.balancers.start import as_start, first_placement
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(counts_no_moves)
def relabel(problem: PlacementProblem, *, start: Placement | Any = None) -> Placement:
    """Permute the GPUs of a placement to minimise moves; GPU loads only change places.

    An assignment problem per layer: new GPUs against old ones, profit = copies in common, solved
    exactly [1]_. Where groups bind experts to nodes, GPUs are permuted within nodes and whole
    nodes against each other (a node's profit is its own optimal assignment), which is optimal
    among the relabellings that keep nodes together.

    Parameters
    ----------
    start
        The placement to relabel (Placement or ``[layers, slots]``); by default EPLB's, dealt apart
        where copies may not share a GPU. Moves are counted from
        ``problem.reference``, or from the contiguous layout where there is none.

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised: names alone seldom reach a limit.
    InputError
        If ``start`` is no placement; PlacementError if it breaks the problem.

    Notes
    -----
    O(layers * (gpus**3 + slots * replicas)).

    References
    ----------
    .. [1] D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans.
       Aerosp. Electron. Syst. 52 (2016), doi 10.1109/TAES.2016.140952

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers, metrics
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2, reference=[[1, 2, 0, 3]])
    >>> start = balancers.eplb(problem)
    >>> renamed = balancers.relabel(problem, start=start)
    >>> metrics.moves(problem.reference, start).tolist(), metrics.moves(problem.reference, renamed).tolist()
    ([4], [0])
    """
    home = contiguous(problem) if problem.reference is None else problem.reference
    first = first_placement(problem) if start is None else as_start(problem, start)
    common = np.zeros((problem.num_layers, problem.num_gpus, problem.num_gpus), dtype=np.int64)
    _count_common(first.copies, home.copies, common)
    nodes = problem.num_nodes if problem.hierarchical else 1
    rows = [layer[_source_of_gpu(shared, nodes)] for layer, shared in zip(first.by_gpu, common, strict=True)]
    return Placement(np.array(rows).reshape(problem.num_layers, -1), problem.num_experts, problem.num_gpus)


def _source_of_gpu(common: NDArray[np.int64], nodes: int) -> NDArray[np.intp]:
    """``[gpus]`` the GPU of the new placement whose content each GPU should get."""
    from scipy.optimize import linear_sum_assignment

    gpus = len(common)
    size = gpus // nodes
    source = np.empty((nodes, nodes, size), dtype=np.intp)
    profit = np.empty((nodes, nodes))
    for new in range(nodes):
        for old in range(nodes):
            block = common[new * size : (new + 1) * size, old * size : (old + 1) * size]
            old_gpu, new_gpu = linear_sum_assignment(block.T, maximize=True)
            source[new, old] = new * size + new_gpu
            profit[new, old] = block[new_gpu, old_gpu].sum()
    old_node, new_node = linear_sum_assignment(profit.T, maximize=True)
    return source[new_node, old_node].ravel()


@kernel
def _count_common(new, old, common):  # type: ignore[no-untyped-def]
    """``common[layer, a, b]``: copies that new GPU ``a`` and old GPU ``b`` both hold."""
    layers, gpus, experts = new.shape
    holders = np.empty(gpus, dtype=np.int64)
    for layer in range(layers):
        for expert in range(experts):
            count = 0
            for gpu in range(gpus):
                if old[layer, gpu, expert] > 0:
                    holders[count] = gpu
                    count += 1
            for a in range(gpus):
                if new[layer, a, expert] > 0:
                    for b in holders[:count]:
                        common[layer, a, b] += min(new[layer, a, expert], old[layer, b, expert])
