"""Few slots per GPU, no replicas: which sets of experts may share a GPU, and whether they cover all experts."""

from solvers.window_cover.method import solve_layer, solve_window_cover

__all__ = ["solve_layer", "solve_window_cover"]
