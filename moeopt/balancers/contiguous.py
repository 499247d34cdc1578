"""The vanilla layout: experts in order, redundant slots repeat them from the start."""

from __future__ import annotations

import numpy as np

from moeopt.balancers._reasons import counts_no_moves
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(counts_no_moves)
def contiguous(problem: PlacementProblem) -> Placement:
    """Place expert ``e`` in slot ``e``; redundant slots repeat the experts from the start.

    What engines do before they have seen any load: loads play no part, so this is the layout
    moves are counted from when no reference is given. With nodes and groups the same happens
    inside every node. Where copies must not share a GPU, slots beyond one per expert stay empty.
    O(layers * slots).

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8)
    >>> balancers.contiguous(problem).phy2log.tolist()
    [[0, 1, 2, 3, 4, 5, 0, 1]]
    """
    nodes = problem.num_nodes if problem.hierarchical else 1
    per_node = problem.num_experts // nodes
    local = np.arange(problem.slots // nodes) % per_node
    row = (np.arange(nodes)[:, None] * per_node + local).reshape(problem.num_gpus, -1)
    if not problem.allow_colocated:
        row[:, per_node:] = -1
    return Placement(np.tile(row.ravel(), (problem.num_layers, 1)), problem.num_experts, problem.num_gpus)
