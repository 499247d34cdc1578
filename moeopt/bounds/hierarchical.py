"""Bounds for hierarchical problems, where groups of experts stay together on a node."""

from __future__ import annotations

from moeopt.bounds._rounding import Floats, nothing, quotient
from moeopt.bounds.partition import fullest_set, hot_on_few_gpus
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem


def node_load(problem: PlacementProblem) -> Floats:
    """Load of the fullest node over its GPUs; hierarchical problems only.

    Proof: every node hosts ``groups / nodes`` whole groups and all copies of their experts, hence
    their whole load. So the fullest node has at least the least load that the fullest node can have
    when groups are spread in equal numbers, which is found by exhaustive search (groups are few;
    where they are not, ``hot_on_few_gpus`` for groups on nodes is a bound on it), and its fullest
    GPU has at least the node's mean.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> problem = PlacementProblem([[9, 9, 1, 1]], num_gpus=2, num_nodes=2, num_groups=2)
    >>> bounds.node_load(problem).tolist()
    [18.0]
    """
    if not problem.hierarchical:
        return nothing(problem)
    groups = problem.load.values.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2)
    known = hot_on_few_gpus(PlacementProblem(LoadMatrix(groups), problem.num_nodes))
    fullest = fullest_set(groups.astype(float), problem.num_nodes, known)
    if not problem.load.is_integer:
        fullest = fullest * (1 - (problem.num_experts + 2) * 2.0**-53)  # sums of fractions are rounded
    return quotient(fullest, problem.num_gpus // problem.num_nodes, problem)
