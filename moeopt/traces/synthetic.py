"""Synthetic loads that look like DeepSeek-V3's: the default input, free of anybody's data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import integer, real, shown
from moeopt.errors import InputError
from moeopt.load import MAX_TOTAL
from moeopt.traces.trace import Trace

TOP_K = 8
"""Experts that every token visits in each layer."""

NUM_GROUPS = 8
"""Groups of consecutive experts that share popularity, since the router picks groups first."""

_LOWER = 0.92  # the unpopular half spreads less than the popular one
_TAIL_START = 1.0  # standard deviations above the median from where a layer's own tail stretches
_SATURATION = 16.0  # a token visits an expert at most once, so popularity stops paying
_TOPICS = 0.7 ** np.arange(8)  # weights of the topics that experts rise and fall with, the first moves most


@dataclass(frozen=True)
class _Preset:
    """What was read off recordings, at the relative depths ``_DEPTH``; see docs/results/generator.md."""

    spread: tuple[float, ...]  # standard deviation of log popularity within a layer
    tail: tuple[float, ...]  # mean extra slope of the hottest experts
    jitter: float  # standard deviation of log spread between neighbouring layers
    upper: float  # slope of the popular half
    group_share: float  # share of the variance that the experts of a group have in common
    drift: float = 0.15  # standard deviation in time of log popularity, in the long run
    memory: float = 0.8  # share of that drift that survives a window
    co_movement: float = 0.0  # share of its variance that experts have in common
    over_dispersion: float = 1.0  # variance of counts over that of a multinomial, beside drift
    settled: bool = False  # whether the first window has drifted already


_DEPTH = (0.0, 0.08, 0.17, 0.30, 0.42, 0.60, 0.75, 0.88, 1.0)
_PRESETS = {
    "prefill": _Preset(
        spread=(0.80, 0.64, 0.50, 0.56, 0.66, 0.76, 0.84, 0.76, 0.64),
        tail=(0.15, 0.25, 0.50, 0.70, 0.35, 0.05, 0.05, 0.0, 0.0),
        jitter=0.06,
        upper=1.13,
        group_share=0.28,
    ),
    "decode": _Preset(
        spread=(0.80, 0.60, 0.45, 0.50, 0.62, 0.71, 0.78, 0.68, 0.52),
        tail=(0.15, 0.10, 0.10, 0.20, 0.25, 0.20, 0.20, 0.20, 0.20),
        jitter=0.06,
        upper=1.19,
        group_share=0.40,
    ),
    "windows": _Preset(
        spread=(0.24,) * len(_DEPTH),
        tail=(0.5,) * len(_DEPTH),
        jitter=0.06,
        upper=1.0,
        group_share=0.0,
        drift=0.21,
        memory=0.0,
        co_movement=0.9,
        over_dispersion=14.0,
        settled=True,
    ),
}


def generate(
    preset: str = "prefill",
    *,
    num_layers: int = 58,
    num_experts: int = 256,
    tokens: int = 2**20,
    num_windows: int = 1,
    drift: float | None = None,
    memory: float | None = None,
    co_movement: float | None = None,
    over_dispersion: float | None = None,
    seed: int = 0,
) -> Trace:
    """Loads of a DeepSeek-V3-like model: ``[num_windows, num_layers, num_experts]`` counts.

    Popularity of the experts of a layer is log-normal, with a part that the experts of a group
    share, a spread that depends on depth, and a tail whose strength differs from layer to layer;
    from window to window its logarithm drifts as a first-order autoregression, partly by topics that many
    experts of all layers rise and fall with. Counts are multinomial, or Dirichlet-multinomial where
    over-dispersed: every layer of every window totals exactly ``8 * tokens``, and no expert receives more
    than ``tokens``.
    ``docs/results/generator.md`` compares the result with recordings, and says what it does not
    reproduce. The same arguments give the same trace (for one version of numpy).
    O(windows * layers * experts).

    Parameters
    ----------
    preset
        ``"prefill"`` (few very hot experts in the first half of the layers), ``"decode"``, or ``"windows"``: milder
        loads whose windows of some 5,000 tokens differ as those of a recording in time order do.
    num_layers, num_experts
        Shape of the model; at least 8 experts.
    tokens
        Tokens per window.
    num_windows
        Windows in time order.
    drift
        Standard deviation in time of the logarithm of an expert's popularity; the default is the preset's, here
        and below.
    memory
        Share of the drift that survives from one window to the next, 0 to 1.
    co_movement
        Share of the drift's variance that experts have in common, 0 to 1.
    over_dispersion
        Variance of the counts in multiples of a multinomial's, beside drift and independent from window to window.
    seed
        Seed of the generator.

    Raises
    ------
    InputError
        For an unknown preset or a number out of range.

    Examples
    --------
    >>> trace = generate("decode", num_layers=2, num_experts=16, tokens=100)
    >>> trace.total().values.sum(axis=1).tolist()
    [800, 800]
    """
    if preset not in tuple(_PRESETS):
        raise InputError(f"preset must be one of {', '.join(_PRESETS)}, got {shown(preset)}")
    minima = {"num_layers": 1, "num_experts": TOP_K, "tokens": 1, "num_windows": 1, "seed": 0}
    given = dict(zip(minima, (num_layers, num_experts, tokens, num_windows, seed), strict=True))
    num_layers, num_experts, tokens, num_windows, seed = (
        integer(name, given[name], minimum) for name, minimum in minima.items()
    )
    if TOP_K * tokens * num_windows > MAX_TOTAL:
        raise InputError(f"tokens={tokens} in num_windows={num_windows}: a layer may total at most 2**53")
    chosen = _in_time(_PRESETS[preset], drift, memory, co_movement, over_dispersion, TOP_K * tokens)
    rng = np.random.default_rng(seed)
    popularity = _log_popularity(chosen, num_layers, num_experts, rng)
    deviations = _deviations(chosen, popularity.shape, rng)
    windows = np.empty((num_windows, num_layers, num_experts), dtype=np.int64)
    for window in windows:
        share = np.exp(popularity + next(deviations))
        share /= share.sum(axis=1, keepdims=True)
        weight = -np.expm1(-_SATURATION * share)
        if chosen.over_dispersion > 1:
            weight = _dispersed(weight, chosen.over_dispersion, TOP_K * tokens, rng)
        window[:] = _counts(weight, tokens, rng)
    return Trace(windows, source=f"synthetic_{preset}")


def _in_time(
    preset: _Preset,
    drift: float | None,
    memory: float | None,
    co_movement: float | None,
    over_dispersion: float | None,
    most: int,
) -> _Preset:
    """The preset with what was given in the place of its own."""
    given = {"drift": drift, "memory": memory, "co_movement": co_movement, "over_dispersion": over_dispersion}
    limits = {"drift": (0, 10), "memory": (0, 1), "co_movement": (0, 1), "over_dispersion": (1, most)}
    checked: Any = {name: real(name, value) for name, value in given.items() if value is not None}
    for name, value in checked.items():
        low, high = limits[name]
        if not low <= value <= high:
            raise InputError(f"{name} must be between {low} and {high}, got {shown(given[name])}")
    return replace(preset, **checked)


def _deviations(preset: _Preset, shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """What is added to log popularity in one window after another: topics in common, and each expert's own."""
    fresh = np.sqrt(1 - preset.memory**2)
    loading = np.zeros((*shape, 0))
    if preset.co_movement > 0:
        weight = preset.drift * np.sqrt(preset.co_movement) * _TOPICS / np.linalg.norm(_TOPICS)
        loading = weight * rng.standard_normal((*shape, len(_TOPICS)))
    own_drift = preset.drift * np.sqrt(1 - preset.co_movement)
    own, topics = np.zeros(shape), np.zeros(loading.shape[-1])
    if preset.settled:
        own, topics = own_drift * rng.standard_normal(shape), rng.standard_normal(topics.shape)
    while True:
        yield own + loading @ topics
        own = preset.memory * own + own_drift * fresh * rng.standard_normal(shape)
        topics = preset.memory * topics + fresh * rng.standard_normal(topics.shape)


def _dispersed(
    weight: NDArray[np.float64], over_dispersion: float, total: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Dirichlet draws around ``weight`` that make ``total`` multinomial counts vary as much as is asked for."""
    strength = max(total - over_dispersion, 1e-9) / (over_dispersion - 1)
    drawn = rng.standard_gamma(strength * weight / weight.sum(axis=1, keepdims=True)) + 1e-300
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True))


def _log_popularity(preset: _Preset, num_layers: int, num_experts: int, rng: np.random.Generator) -> NDArray[Any]:
    depth = np.linspace(0, 1, num_layers)
    spread = np.interp(depth, _DEPTH, preset.spread) * np.exp(preset.jitter * rng.standard_normal(num_layers))
    tail = np.interp(depth, _DEPTH, preset.tail) * rng.uniform(0, 2, size=num_layers)
    group = np.arange(num_experts) * NUM_GROUPS // num_experts
    own = rng.standard_normal((num_layers, num_experts))
    shared = rng.standard_normal((num_layers, NUM_GROUPS))[:, group]
    z = np.sqrt(1 - preset.group_share) * own + np.sqrt(preset.group_share) * shared
    bent = np.where(z < 0, _LOWER, preset.upper) * z + tail[:, None] * np.maximum(z - _TAIL_START, 0)
    return np.asarray(spread[:, None] * bent)


def _counts(weight: NDArray[np.float64], tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Multinomial counts per layer, no expert above ``tokens``: the surplus is dealt out again."""
    counts = np.zeros(weight.shape, dtype=np.int64)
    surplus = np.full(len(weight), TOP_K * tokens)
    while surplus.any():  # every round but the last fills an expert up, so at most one round per expert
        short = surplus > 0
        room = np.where(counts < tokens, weight, 0.0)[short]
        counts[short] += rng.multinomial(surplus[short], room / room.sum(axis=1, keepdims=True))
        surplus = np.maximum(counts - tokens, 0).sum(axis=1)
        counts = np.minimum(counts, tokens)
    return counts
