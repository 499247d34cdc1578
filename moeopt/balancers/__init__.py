"""Heuristics: every balancer is a callable ``problem -> Placement``, one file each."""

from collections.abc import Callable

from moeopt.balancers.bldm import bldm
from moeopt.balancers.contiguous import contiguous
from moeopt.balancers.eplb import eplb
from moeopt.balancers.hot_replication import hot_replication
from moeopt.balancers.local_search import local_search
from moeopt.balancers.minimize_moves import minimize_moves
from moeopt.balancers.relabel import relabel
from moeopt.balancers.repair import repair, repaired
from moeopt.balancers.scenario_search import scenario_search
from moeopt.balancers.search import quick_search, search
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

BALANCERS: dict[str, Callable[[PlacementProblem], Placement]] = {
    "contiguous": contiguous,
    "eplb": eplb,
    "bldm": bldm,
    "hot_replication": hot_replication,
    "minimize_moves": minimize_moves,
    "relabel": relabel,
    "local_search": local_search,
    "search": search,
}
"""Every balancer of a problem without limits by name, in the order of reports; ``repair`` is the one for limits,
``scenario_search`` for problems that know their steps."""

__all__ = [
    "BALANCERS",
    "bldm",
    "contiguous",
    "eplb",
    "hot_replication",
    "local_search",
    "minimize_moves",
    "quick_search",
    "relabel",
    "repair",
    "repaired",
    "scenario_search",
    "search",
]
