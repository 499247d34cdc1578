"""Ways down to counts that reach a threshold: most experts settled as walks take them, or as in good counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from solvers.drive import Limits
from solvers.pairing.branch import FURTHER, Left, squeeze
from solvers.pairing.model import Floats, Integers

_DIVES = ((0.2, 60), (0.1, 60), (0.3, 100), (0.2, 100))
"""Shares of the open experts settled at a time, and how many are left open."""

_NEAR = (70, 70, 70, 70)
"""Experts left open near good counts."""

_NOISE = 0.1
"""Standard deviation of what is added to mean counts when dives are repeated."""

_QUICK = 40
"""Steps for prices on the way of a dive, which proves nothing."""


def parts(left: Left, counts: Integers, noisy: bool, random: np.random.Generator, limits: Limits) -> Iterator[Left]:
    """Parts of what is left with few experts open: by dives, random ones if ``noisy``, and near these ``counts``."""
    experts = len(counts)
    for share, few in _DIVES:
        yield _dive(left, share, few, random.normal(0.0, _NOISE, experts) if noisy else np.zeros(experts), limits)
    for few in _NEAR:
        yield _near(left, counts, few, random.random(experts), limits)


def _dive(left: Left, share: float, few: int, noise: Floats, limits: Limits) -> Left:
    """Settle the surest ``share`` of the open counts at their nearest, again and again, until only ``few`` are open."""
    while not left.nothing and not limits.late:
        expert, unsettled = left.walks.expert, left.walks.options > 1
        if unsettled.sum() <= few:
            break
        away = np.abs(left.walks.count - (left.mean + noise)[expert])
        nearest = np.full(len(unsettled), np.inf)
        np.minimum.at(nearest, expert, away)
        settled = nearest <= np.quantile(nearest[unsettled], share)
        left = squeeze(left.only(~settled[expert] | (away <= nearest[expert])), _QUICK, limits)
    return left


def _near(left: Left, counts: Integers, few: int, drawn: Floats, limits: Limits) -> Left:
    """Settle all but ``few`` experts at these ``counts``; where these are far from the mean, rather not.

    ``drawn [experts]`` in [0, 1) decides between equals; experts that cannot have these counts stay open.
    """
    expert, as_given = left.walks.expert, left.walks.count == counts[left.walks.expert]
    rank = drawn - np.abs(left.mean - counts) / 2 + (left.walks.options == 1)
    unsettled = np.argsort(np.argsort(rank)) < few
    unsettled |= np.bincount(expert[as_given], minlength=len(counts)) == 0
    return squeeze(left.only(unsettled[expert] | as_given), FURTHER, limits)
