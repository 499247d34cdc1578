"""Replay: what policies would have cost on recorded steps, each plan judged on the steps that came after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, metrics
from moeopt.balancers.contiguous import contiguous
from moeopt.errors import InputError
from moeopt.methods import refusal
from moeopt.placement import Placement, as_placement
from moeopt.policies import NEVER, ONCE, Policy, standard_policies
from moeopt.problem import PlacementProblem
from moeopt.serving import PolicyRun, Served
from moeopt.traces.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""

MOST_BLOCKS = 16
"""Windows for an interval: as long as the longest wait between plans, or longer, where that leaves four of them."""

COMPETITION_EXPERT_BYTES, COMPETITION_BANDWIDTH, COMPETITION_SECONDS = 88_080_384, 9e11, 60.0
"""The published competition's arithmetic: bytes of an expert, bytes per second, seconds in perfect balance."""


@dataclass(frozen=True)
class Replay:
    """What all policies did on one trace, and the tables that follow from it.

    Parameters
    ----------
    trace
        All steps, those of the warm-up too.
    warmup
        Steps before the first that counts.
    num_gpus
        GPUs.
    dispatch
        How tokens find a copy (see ``metrics.step_makespans``).
    served
        Every policy's plans and steps.
    per_step_bound
        ``[steps, layers]`` proven: no placement does better, were it made for that step alone.
    """

    trace: Trace
    warmup: int
    num_gpus: int
    dispatch: str
    served: tuple[Served, ...]
    per_step_bound: Floats

    @cached_property
    def means(self) -> Floats:
        """``[steps, layers]`` mean load of the GPUs, of the steps after the warm-up."""
        return metrics.step_means(self.trace.windows[self.warmup :], self.num_gpus)

    @property
    def num_steps(self) -> int:
        """Steps after the warm-up."""
        return self.trace.num_windows - self.warmup

    @cached_property
    def blocks(self) -> list[NDArray[np.intp]]:
        """Steps after the warm-up in windows that do not overlap, for intervals."""
        longest = max([one.policy.every or 1 for one in self.served])
        number = self.num_steps // longest
        number = max(number, 4) if self.num_steps >= 4 else 1
        return np.array_split(np.arange(self.num_steps), min(number, MOST_BLOCKS))

    def costs(self, served: Served, move_price: float = 0.0, second_price: float = 0.0) -> Floats:
        """``[steps]`` cost of a policy in tokens: the fullest GPUs of all layers, moves and planning.

        Parameters
        ----------
        move_price, second_price
            Of one move, and of one second of planning, in balanced layer-steps: the mean load of a GPU in
            one layer and step.
        """
        cost = served.makespans.sum(axis=1)
        layer_step = float(self.means.mean())
        for plan in served.plans:
            paid = move_price * float(plan.moves.sum()) + second_price * plan.seconds * plan.paid
            cost[min(plan.step - self.warmup, self.num_steps - 1)] += paid * layer_step
        return cost

    def table(self, move_price: float = 0.0, *, second_price: float = 0.0, competition: bool = False) -> pd.DataFrame:
        """Return a row per policy; see :func:`replay` for the columns."""
        import pandas as pd

        costs = {one.policy.name: self.costs(one, move_price, second_price) for one in self.served}
        once = costs.get(ONCE.name)
        half = self.num_steps // 2
        means = self.means.sum(axis=1)
        per_step_bound = metrics.step_ratio(self.per_step_bound, self.means)
        rows = []
        for one in self.served:
            cost = costs[one.policy.name]
            seen = sum(float(plan.in_sample.sum()) for plan in one.plans)
            fair = sum(self._fair(plan.window) for plan in one.plans)
            step_ratio, ci = self.interval(one.makespans.sum(axis=1), means)
            total, cost_ci = self.interval(cost, means)
            saving, saving_ci = (np.nan, np.nan) if once is None else self.interval(once - cost, once)
            moves = sum(int(plan.moves.sum()) for plan in one.plans)
            row = {
                "policy": one.policy.name,
                "in_sample": seen / fair if fair else np.nan,
                "step_ratio": step_ratio,
                "ci": ci,
                "hindsight": one.hindsight / float(means.sum()) if means.sum() else 1.0,
                "per_step_bound": per_step_bound,
                "moves": moves,
                "moves_per_layer_step": moves / (self.num_steps * self.trace.num_layers),
                "transfers": sum(int(plan.transfers.sum()) for plan in one.plans),
                "plans": len(one.plans),
                "plan_seconds": sum(plan.seconds for plan in one.plans),
                "cost": total,
                "cost_ci": cost_ci,
                "saving": saving,
                "saving_ci": saving_ci,
                "first_half": _ratio(cost[:half], means[:half]),
                "second_half": _ratio(cost[half:], means[half:]),
            }
            if competition:
                row["competition_seconds"] = self._competition(one)
            rows.append(row)
        table = pd.DataFrame(rows)
        table["chosen"] = table.index == (table.first_half.idxmin() if half else -1)
        return table

    def interval(self, costs: Floats, means: Floats) -> tuple[float, float]:
        """Ratio of two sums over ``[steps]``, and half the width of its 95 % interval over the blocks.

        The blocks' deviations from the ratio are taken as independent, with Student's t for as many as there
        are; NaN for fewer than four. What lasts longer than a block is not seen.
        """
        from scipy.stats import t

        over, under = (np.array([values[block].sum() for block in self.blocks]) for values in (costs, means))
        total = float(under.sum())
        if total <= 0:
            return 1.0, float("nan")
        ratio, number = float(over.sum()) / total, len(self.blocks)
        if number < 4:
            return ratio, float("nan")
        spread = np.sqrt(number / (number - 1) * ((over - ratio * under) ** 2).sum()) / total
        return ratio, float(t.ppf(0.5 + CONFIDENCE / 2, number - 1) * spread)

    def _fair(self, window: tuple[int, int]) -> float:
        return float(self.trace.windows[slice(*window)].sum(dtype=float)) / self.num_gpus

    def _competition(self, served: Served) -> float:
        means = self.means
        ratios = np.divide(served.makespans, means, out=np.ones_like(means), where=means > 0)
        moved = sum(plan.slot_moves for plan in served.plans)
        return float(COMPETITION_SECONDS * ratios.mean() + moved * COMPETITION_EXPERT_BYTES / COMPETITION_BANDWIDTH)


def replay(
    trace: Trace | Any,
    policies: Sequence[Policy] | None,
    num_gpus: int,
    num_slots: int | None = None,
    *,
    move_price: float | None = None,
    expert_bytes: float | None = None,
    bandwidth: float | None = None,
    layer_step_seconds: float | None = None,
    charge_planning: bool = False,
    dispatch: str = "even",
    warmup: int | None = None,
    reference: Placement | Any = None,
    competition: bool = False,
    **rules: Any,
) -> pd.DataFrame:
    """Run policies over recorded steps and say what each would have cost.

    A plan made before step ``s`` sees the ``window`` steps before ``s`` and serves the steps from ``s``
    on; nothing looks into the future.

    Parameters
    ----------
    trace
        ``[steps, layers, experts]`` loads in time order, or a Trace of them.
    policies
        What to compare; None = ``standard_policies``. ``never`` and ``once`` are added where they lack.
    num_gpus, num_slots
        As in PlacementProblem.
    move_price
        Price of one move in balanced layer-steps: the time to bring one expert to its slot over the time
        that one layer takes for one step in perfect balance. Or give the next three. 0 by default.
    expert_bytes, bandwidth, layer_step_seconds
        Bytes of one expert in one layer, bytes per second, and seconds that one layer's experts take for a
        step in perfect balance: ``move_price = expert_bytes / bandwidth / layer_step_seconds``.
    charge_planning
        Charge the measured seconds of planning as well; needs ``layer_step_seconds``.
    dispatch
        How tokens find a copy of their expert when steps are scored; see ``metrics.step_makespans``. Methods
        go on planning for an even split.
    warmup
        Steps before the first that counts, which the first plans see; a quarter of the trace by default, at most 32.
    reference
        The placement in force when the warm-up ends. With it, first plans are paid for like all others;
        without it they are loaded with the weights and cost no moves, and ``never`` keeps the contiguous layout.
    competition
        Add what the published expert-load competition would charge: 60 s times the mean over steps and layers
        of max / mean, and 88,080,384 bytes at 9e11 bytes per second for every slot whose expert changes.
    **rules
        Further rules of PlacementProblem: ``num_nodes``, ``num_groups``, ``allow_colocated``, ``allow_empty_slots``.

    Returns
    -------
    pandas.DataFrame
        A row per policy. Ratios to perfect balance (sum over steps of the fullest GPU / sum of the means):
        ``in_sample`` (its plans on the steps that they were made for), ``step_ratio`` (on the steps that
        followed) with its 95 % half-width ``ci``, ``hindsight`` (planned on the steps that were served, which
        nobody can) and ``per_step_bound`` (proven, for a placement made for each step alone). ``moves``,
        ``transfers`` (see ``metrics``), ``plans`` and ``plan_seconds`` are sums. ``cost`` is ``step_ratio`` with
        moves (and planning) paid for; ``saving`` the share by which it is below that of ``once``, with
        ``saving_ci``; ``first_half``, ``second_half`` the cost on these steps, and ``chosen`` marks the policy
        that is cheapest on the first half: its ``second_half`` is what choosing on a trace is worth.
        Intervals come from windows of steps that do not overlap. ``attrs`` hold the prices and the dispatch.

    Raises
    ------
    InputError
        Names the argument, or the policy and step, the rule and the value.

    Examples
    --------
    >>> from moeopt.traces import generate
    >>> trace = generate("decode", num_layers=2, num_experts=16, tokens=200, num_windows=24)
    >>> table = replay(trace, [NEVER, ONCE], num_gpus=4, num_slots=20, move_price=0.3)
    >>> bool(table.step_ratio[1] < table.step_ratio[0])
    True
    """
    price, second = prices(move_price, expert_bytes, bandwidth, layer_step_seconds)
    charged = charged_second(second, charge_planning)
    found = serve(trace, policies, num_gpus, num_slots, dispatch=dispatch, warmup=warmup, reference=reference, **rules)
    table = found.table(price, second_price=charged, competition=competition)
    table.attrs |= {"move_price": price, "second_price": charged, "dispatch": dispatch, "warmup": found.warmup}
    return table


def prices(
    move_price: float | None,
    expert_bytes: float | None,
    bandwidth: float | None,
    layer_step_seconds: float | None,
) -> tuple[float, float | None]:
    """Return the price of a move, and of a second if that is known, in balanced layer-steps.

    Raises
    ------
    InputError
        For numbers that are not positive, and where the price is given twice or by halves.
    """
    named = {"expert_bytes": expert_bytes, "bandwidth": bandwidth, "layer_step_seconds": layer_step_seconds}
    for name, value in named.items():
        if value is not None and _arguments.real(name, value) <= 0:
            raise InputError(f"{name} must be > 0, got {value}")
    second = None if layer_step_seconds is None else 1.0 / layer_step_seconds
    if move_price is not None:
        if bandwidth is not None:
            raise InputError("move_price is given, so bandwidth must not be, which says it another way")
        return _arguments.fraction("move_price", move_price), second
    if expert_bytes is None and bandwidth is None:
        return 0.0, second
    if expert_bytes is None or bandwidth is None or second is None:
        lacking = [name for name, value in named.items() if value is None]
        raise InputError(f"expert_bytes, bandwidth and layer_step_seconds belong together; {lacking[0]} is missing")
    return expert_bytes / bandwidth * second, second


def charged_second(second: float | None, charge_planning: bool) -> float:
    """Return what a second of planning costs, in balanced layer-steps, given its price: 0 unless it is charged.

    Raises
    ------
    InputError
        If planning is to be charged and the price of a second is not known.
    """
    if not charge_planning:
        return 0.0
    if second is None:
        raise InputError("charge_planning needs layer_step_seconds, to tell seconds in steps")
    return second


def serve(
    trace: Trace | Any,
    policies: Sequence[Policy] | None,
    num_gpus: int,
    num_slots: int | None = None,
    *,
    dispatch: str = "even",
    warmup: int | None = None,
    reference: Placement | Any = None,
    progress: Callable[[str, int], None] | None = None,
    **rules: Any,
) -> Replay:
    """Run policies over recorded steps; :func:`replay` is its table at one price of moves.

    Parameters
    ----------
    progress
        Called with a policy's name and the number of steps just served.
    trace, policies, num_gpus, num_slots, dispatch, warmup, reference, **rules
        As in :func:`replay`, which says what is raised too.
    """
    steps = trace if isinstance(trace, Trace) else Trace(trace)
    if steps.num_windows < 2:
        raise InputError("trace must have at least 2 steps in time order, got 1: a sum says nothing about time")
    warmup = usual_warmup(steps.num_windows, warmup)
    if warmup >= steps.num_windows:
        raise InputError(f"warmup={warmup} leaves none of {steps.num_windows} steps to serve")
    if reference is not None:
        reference = as_placement(reference, steps.num_experts, num_gpus)
    pose: Callable[..., PlacementProblem] = partial(PlacementProblem, num_gpus=num_gpus, num_slots=num_slots, **rules)
    problem = pose(steps[:warmup], reference=reference)
    if reference is not None and reference.num_slots != problem.slots:
        raise InputError(f"reference has num_slots={reference.num_slots}, and num_slots={problem.slots} are asked for")
    if policies is None:
        policies = standard_policies(usual_waits(steps.num_windows - warmup))
    chosen = with_baselines(policies)
    _refuse(chosen, problem)
    run = PolicyRun(steps, warmup, pose, dispatch, reference)
    served = tuple(run.serve(policy, progress) for policy in chosen)
    return Replay(steps, warmup, num_gpus, dispatch, served, run.per_step_bound())


def usual_warmup(num_steps: int, warmup: int | None = None) -> int:
    """Return ``warmup``, or a quarter of the steps, at most 32."""
    return min(32, max(1, num_steps // 4)) if warmup is None else _arguments.integer("warmup", warmup, 1)


def usual_waits(num_steps: int) -> tuple[int, ...]:
    """Return steps between plans worth trying: powers of two near a 16th and a quarter of the steps to serve."""
    waits = {2 ** int(np.log2(max(num_steps // part, 1))) for part in (16, 4)}
    return tuple(sorted(waits))


def with_baselines(policies: Sequence[Policy]) -> list[Policy]:
    """Return ``never``, ``once`` and the other policies; names must differ."""
    names = [policy.name for policy in policies]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"policies must have different names, got {name!r} twice; pass name= to one of them")
    return [*(base for base in (NEVER, ONCE) if base.name not in names), *policies]


def _refuse(policies: Sequence[Policy], problem: PlacementProblem) -> None:
    """Say before any work which policy's method does not take such problems."""
    in_force = contiguous(problem) if problem.reference is None else problem.reference
    for policy in policies:
        why = refusal(policy.method, replace(problem, reference=in_force, max_moves=policy.max_moves))
        if why and (policy.every is not None or problem.reference is not None):
            raise InputError(f"policy {policy.name!r}: {why}")


def _ratio(costs: Floats, means: Floats) -> float:
    return float(costs.sum() / means.sum()) if means.sum() > 0 else float("nan")
