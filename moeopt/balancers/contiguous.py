"""The vanilla layout: experts in order, redundant slots repeat them from the start."""

from __future__ import annotations

import numpy as np

from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def contiguous(problem: PlacementProblem) -> Placement:
    """Place expert ``e`` in slot ``e``; redundant slots repeat the experts from the start.

    What engines do before they have seen any load: loads play no part, so this is the layout
    moves are counted from when no reference is given. With nodes and groups the same happens
    inside every node. O(layers * slots).
    """
    nodes = problem.num_nodes if problem.hierarchical else 1
    per_node = problem.num_experts // nodes
    local = np.arange(problem.slots // nodes) % per_node
    row = (np.arange(nodes)[:, None] * per_node + local).ravel()
    return Placement(np.tile(row, (problem.num_layers, 1)), problem.num_experts, problem.num_gpus)
