"""One policy over recorded steps: its plans, none of which sees what comes after it, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt.errors import InputError, UnsupportedError
from moeopt.methods import refusal
from moeopt.placement import Placement
from moeopt.policies import Policy, near_optimum
from moeopt.problem import PlacementProblem
from moeopt.solution import placement_of
from moeopt.traces.trace import Trace

Floats = NDArray[np.float64]

_ROWS = 4096  # layers of as many steps as are bounded at a time


@dataclass(frozen=True)
class Plan:
    """One plan: the step before which it came into force, the placement in force from then on, what it took.

    ``moves`` and ``transfers`` are ``[layers]``; ``slot_moves`` counts slots whose expert is another one, on
    whichever GPU; ``seconds`` is what planning took; ``window`` are the steps that were seen; ``in_sample
    [layers]`` is what the placement costs on them, in tokens. ``paid`` is False for a first plan without a
    placement in force, which is made beforehand and loaded with the weights: it moves nothing.
    """

    step: int
    placement: Placement
    moves: NDArray[np.int64]
    transfers: NDArray[np.int64]
    slot_moves: int
    seconds: float
    window: tuple[int, int]
    in_sample: Floats
    paid: bool = True


@dataclass(frozen=True)
class Served:
    """What one policy did: its plans, the first one in force when the warm-up ends, and every step's fullest GPU.

    ``makespans [steps, layers]`` are of the steps after the warm-up; ``hindsight`` is what placements
    planned by the same method, without a limit on moves, on the very steps that they serve would have cost, in tokens.
    """

    policy: Policy
    plans: tuple[Plan, ...]
    makespans: Floats
    hindsight: float


@dataclass
class PolicyRun:
    """A trace and the rules under which policies are run over it.

    Parameters
    ----------
    trace
        All steps, those of the warm-up too.
    warmup
        Steps before the first that counts.
    pose
        Makes a problem of loads, ``reference`` and ``max_moves``.
    dispatch
        How tokens find a copy.
    reference
        The placement in force when the warm-up ends, None where there is none.
    """

    trace: Trace
    warmup: int
    pose: Callable[..., PlacementProblem]
    dispatch: str
    reference: Placement | None

    def __post_init__(self) -> None:
        self._planned: dict[tuple[int, int, int], float] = {}
        self._warm: set[tuple[int, bool]] = set()

    def serve(self, policy: Policy, progress: Callable[[str, int], None] | None) -> Served:
        """Run one policy from the end of the warm-up to the last step."""
        end = self.trace.num_windows
        starts = [*range(self.warmup, end, policy.every or end)]
        plans: list[Plan] = []
        makespans, hindsight = [], 0.0
        in_force = self.reference
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            plan = self._plan(policy, start, in_force)
            plans.append(plan)
            in_force = plan.placement
            makespans.append(self.cost(slice(start, stop), in_force))
            hindsight += self._hindsight(policy, start, stop)
            if progress is not None:
                progress(policy.name, stop - start)
        return Served(policy, tuple(plans), np.concatenate(makespans), hindsight)

    def cost(self, steps: slice, placement: Placement) -> Floats:
        """``[steps, layers]`` load of the fullest GPU."""
        return metrics.step_makespans(self.trace.windows[steps], placement, self.dispatch)

    def per_step_bound(self) -> Floats:
        """``[steps, layers]`` proven lower bound on each step's fullest GPU."""
        windows = self.trace.windows[self.warmup :]
        if self.dispatch == "local":  # a copy's load then depends on the GPU, so that only the mean is proven
            return metrics.step_means(windows, self.pose(self.trace[:1]).num_gpus)
        layers, experts = windows.shape[1:]
        at_once = max(1, _ROWS // layers)
        parts = [windows[first : first + at_once] for first in range(0, len(windows), at_once)]
        # Tokens that pick copies at random bring every GPU its even share on average, its maximum at least that.
        split = "optimal" if self.dispatch == "optimal" else "even"
        problems = [replace(self.pose(part.reshape(-1, experts)), split=split) for part in parts]
        return np.concatenate([bounds.lower_bound(problem).value for problem in problems]).reshape(-1, layers)

    def _plan(self, policy: Policy, step: int, in_force: Placement | None) -> Plan:
        """Plan on what was seen before ``step``; the first plan without a placement in force is free."""
        first = max(0, step - (policy.window or self.warmup))
        seen = self.trace[first:step]
        problem = self.pose(seen, reference=in_force, max_moves=None if in_force is None else policy.max_moves)
        placement, seconds = self._placed(policy, problem, step)
        if in_force is not None and policy.trigger is not None:
            placement = self._triggered(policy.trigger, slice(first, step), in_force, placement)
        in_sample = self.cost(slice(first, step), placement).sum(axis=0)
        if in_force is None:
            nothing = np.zeros(problem.num_layers, dtype=np.int64)
            return Plan(step, placement, nothing, nothing, 0, seconds, (first, step), in_sample, paid=False)
        return Plan(
            step,
            placement,
            metrics.moves(in_force, placement),
            metrics.transfers(in_force, placement),
            int((in_force.phy2log != placement.phy2log).sum()),
            seconds,
            (first, step),
            in_sample,
        )

    def _placed(self, policy: Policy, problem: PlacementProblem, step: int) -> tuple[Placement, float]:
        """Ask the policy's method, or ``search`` for a first plan by a method that only mends; say who fails."""
        method = policy.method
        if problem.max_moves is None and refusal(method, problem):
            method = near_optimum
        try:
            if (kind := (id(method), problem.max_moves is None)) not in self._warm:
                self._warm.add(kind)
                method(problem[:1])  # so that compilation is in no plan's seconds
            begun = time.perf_counter()
            found = method(problem)
            seconds = time.perf_counter() - begun
            placement = placement_of(found)
            problem.check(placement)
        except InputError as error:
            raise type(error)(f"policy {policy.name!r} before step {step}: {error}") from None
        return placement, seconds

    def _triggered(self, trigger: float, seen: slice, old: Placement, new: Placement) -> Placement:
        """Take the new plan in the layers where it would have saved more than ``trigger`` of the cost."""
        before, after = (self.cost(seen, placement).sum(axis=0) for placement in (old, new))
        take = before - after > trigger * before
        return Placement(np.where(take[:, None], new.phy2log, old.phy2log), new.num_experts, new.num_gpus)

    def _hindsight(self, policy: Policy, start: int, stop: int) -> float:
        """Cost of what the method would have planned, unlimited, on the very steps that are served; once each."""
        key = (id(policy.method), start, stop)
        if key not in self._planned:
            problem = self.pose(self.trace[start:stop], reference=self.reference)
            try:
                placement, _ = self._placed(policy, problem, start)
            except UnsupportedError:
                return float("nan")
            self._planned[key] = float(self.cost(slice(start, stop), placement).sum())
        return self._planned[key]
