"""Heuristics: every balancer is a callable ``problem -> Placement``."""
