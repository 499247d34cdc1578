"""Bounds for hierarchical problems, where groups of experts stay together on a node."""

from __future__ import annotations

from moeopt.bounds._rounding import Floats, nothing, quotient
from moeopt.bounds.partition import hot_on_few_gpus
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem


def node_load(problem: PlacementProblem) -> Floats:
    """Load of the fullest node over its GPUs; hierarchical problems only.

    Proof: every node hosts ``groups / nodes`` whole groups and all copies of their experts, hence
    their whole load. So groups are spread over nodes as experts of a partition are over GPUs, the
    fullest node has at least that partition's bound (``hot_on_few_gpus``), and its fullest GPU at
    least the node's mean.
    """
    if not problem.hierarchical:
        return nothing(problem)
    values = problem.load.values
    groups = values.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2)
    fullest = hot_on_few_gpus(PlacementProblem(LoadMatrix(groups), problem.num_nodes))
    if not problem.load.is_integer:
        fullest = fullest * (1 - (problem.num_experts + 2) * 2.0**-53)  # the group sums are rounded
    return quotient(fullest, problem.num_gpus // problem.num_nodes, problem)
