"""``solve_steps``: the sum over steps of the fullest GPU, exactly, for small layers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from moeopt import metrics
from moeopt._arguments import integer
from moeopt.balancers import scenario_search
from moeopt.balancers.start import as_start
from moeopt.bounds import Bound, steps_bound
from moeopt.errors import InputError
from moeopt.methods import even_split, refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, SolveStatus, Stop, decide
from solvers.cp_solver import solved, solver_within
from solvers.cpsat import CpModel
from solvers.drive import MOST_JOBS, Limits, interchangeable
from solvers.formulation import LayerModel, build, canonical, useful_counts

MAX_ENTRIES = 500_000
"""Models with more copy variables times steps than this are not built."""


@dataclass(frozen=True, eq=False)
class StepsSolution:
    """A placement for the steps of a problem, and what is proven about it, layer by layer.

    A ``Solution`` speaks of the makespan of the summed load; this one of the sum over steps of the fullest GPU.

    Parameters
    ----------
    problem
        The problem, which knows its steps.
    placement
        The best placement known.
    bound
        What is proven about the sum over steps of the fullest GPU.
    stop
        Why the work on each layer ended.
    note
        What a reader should know about each layer, such as why no model was built.
    runtime
        ``[layers]`` seconds.
    tolerance
        Relative distance from the bound at which a layer is OPTIMAL.
    """

    problem: PlacementProblem
    placement: Placement
    bound: Bound
    stop: tuple[Stop, ...]
    note: tuple[str, ...]
    runtime: NDArray[np.float64]
    tolerance: float = DEFAULT_TOLERANCE

    @cached_property
    def step_cost(self) -> NDArray[np.float64]:
        """``[layers]`` sum over steps of the load of the fullest GPU, in tokens."""
        cost: NDArray[np.float64] = metrics.step_makespans(self.problem.steps, self.placement).sum(axis=0)
        return cost

    @property
    def lower_bound(self) -> NDArray[np.float64]:
        """``[layers]`` proven bound on ``step_cost``."""
        return self.bound.value

    @property
    def gap(self) -> NDArray[np.float64]:
        """``[layers]`` ``step_cost / lower_bound - 1``: at most this far above the best possible."""
        return metrics.gap(self.step_cost, self.lower_bound)

    @property
    def status(self) -> tuple[SolveStatus, ...]:
        """What is proven, per layer."""
        pairs = zip(self.gap, self.stop, strict=True)
        return tuple(decide(True, float(gap), stop, self.tolerance) for gap, stop in pairs)

    def __str__(self) -> str:
        told = ", ".join(f"{n} {status}" for status, n in Counter(self.status).items())
        cost, bound = self.step_cost.sum(), self.lower_bound.sum()
        assert self.problem.steps is not None
        return (
            f"StepsSolution of {len(self.status)} layers, {len(self.problem.steps)} steps: {told}\n"
            f"sum over steps of the fullest GPU: {cost:.10g}, at least {bound:.10g}; "
            f"worst layer {100 * self.gap.max():.3f} % at most; {self.runtime.sum():.3g} s"
        )


def _not_solved(problem: PlacementProblem) -> str:
    if problem.objective != "makespan":
        return "minimises what steps cost; with max_makespan the problem minimises moves"
    return even_split(problem)


@refuses(_not_solved)
def solve_steps(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    start: Placement | Any = None,
    seed: int = 0,
    jobs: int | None = None,
) -> StepsSolution:
    """Minimise the sum over steps of the fullest GPU, layer by layer, with proof: CP-SAT, for small layers.

    16 experts on 4 GPUs with 16 steps are closed in seconds to a minute; 32 experts on 8 GPUs are not, and
    what is returned is an interval. Copies are counted as in ``solve_cpsat``; see ``docs/formulations.md``, "Steps".

    Parameters
    ----------
    problem
        A problem that knows its steps.
    time_limit
        Seconds per layer, bounds and building the model included; None = until optimal.
    tolerance
        Relative gap at which a layer counts as optimal.
    workers
        CP-SAT threads per layer. One worker with a fixed ``seed`` is reproducible unless a time limit strikes.
    start
        A placement (or ``[layers, slots]``) that the answer is never worse than; ``scenario_search`` starts from it.
    seed
        Of every random choice, 0 to 2**31 - 1.
    jobs
        Layers at a time, through joblib. None = as joblib is configured, one where it is not.

    Returns
    -------
    StepsSolution
        The best placement and bound of every layer, whatever time it took. A layer whose model would be too
        large is left with what ``scenario_search`` and ``steps_bound`` give, and a note.

    Raises
    ------
    UnsupportedError
        If the problem minimises moves, or splits tokens optimally.
    InputError
        If the problem does not know its steps, or an argument breaks its rule; PlacementError for a bad start.
    NoPlacementError
        If no placement within ``max_moves`` is found.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from moeopt.traces import Trace
    >>> from solvers import solve_steps
    >>> found = solve_steps(PlacementProblem(Trace([[[8, 0, 1, 1]], [[0, 8, 1, 1]]]), num_gpus=2))
    >>> found.status[0].name, found.bound.value.tolist()
    ('OPTIMAL', [16.0])
    """
    from joblib import Parallel, delayed

    if problem.steps is None:
        raise InputError("solve_steps needs a problem that knows its steps: make it from a Trace")
    limits = Limits(time_limit, tolerance, workers, seed)
    jobs = None if jobs is None else integer("jobs", jobs, 1, MOST_JOBS)
    first = None if start is None else as_start(problem, start)
    tasks = (
        delayed(_solve_layer)(problem[layer], None if first is None else first[layer], limits)
        for layer in range(problem.num_layers)
    )
    parts: list[StepsSolution] = Parallel(n_jobs=jobs)(tasks)
    return StepsSolution(
        problem,
        Placement(np.concatenate([part.placement.phy2log for part in parts]), problem.num_experts, problem.num_gpus),
        Bound.stack([part.bound for part in parts]),
        tuple(part.stop[0] for part in parts),
        tuple(part.note[0] for part in parts),
        np.concatenate([part.runtime for part in parts]),
        tolerance,
    )


def _solve_layer(problem: PlacementProblem, start: Placement | None, limits: Limits) -> StepsSolution:
    begun = time.perf_counter()
    limits = limits.started()
    known = scenario_search(problem, start=start, seed=limits.seed)
    found = StepsSolution(problem, known, steps_bound(problem), (Stop.DONE,), ("",), np.zeros(1), limits.tolerance)
    if found.status[0] is not SolveStatus.OPTIMAL:
        found = _searched(found, limits)
    return replace(found, runtime=np.array([time.perf_counter() - begun]))


def _searched(known: StepsSolution, limits: Limits) -> StepsSolution:
    """What CP-SAT finds about one layer, beside what is known."""
    problem = known.problem
    assert problem.steps is not None
    upper = float(known.step_cost[0])
    start = canonical(problem, known.placement) if interchangeable(problem) else known.placement
    most = problem.slots if problem.max_moves is None else problem.max_moves
    # the fullest GPU of the sum carries no more than the sum over steps of the fullest
    data = StepsData(problem, start, float(known.lower_bound[0]), upper, 0, most, useful_counts(problem, upper))
    if data.size * len(problem.steps) > MAX_ENTRIES:
        size = f"{data.size} copy variables x {len(problem.steps)} steps"
        return replace(known, stop=(Stop.SKIPPED,), note=(f"no model of {size}: more than {MAX_ENTRIES}",))
    model = _StepsModel(data)
    if limits.late or not model.build(limits):
        return replace(known, stop=(Stop.TIME_LIMIT,))
    solver = solver_within(limits)
    status = solved(solver, model.cp)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        return replace(known, stop=(Stop.ERROR,), note=(f"CP-SAT: {solver.status_name()}",))
    bound = known.bound.join(Bound.of_layer(model.lower_bound(solver.best_objective_bound), "cpsat"))
    found = replace(known, bound=bound, stop=(Stop.DONE if status == cp_model.OPTIMAL else Stop.TIME_LIMIT,))
    if status == cp_model.UNKNOWN:
        return found
    placement = Placement(model.phy2log(solver), problem.num_experts, problem.num_gpus)
    problem.check(placement)
    later = replace(found, placement=placement)
    return later if later.step_cost[0] < found.step_cost[0] else found


class StepsData(LayerModel):
    """Index sets and data of one layer's model with steps."""

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the constraints, one of them once per step."""
        return tuple("load_within_step" if name == "load_within_makespan" else name for name in super().constraints)


class _StepsModel(CpModel):
    """The model of the makespan with a makespan for every step; the copies and their rules are the same."""

    def build(self, limits: Limits) -> bool:
        """Build the whole model; False if the time is over before."""
        self._scale_loads()
        if not build(self, limits):
            return False
        self.sum_of_steps()
        if self.data.start is not None:
            self._add_start(self.data.start)
        return not limits.late

    def _scale_loads(self) -> None:
        """Integer replica loads ``[step][expert][count]``, rounded down, and whether that was exact."""
        super()._scale_loads()
        steps = self.problem.steps
        assert steps is not None
        if not self.problem.load.is_integer:  # whole sums of fractions are not exact here
            self.exact = False
        if not self.exact:  # what rounding may take off the steps' makespans
            lost = len(steps) * self.problem.slots_per_gpu / self.scale
            self.data = replace(self.data, lower=max(float(self.data.lower - lost), 0.0))
        self.step_weight = [
            [
                {c: math.floor(Fraction(load) * self.scale / c) for c in counts}
                for load, counts in zip(row, self.data.counts, strict=True)
            ]
            for row in steps[:, 0].tolist()
        ]
        self.weight = [
            {c: sum(row[e][c] for row in self.step_weight) for c in counts} for e, counts in enumerate(self.data.counts)
        ]

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert, then step by step; ``makespan`` is their sum."""
        yield from super().add_variables()
        self.fullest = []
        for t, row in enumerate(self.step_weight):
            total = sum(max(weights.values(), default=0) * max(weights, default=1) for weights in row)
            self.fullest.append(self.cp.new_int_var(0, total, f"T[{t}]"))
            yield

    def sum_of_steps(self) -> None:
        """(S1) The fullest GPUs of all steps have the least load together."""
        self.cp.add(cp_model.LinearExpr.sum(self.fullest) == self.makespan)
        self.cp.minimize(self.makespan)

    def load_within_step(self) -> Iterator[Any]:
        """(S2) In no step does a GPU's load exceed the step's makespan."""
        for row, fullest in zip(self.step_weight, self.fullest, strict=True):
            for g in range(self.problem.num_gpus):
                variables = [copies[c][g] for copies in self.x for c in copies]
                weights = [row[e][c] for e, copies in enumerate(self.x) for c in copies]
                yield cp_model.LinearExpr.weighted_sum(variables, weights) <= fullest

    def _fullest(self, placement: Placement) -> list[int]:
        """Makespan of every step in the model's rounded loads."""
        count, copies = placement.replica_count[0].tolist(), placement.copies[0]
        held = [[(int(e), int(row[e])) for e in np.flatnonzero(row)] for row in copies]
        return [max(sum(row[e][count[e]] * n for e, n in gpu) for gpu in held) for row in self.step_weight]

    def _makespan(self, placement: Placement) -> int:
        return sum(self._fullest(placement))

    def _add_start(self, start: Placement) -> None:
        super()._add_start(start)
        for variable, value in zip(self.fullest, self._fullest(start), strict=True):
            self.cp.add_hint(variable, value)
