"""The yardstick for Mixture-of-Experts expert placement."""

from moeopt.bounds import Bound
from moeopt.certificates import write_certificates
from moeopt.compare import compare
from moeopt.eplb_api import rebalance_experts
from moeopt.errors import (
    ContradictionError,
    InputError,
    MoeoptError,
    NoPlacementError,
    PlacementError,
    TraceError,
    UnsupportedError,
)
from moeopt.foreign import from_rebalance_experts
from moeopt.front import MovesFront, moves_front
from moeopt.instances import instance
from moeopt.load import LoadMatrix
from moeopt.migration import migration_rounds, migration_senders
from moeopt.placement import Placement
from moeopt.policies import Policy
from moeopt.problem import PlacementProblem
from moeopt.replay import replay
from moeopt.slots import SlotBudget, slot_budget
from moeopt.solution import Solution, SolveStatus, Stop, gap_to_bound
from moeopt.verify import verify, verify_bound

__all__ = [
    "Bound",
    "ContradictionError",
    "InputError",
    "LoadMatrix",
    "MoeoptError",
    "MovesFront",
    "NoPlacementError",
    "Placement",
    "PlacementError",
    "PlacementProblem",
    "Policy",
    "SlotBudget",
    "Solution",
    "SolveStatus",
    "Stop",
    "TraceError",
    "UnsupportedError",
    "compare",
    "from_rebalance_experts",
    "gap_to_bound",
    "instance",
    "migration_rounds",
    "migration_senders",
    "moves_front",
    "rebalance_experts",
    "replay",
    "slot_budget",
    "verify",
    "verify_bound",
    "write_certificates",
]
