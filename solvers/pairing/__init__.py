"""Two slots per GPU: only the replica counts matter, and a relaxation of their choice proves bounds."""

from solvers.pairing.method import solve_layer, solve_pairing

__all__ = ["solve_layer", "solve_pairing"]
