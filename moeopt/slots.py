"""How many slots: per layer under one memory budget, and altogether under every dispatch rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, bounds, metrics
from moeopt.balancers.search import search
from moeopt.compare import Method
from moeopt.errors import InputError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution, placement_of
from moeopt.traces.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SlotBudget:
    """How many slots each layer gets, what that brings, and what is proven about any way to deal them out.

    Parameters
    ----------
    problem
        Loads and rules; its own number of slots plays no part.
    total
        Slots of all layers together that may be used.
    slots
        ``[layers]`` slots of every layer in the best dealing found.
    equal
        Slots of every layer if all have the same number, the most that the budget allows.
    options
        Numbers of slots that a layer may have.
    makespans, lower_bounds
        ``[options, layers]`` found and proven for every number of slots.
    least
        Proven: with these options no dealing within the budget has a smaller sum of makespans.
    placements
        Of all layers, for every option.
    """

    problem: PlacementProblem
    total: int
    slots: NDArray[np.int64]
    equal: int
    options: tuple[int, ...]
    makespans: Floats
    lower_bounds: Floats
    least: float
    placements: tuple[Placement, ...]

    def makespan(self, slots: Any) -> Floats:
        """``[layers]`` makespans found with these ``slots [layers]``, each one of the options."""
        rows = np.searchsorted(self.options, np.broadcast_to(slots, self.problem.num_layers))
        return np.asarray(self.makespans[rows, np.arange(self.problem.num_layers)])

    @property
    def saving(self) -> float:
        """Share of the sum of makespans that dealing saves against equal numbers for all layers."""
        equal = float(self.makespan(self.equal).sum())
        return 1 - float(self.makespan(self.slots).sum()) / equal if equal else 0.0

    @property
    def gap(self) -> float:
        """How far the dealing is from the best possible one, at most."""
        return metrics.step_gap(self.makespan(self.slots), self.least)

    def step_ratios(self, steps: Any, dispatch: str = "even") -> tuple[float, float]:
        """Step ratio (see ``metrics``) of the dealing and of equal numbers on ``steps [steps, layers, experts]``."""
        means = metrics.step_means(steps, self.problem.num_gpus)
        makespans = {  # of numbers that no layer has, nothing need be scored
            slots: metrics.step_makespans(steps, self.placements[self.options.index(slots)], dispatch)
            for slots in {self.equal, *self.slots.tolist()}
        }
        dealt = np.stack([makespans[slots][:, layer] for layer, slots in enumerate(self.slots.tolist())], axis=1)
        return metrics.step_ratio(dealt, means), metrics.step_ratio(makespans[self.equal], means)

    def table(self) -> pd.DataFrame:
        """Return a row per layer: slots and imbalance as dealt, imbalance with equal numbers."""
        import pandas as pd

        mean = self.problem.load.values.sum(axis=1, dtype=float) / self.problem.num_gpus

        def imbalance(slots: Any) -> Floats:
            return np.divide(self.makespan(slots), mean, out=np.ones_like(mean), where=mean > 0)

        return pd.DataFrame(
            {
                "layer": self.problem.load.layer_ids,
                "num_slots": self.slots,
                "imbalance": imbalance(self.slots),
                "equal_slots": self.equal,
                "equal_imbalance": imbalance(self.equal),
            }
        )

    def __str__(self) -> str:
        return (
            f"SlotBudget: {self.total} slots for {self.problem.num_layers} layers on {self.problem.num_gpus} GPUs, "
            f"{self.slots.min()} to {self.slots.max()} per layer: {100 * self.saving:.3f} % less than with "
            f"{self.equal} for all, at most {100 * self.gap:.3f} % above the best dealing"
        )


def slot_budget(
    problem: PlacementProblem,
    total: int,
    *,
    method: Method = search,
    most: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SlotBudget:
    """Deal out slots to layers under one memory budget so that the sum of makespans is least.

    Layers run one after another, so their makespans add up. Every number of slots that a layer may have
    is solved by ``method``; dynamic programming over these values is exact, whatever the shape of makespan
    against slots. The same over the proven bounds gives a bound on every dealing.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads, GPUs and rules; ``num_slots`` plays no part.
    total
        Slots of all layers together: at least the fewest that hold every expert of every layer.
    method
        Called with the problem at every number of slots; a Solution brings its bound along.
    most
        Slots that one layer may get at most; by default as many as the budget's average has beyond one per
        expert, four times over.
    progress
        Called with every number of slots that has been solved.

    Raises
    ------
    InputError
        If the budget does not hold every expert, or a limit on moves is given.

    Notes
    -----
    One call of ``method`` per number of slots, then O(layers * options * total / num_gpus).

    Examples
    --------
    >>> problem = PlacementProblem([[9, 1, 1, 1], [3, 3, 3, 3]], num_gpus=2)
    >>> slot_budget(problem, total=10).slots.tolist()
    [6, 4]
    """
    if problem.reference is not None:
        raise InputError("slot_budget changes the number of slots: leave reference and limits on moves out")
    gpus, layers = problem.num_gpus, problem.num_layers
    fewest = -(-problem.num_experts // gpus) * gpus
    total = _arguments.integer("total", total, fewest * layers)
    equal = total // (gpus * layers) * gpus
    if most is None:
        most = fewest + 4 * max(equal - fewest, gpus)
    most = max(_arguments.integer("most", most, fewest) // gpus * gpus, equal)
    most = min(most, total - fewest * (layers - 1))
    options = tuple(range(fewest, most + 1, gpus))
    found = [_solved(replace(problem, num_slots=slots), method, progress) for slots in options]
    makespans = np.array([solution.makespan for solution in found])
    lower_bounds = np.array([solution.lower_bound for solution in found])
    units = (total - fewest * layers) // gpus
    chosen, _ = _dealt(makespans, units)
    _, least = _dealt(lower_bounds, units)
    placements = tuple(solution.placement for solution in found if solution.placement is not None)
    slots = np.array(options)[chosen]
    return SlotBudget(problem, total, slots, equal, options, makespans, lower_bounds, least, placements)


def _solved(problem: PlacementProblem, method: Method, progress: Callable[[int], None] | None) -> Solution:
    """Return what ``method`` finds, a placement of every layer, with the cheap bounds joined."""
    answer = method(problem)
    found = answer if isinstance(answer, Solution) else Solution(problem, answer)
    known = found.join(Solution(problem, bound=bounds.lower_bound(problem)))
    if np.isnan(known.makespan).any():
        layer = problem.load.layer_ids[int(np.flatnonzero(np.isnan(known.makespan))[0])]
        raise InputError(f"method found no placement of layer {layer} with num_slots={problem.slots}")
    if progress is not None:
        progress(problem.slots)
    return known


def _dealt(values: Floats, units: int) -> tuple[NDArray[np.intp], float]:
    """Options ``[layers]`` of least sum in ``values [options, layers]``, option k taking k units, and that sum."""
    options, layers = values.shape
    best = np.zeros(units + 1)  # least sum of the layers so far with at most so many units
    taken = np.zeros((layers, units + 1), dtype=np.intp)
    for layer in range(layers):
        sums = np.full((options, units + 1), np.inf)
        for option in range(min(options, units + 1)):
            sums[option, option:] = values[option, layer] + best[: units + 1 - option]
        taken[layer] = sums.argmin(axis=0)
        best = sums.min(axis=0)
    chosen = np.zeros(layers, dtype=np.intp)
    left = units
    for layer in reversed(range(layers)):
        chosen[layer] = taken[layer, left]
        left -= chosen[layer]
    return chosen, float(best[units])


def slots_curve(
    trace: Trace,
    num_gpus: int,
    num_slots: Sequence[int] | None = None,
    *,
    dispatches: Iterable[str] = ("even",),
    method: Method = search,
    warmup: int,
    **rules: Any,
) -> pd.DataFrame:
    """Return what redundant slots bring on later steps: planned on the warm-up, judged on what follows.

    Parameters
    ----------
    trace
        ``[steps, layers, experts]``.
    num_gpus
        GPUs.
    num_slots
        Numbers of slots; by default from the fewest to twice as many, some eight of them.
    dispatches
        Rules by which tokens find a copy; see ``metrics.step_makespans``.
    method
        Plans the placements, for an even split.
    warmup
        Steps that plans see; the others are scored.
    **rules
        Further rules of PlacementProblem.

    Returns
    -------
    pandas.DataFrame
        A row per number of slots and dispatch rule: ``num_slots``, ``redundant``, ``dispatch``, ``in_sample``,
        ``step_ratio``.
    """
    import pandas as pd

    if num_slots is None:
        num_slots = usual_slots(trace.num_experts, num_gpus)
    rows = []
    means = metrics.step_means(trace.windows, num_gpus)
    for slots in num_slots:
        problem = PlacementProblem(trace[:warmup], num_gpus, slots, **rules)
        try:
            placement = placement_of(method(problem))
        except InputError as error:
            raise InputError(f"num_slots={slots}: method {error}") from None
        for dispatch in dispatches:
            makespans = metrics.step_makespans(trace.windows, placement, dispatch)
            rows.append(
                {
                    "num_slots": slots,
                    "redundant": slots - trace.num_experts,
                    "dispatch": dispatch,
                    "in_sample": metrics.step_ratio(makespans[:warmup], means[:warmup]),
                    "step_ratio": metrics.step_ratio(makespans[warmup:], means[warmup:]),
                }
            )
    return pd.DataFrame(rows)


def usual_slots(num_experts: int, num_gpus: int) -> list[int]:
    """Return numbers of slots worth a look: from the fewest to twice as many, closer together at the beginning."""
    fewest = -(-num_experts // num_gpus)
    extra = {0, *(max(1, round(fewest * share)) for share in (0.03, 0.06, 0.125, 0.25, 0.5, 0.75, 1))}
    return [(fewest + more) * num_gpus for more in sorted(extra)]
