"""How ``search`` improves placements whose moves are free: stages for layers without nodes, and node by node."""

from moeopt.balancers.climbing.climb import near_bound
from moeopt.balancers.climbing.nodes import climbed

__all__ = ["climbed", "near_bound"]
