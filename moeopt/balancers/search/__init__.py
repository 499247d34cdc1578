"""A near-optimal balancer: EPLB's placement, improved by exchanges until it meets the lower bound."""

from moeopt.balancers.search.methods import quick_search, search

__all__ = ["quick_search", "search"]
