"""Three slots per GPU: the configuration LP, its bound for two to four, and packings from its solution."""

from solvers.configuration.dual import ConfigurationBound
from solvers.configuration.method import configuration_bound, solve_configuration, solve_layer

__all__ = ["ConfigurationBound", "configuration_bound", "solve_configuration", "solve_layer"]
