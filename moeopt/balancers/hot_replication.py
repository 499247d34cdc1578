"""Simple replication: a copy of the hottest experts on every GPU, nothing else moves."""

from __future__ import annotations

import numpy as np

from moeopt.balancers._reasons import counts_no_moves
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def _not_everywhere(problem: PlacementProblem) -> str:
    gpus, experts = problem.num_gpus, problem.num_experts
    if experts % gpus:
        return f"needs num_experts={experts} to be a multiple of num_gpus={gpus}"
    hot = problem.slots_per_gpu - experts // gpus
    if hot and problem.hierarchical:
        return "copies experts to every node; expert groups must stay on one"
    if hot and not problem.allow_empty_slots:
        return "leaves slots empty, and allow_empty_slots=False"
    if hot > experts:
        return f"has {hot} spare slots per GPU for only {experts} experts"
    return counts_no_moves(problem)


@refuses(_not_everywhere)
def hot_replication(problem: PlacementProblem) -> Placement:
    """Copy the ``k`` hottest experts to every GPU, ``k = slots_per_gpu - experts / GPUs``.

    Every other expert stays at its home in the contiguous layout. The home GPU of a hot expert
    needs no second copy, so a spare slot there stays empty. Equal loads: lower id first.
    O(layers * (experts log experts + slots)).

    Raises
    ------
    UnsupportedError
        If experts do not divide evenly over GPUs, slots may not stay empty although ``k > 0``,
        groups must stay on their node, or moves are limited or minimised.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2, num_slots=8, allow_empty_slots=True)
    >>> balancers.hot_replication(problem).phy2log.tolist()
    [[0, 1, 2, -1, 3, 4, 5, 0]]
    """
    gpus, experts = problem.num_gpus, problem.num_experts
    home_size = experts // gpus
    hot = problem.slots_per_gpu - home_size
    by_gpu = np.empty((problem.num_layers, gpus, problem.slots_per_gpu), dtype=np.int64)
    by_gpu[:, :, :home_size] = np.arange(experts).reshape(gpus, home_size)
    hottest = np.argsort(-problem.load.values, axis=1, kind="stable")[:, :hot]
    at_home = hottest[:, None, :] // home_size == np.arange(gpus)[None, :, None]
    by_gpu[:, :, home_size:] = np.where(at_home, -1, hottest[:, None, :])
    return Placement(by_gpu.reshape(problem.num_layers, -1), experts, gpus)
