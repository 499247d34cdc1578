"""The outsider: checks solutions and bounds in exact arithmetic, and imports nothing but problem and solution."""

from moeopt.verify.check import LayerVerdict
from moeopt.verify.solution import Verification, verify, verify_bound

__all__ = ["LayerVerdict", "Verification", "verify", "verify_bound"]
