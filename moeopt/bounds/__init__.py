"""Combinatorial lower bounds: no placement of the problem can do better.

Every bound is a function ``problem -> [layers]`` float64, NaN where it has nothing to say, and
carries its proof. Those on the makespan hold in the problem's widest reading (colocation and empty
slots allowed), for equal shares as for the optimal split; those on moves read the problem as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeopt.bounds._rounding import Floats, integral
from moeopt.bounds.bound import Bound, Certificate
from moeopt.bounds.general import hottest_replica, hottest_with_companions, mean_load
from moeopt.bounds.hierarchical import node_load
from moeopt.bounds.moves import (
    arrivals_needed,
    copies_needed,
    makespan_within_moves,
    moves_needed,
    regrouping_needed,
)
from moeopt.bounds.partition import certified_hottest_gpus, hot_on_few_gpus, hottest_experts, hottest_gpus
from moeopt.bounds.steps import steps_bound
from moeopt.problem import PlacementProblem

BOUNDS: dict[str, Callable[[PlacementProblem], Floats]] = {
    "mean_load": mean_load,
    "hottest_replica": hottest_replica,
    "hottest_with_companions": hottest_with_companions,
    "hot_on_few_gpus": hot_on_few_gpus,
    "node_load": node_load,
    "makespan_within_moves": makespan_within_moves,
    "moves_needed": moves_needed,
    "arrivals_needed": arrivals_needed,
    "copies_needed": copies_needed,
    "regrouping_needed": regrouping_needed,
}
"""Bounds that cost next to nothing, in the order in which a tie is credited; each is on one objective."""

ON_MOVES = frozenset({"moves_needed", "arrivals_needed", "copies_needed", "regrouping_needed"})
"""Those of ``BOUNDS`` that are on the moves; the others are on the makespan."""


def lower_bound(problem: PlacementProblem) -> Bound:
    """Best cheap bound on the problem's objective, per layer, and where it came from.

    Others can be sharper and are more expensive: ``hottest_gpus`` where a few experts dominate, and those of
    ``solvers``. ``solvers.solve`` tries them.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> found = bounds.lower_bound(PlacementProblem([[9, 5, 4, 2], [30, 5, 4, 2]], num_gpus=2))
    >>> found.value.tolist(), found.source
    ([11.0, 32.0], ('hottest_with_companions', 'hottest_with_companions'))
    """
    names = [name for name in BOUNDS if (name in ON_MOVES) == (problem.objective == "moves")]
    values = np.array([BOUNDS[name](problem) for name in names])
    best = np.argmax(np.where(np.isnan(values), -np.inf, values), axis=0)
    source = [names[i] for i in best]
    certificate: list[Certificate] = [{"method": name} for name in source]
    if "hot_on_few_gpus" in source:
        for layer, hottest in enumerate(hottest_experts(problem)):
            if source[layer] == "hot_on_few_gpus":
                certificate[layer]["hottest"] = hottest
    return Bound(values[best, np.arange(problem.num_layers)], source, certificate)


__all__ = [
    "BOUNDS",
    "ON_MOVES",
    "Bound",
    "Certificate",
    "arrivals_needed",
    "certified_hottest_gpus",
    "copies_needed",
    "hot_on_few_gpus",
    "hottest_gpus",
    "hottest_replica",
    "hottest_with_companions",
    "integral",
    "lower_bound",
    "makespan_within_moves",
    "mean_load",
    "moves_needed",
    "node_load",
    "regrouping_needed",
    "steps_bound",
]
