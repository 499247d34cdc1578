"""The yardstick for Mixture-of-Experts expert placement."""

from moeopt.compare import compare
from moeopt.eplb_api import rebalance_experts
from moeopt.errors import InputError, MoeoptError, PlacementError, TraceError, UnsupportedError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution, SolveStatus, gap_to_bound

__all__ = [
    "InputError",
    "LoadMatrix",
    "MoeoptError",
    "Placement",
    "PlacementError",
    "PlacementProblem",
    "Solution",
    "SolveStatus",
    "TraceError",
    "UnsupportedError",
    "compare",
    "gap_to_bound",
    "rebalance_experts",
]
