"""Bound on moves with replicas: prices on copies that no contents of the GPUs can collect for fewer arrivals."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.bounds import Bound
from moeopt.errors import InputError, UnsupportedError
from moeopt.problem import PlacementProblem
from solvers._moves_pricing import arrival_values, best_contents, cheapest_counts

Floats = NDArray[np.float64]

MAX_SLOTS = 32
"""Slots per GPU that the pricing takes: its tables grow with their cube, to 150 MB here."""

UNIT = 1_000_000
"""Integer price of one move in a certificate."""

_STAGES = ((64, 4.0, 0.05, 0.4), (256, 1.0, 0.01, 1.0))
"""Search of the prices: steps of the capacity for each slot of a GPU, moves by which the goal lies above the best
value at first and at the end, and share of the time after which the next stage begins."""

_PROOF_STEPS, _FEWEST_STEPS = 512, 1024
"""Steps of the capacity for each slot in the proof, and in all at least: sizes round down to them."""

_SINGLE_COUNTS = 3
"""Counts above the reference's with prices of their own; all higher ones share the prices of one class."""

_SLOPES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""Prices of a GPU's whole load, in moves, to start from."""

_MAX_ROUNDS, _PATIENCE = 3000, 50
"""Evaluations of prices in a stage at most, and those without progress after which the goal is brought nearer."""


def moves_bound(problem: PlacementProblem, *, time_limit: float | None = None, target: Floats | None = None) -> Bound:
    r"""Lower bound on the moves that keep ``max_makespan``, with replicas or without, from prices on copies.

    Parameters
    ----------
    problem
        With ``reference`` and ``max_makespan``.
    time_limit
        Seconds per layer; None = until the prices stop getting better, 5 to 20 s for 288 slots.
    target
        ``[layers]`` moves of the best placements known: a layer is left as soon as they are proven needed.

    Returns
    -------
    Bound
        Whole numbers, NaN where the prices show that nothing keeps the ceiling or there is no load at all, and
        per layer a certificate ``{"method": "copy_prices", "grid": int, "unit": int, "counts": [[int]],
        "bring": [[int]], "keep": [[gpu, expert, int, ..]]}``.

    Raises
    ------
    InputError
        Without a reference or a ceiling.
    UnsupportedError
        For more than ``MAX_SLOTS`` slots per GPU.

    Notes
    -----
    **The bound.** Let :math:`\pi_{e,c}` be a price for every copy that arrives on a GPU while expert ``e`` has
    ``c`` copies, and :math:`\lambda_{s,c}` one for every copy ``s`` of the reference that stays. With the prices of
    all copies of a placement added and taken off again, its moves are

    .. math:: \sum_e \Big( \sum_{s \text{ stays}} \lambda_{s,c_e} + \sum_{\text{arrivals}} \pi_{e,c_e} \Big)
              - \sum_g \Big( \sum_{s \text{ stays}} \lambda_{s,c} + \sum_{\text{arrivals}} (\pi_{e,c} - 1) \Big).

    The first bracket is at least the price of the cheapest count ``c`` and the ``c`` cheapest of the expert's
    copies, an arrival being one at any time. The second is at most what the best content of GPU ``g`` is
    worth: any of its copies, each with any count, and any arrivals, as many as there are slots, of load
    :math:`w_e / c` each and at most ``T`` together. Relaxed are only that the copies on a GPU agree on a count
    and that an arrival is not there already. Hence for all prices, of either sign,

    .. math:: \text{moves} \ge \Big\lceil \sum_e \min_c (\ldots) - \sum_g \max_{\text{contents}} (\ldots) \Big\rceil .

    It holds with colocation or without and with groups on nodes; where slots may be empty, contents may leave
    some out. Counts above the reference's few are priced as a class with the size of its lightest copy.

    **Arithmetic.** Sizes are rounded down to a grid of the ceiling, so that contents that fit still fit; prices
    are integers. The bound is then exact, whatever search found the prices, and ``verify`` repeats it.

    **The prices** maximise a concave function by a deflected subgradient method [1]_ with a goal above the best
    value that comes nearer when it is not approached. One evaluation is a knapsack with cardinality for each
    GPU, O(slots * slots_per_gpu * classes * grid), a few milliseconds for 288 slots.

    References
    ----------
    .. [1] P. M. Camerini, L. Fratta, F. Maffioli, "On improving relaxation methods by modified gradient
       techniques", Math. Prog. Study 3 (1975), doi 10.1007/BFb0120697
    """
    if problem.reference is None or problem.max_makespan is None:
        raise InputError("moves_bound needs a problem with reference and max_makespan")
    if reason := too_many_slots(problem):
        raise UnsupportedError(f"moves_bound {reason}")
    value = np.full(problem.num_layers, np.nan)
    certificates: list[dict[str, Any] | None] = [None] * problem.num_layers
    for i in range(problem.num_layers):
        goal = math.inf if target is None else float(target[i])
        found = _bound_layer(problem[i], goal, math.inf if time_limit is None else time_limit)
        if found is not None:
            value[i], certificates[i] = found
    source = tuple("" if certificate is None else "copy_prices" for certificate in certificates)
    return Bound(value, source, tuple(certificates))


def too_many_slots(problem: PlacementProblem) -> str:
    """Say why the pricing does not take a problem, or nothing."""
    most = max(placed.slots_per_gpu for placed in (problem, problem.reference) if placed is not None)
    return "" if most <= MAX_SLOTS else f"takes at most {MAX_SLOTS} slots per GPU, not {most}"


def _bound_layer(problem: PlacementProblem, goal: float, time_limit: float) -> tuple[int, dict[str, Any]] | None:
    """Bound and certificate of one layer; None where there is nothing to say."""
    begin = time.perf_counter()
    if not problem.load.values.any() or _ceiling(problem) <= 0:
        return None
    layer = _layer(problem, _STAGES[0][0])
    if (layer.last[:, 0] == 0).any():  # an expert needs more copies than it can have
        return None
    starts = [layer.start(slope) for slope in _SLOPES]
    prices = max(starts, key=lambda prices: layer.evaluate(prices[0], prices[1], 1.0)[0])
    for steps, ahead, end, share in _STAGES:
        prices = _ascend(_layer(problem, steps), prices, ahead, end, goal, begin + share * time_limit)
    whole = [np.round(part * UNIT) for part in prices]
    fine = _layer(problem, _PROOF_STEPS)
    total = fine.evaluate(whole[0], whole[1], float(UNIT))[0]
    if not math.isfinite(total):
        return None
    counts = [[int(c) for c in row if c] for row in layer.last]
    certificate = {
        "method": "copy_prices",
        "unit": UNIT,
        "grid": fine.grid,
        "counts": [[int(first), *row] for first, row in zip(layer.first[:, 0] - 1, counts, strict=True)],
        "keep": [
            [int(g), int(e), *row[: len(counts[e])].astype(int).tolist()]
            for g, e, row in zip(layer.gpu, layer.held, whole[0], strict=True)
        ],
        "bring": [row[: len(count)].astype(int).tolist() for row, count in zip(whole[1], counts, strict=True)],
    }
    return max(-(-int(total) // UNIT), 0), certificate


@dataclass
class _Layer:
    """One layer in the kernels' arrays, with sizes on a grid of the ceiling."""

    gpus: int
    slots: int
    full: bool
    grid: int
    share: Floats
    held: NDArray[np.int64]
    gpu: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    size: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.num_copies = np.bincount(self.held, minlength=len(self.first))
        self.copies_of = np.zeros((len(self.first), max(int(self.num_copies.max()), 1)), dtype=np.int64)
        for e in range(len(self.first)):
            self.copies_of[e, : self.num_copies[e]] = np.flatnonzero(self.held == e)
        self.worth = np.empty((self.slots + 1, self.grid + 1))
        self.offer = np.empty(self.grid + 1, dtype=np.int64)

    def evaluate(self, keep: Floats, bring: Floats, move: float) -> tuple[float, Floats, Floats]:
        """The bound that prices give, at ``move`` for each, and how it changes with the prices."""
        kept, brought = np.zeros_like(keep), np.zeros_like(bring)
        total = cheapest_counts(self.first, self.last, keep, bring, self.copies_of, self.num_copies, kept, brought)
        arrival_values(self.last, self.size, bring, move, self.worth, self.offer)
        total -= best_contents(
            self.held, self.gpu, self.gpus, self.full, self.last, self.size, keep, bring, move,
            self.worth, self.offer, kept, brought,
        )  # fmt: skip
        return total, kept, brought

    def start(self, slope: float) -> tuple[Floats, Floats]:
        """Prices in proportion to sizes; each copy beyond the reference's costs half a move more, its siblings less."""
        bring = slope * self.share
        extra = np.where(self.last > 0, np.maximum(self.first - self.num_copies[:, None], 0), 0)
        keep = (bring - 0.5 * extra / np.maximum(self.num_copies, 1)[:, None])[self.held]
        return keep, bring + np.where(extra > 0, 0.5, 0.0)


def _layer(problem: PlacementProblem, steps: int) -> _Layer:
    """Read a problem of one layer, on a grid of ``steps`` for each slot of a GPU."""
    reference = problem.reference
    assert reference is not None
    slots = np.flatnonzero(reference.phy2log[0] >= 0)
    held = reference.phy2log[0][slots]
    grid = max(steps * problem.slots_per_gpu, _FEWEST_STEPS)
    loads = problem.load.values[0] / _ceiling(problem)
    fewest = np.maximum(np.ceil(loads * (1 - 2.0**-50)), 1).astype(np.int64)
    single = np.maximum(reference.replica_count[0] + _SINGLE_COUNTS, fewest)
    most = problem.max_replicas
    classes = min(int((single - fewest).max()) + 2, most)
    last = fewest[:, None] + np.arange(classes)
    last = np.where(last > np.minimum(single, most)[:, None], 0, last)
    for e in np.flatnonzero((single < most) & (fewest <= most)):
        last[e, single[e] - fewest[e] + 1] = most
    before = np.concatenate([fewest[:, None] - 1, last[:, :-1]], axis=1)
    share = loads[:, None] / np.maximum(last, 1)
    return _Layer(
        gpus=problem.num_gpus,
        slots=problem.slots_per_gpu,
        full=not problem.allow_empty_slots,
        grid=grid,
        share=share,
        held=held,
        gpu=slots // reference.slots_per_gpu,
        first=before + 1,
        last=last,
        size=np.floor(share * (grid * (1 - 2.0**-50))).astype(np.int64),
    )


def _ceiling(problem: PlacementProblem) -> float:
    """The largest makespan that ``problem.check`` may let pass."""
    return float(problem.highest_makespan[0])


def _ascend(
    layer: _Layer, prices: tuple[Floats, Floats], ahead: float, end: float, goal: float, deadline: float
) -> tuple[Floats, Floats]:
    """Prices with a higher bound: toward a goal ``ahead`` of the best value, in moves, until that is below ``end``."""
    keep, bring = best_prices = prices
    best, mark, waited, farthest = -math.inf, -math.inf, 0, ahead
    toward_keep, toward_bring = np.zeros_like(keep), np.zeros_like(bring)
    for _ in range(_MAX_ROUNDS):
        value, kept, brought = layer.evaluate(keep, bring, 1.0)
        if value > best:
            best, best_prices = value, (keep, bring)
        if best > goal - 1 + 0.01 or not math.isfinite(value) or time.perf_counter() > deadline:
            break
        waited += 1
        if best >= mark + ahead / 4:
            mark, waited, ahead = best, 0, min(1.3 * ahead, farthest)
        elif waited >= _PATIENCE or value < best - 3 * ahead > -math.inf:
            mark, waited, ahead = best, 0, 0.7 * ahead
            if ahead < end:
                break
            keep, bring = best_prices
            toward_keep[:] = toward_bring[:] = 0
            continue
        turned = float((toward_keep * kept).sum() + (toward_bring * brought).sum())
        length = float((toward_keep**2).sum() + (toward_bring**2).sum())
        deflection = max(0.0, -1.5 * turned / length) if length > 0 else 0.0
        toward_keep, toward_bring = kept + deflection * toward_keep, brought + deflection * toward_bring
        length = float((toward_keep**2).sum() + (toward_bring**2).sum())
        if length == 0:
            break
        stride = (best + ahead - value) / length
        keep, bring = keep + stride * toward_keep, bring + stride * toward_bring
    return best_prices
