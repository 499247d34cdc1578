"""Compiled parts of ``scenario_search``: the fullest GPU of every step, kept up to date change by change."""
