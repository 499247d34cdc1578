"""Combinatorial lower bounds: no placement of the problem can have a smaller makespan.

Every bound is a function ``problem -> [layers]`` float64, NaN where it has nothing to say, and
carries its proof. All hold in the problem's widest reading (colocation and empty slots allowed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeopt.bounds._rounding import Floats, integral
from moeopt.bounds.general import hottest_replica, hottest_with_companions, mean_load, moves_needed
from moeopt.bounds.hierarchical import node_load
from moeopt.bounds.partition import certified_hottest_gpus, hot_on_few_gpus, hottest_experts, hottest_gpus
from moeopt.problem import PlacementProblem

BOUNDS: dict[str, Callable[[PlacementProblem], Floats]] = {
    "mean_load": mean_load,
    "hottest_replica": hottest_replica,
    "hottest_with_companions": hottest_with_companions,
    "hot_on_few_gpus": hot_on_few_gpus,
    "node_load": node_load,
}
"""Bounds on the makespan that cost next to nothing, in the order in which a tie is credited."""


@dataclass(frozen=True, eq=False)
class Bound:
    """The best of several bounds: ``value [layers]``, what proves each, and how to prove it again.

    ``certificate`` has, per layer, what an independent checker needs beside the problem, as a
    JSON-able dict; None where the bound rests on a solver's search, empty where nothing is known.
    """

    value: Floats
    source: tuple[str, ...]
    certificate: tuple[dict[str, Any] | None, ...] = ()


def lower_bound(problem: PlacementProblem) -> Bound:
    """Best cheap bound on the problem's objective, per layer, and where it came from.

    ``hottest_gpus`` can be sharper where a few experts dominate, and is dearer; ``solvers.solve`` tries it.
    """
    functions = BOUNDS if problem.objective == "makespan" else {"moves_needed": moves_needed}
    values = np.array([function(problem) for function in functions.values()])
    best = np.argmax(np.where(np.isnan(values), -np.inf, values), axis=0)
    source = tuple(tuple(functions)[i] for i in best)
    certificate: list[dict[str, Any]] = [{"method": name} for name in source]
    if "hot_on_few_gpus" in source:
        for layer, hottest in enumerate(hottest_experts(problem)):
            if source[layer] == "hot_on_few_gpus":
                certificate[layer]["hottest"] = hottest
    return Bound(values[best, np.arange(problem.num_layers)], source, tuple(certificate))


__all__ = [
    "BOUNDS",
    "Bound",
    "certified_hottest_gpus",
    "hot_on_few_gpus",
    "hottest_gpus",
    "hottest_replica",
    "hottest_with_companions",
    "integral",
    "lower_bound",
    "mean_load",
    "moves_needed",
    "node_load",
]
