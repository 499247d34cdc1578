"""Dispatch: the rule by which an expert's tokens find a copy, and what it makes of the fullest GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import shown
from moeopt._arrays import exact_integers
from moeopt.errors import InputError
from moeopt.placement import Placement
from moeopt.splitting import least_makespans

RULES = ("even", "random", "local", "optimal")
"""The rules, see ``docs/problem.md``."""

DRAWS = 8
"""Draws of which ``random`` is the mean."""


def fullest(steps: NDArray[Any], placement: Placement, rule: str, draws: int, seed: int) -> NDArray[np.float64]:
    """Load of the fullest GPU under a rule, ``[steps, layers]``, for loads that are finite and >= 0.

    Raises
    ------
    InputError
        If the rule is unknown, or is ``random`` and the loads are no counts.
    """
    if rule not in RULES:
        raise InputError(f"dispatch must be one of {', '.join(RULES)}, got {shown(rule)}")
    if rule == "optimal":
        tokens, gpus = least_makespans(steps, placement)
        return tokens / gpus
    if rule == "random":
        steps = exact_integers("loads of dispatch=random", steps)
    result = np.empty(steps.shape[:2])
    for layer in range(placement.num_layers):
        copies = placement[layer].copies[0]
        if rule == "random":
            result[:, layer] = _random(steps[:, layer], copies, draws, seed)
        else:
            result[:, layer] = (steps[:, layer].astype(float) @ _shares(copies, rule).T).max(axis=1)
    return result


def _shares(copies: NDArray[np.int64], rule: str) -> NDArray[np.float64]:
    """Share of every expert's tokens that every GPU serves, ``[gpus, experts]``."""
    placed = np.maximum(copies.sum(axis=0), 1)
    if rule == "even":
        return copies / placed
    holds = copies > 0
    return (holds * placed + (~holds).sum(axis=0) * copies) / (placed * len(copies))


def _random(counts: NDArray[np.int64], copies: NDArray[np.int64], draws: int, seed: int) -> NDArray[np.float64]:
    """Mean over draws of the fullest GPU, ``[steps]``; every layer has the same random numbers."""
    rng = np.random.default_rng(seed)
    holds = copies > 0
    drawn = holds.sum(axis=0) > 1
    load = np.tile(counts[:, ~drawn].astype(float) @ holds[:, ~drawn].T, (draws, 1, 1))
    for expert in np.flatnonzero(drawn):
        hosts = np.flatnonzero(holds[:, expert])
        chance = copies[hosts, expert] / copies[:, expert].sum()
        load[:, :, hosts] += rng.multinomial(counts[:, expert], chance, size=load.shape[:2])
    return load.max(axis=2).mean(axis=0)
