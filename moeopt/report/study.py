"""study: one setting through all methods, heuristics first, exact methods layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.bounds import Bound
from moeopt.compare import Method, Run, judge, run
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, LayerOutcome, Solution, SolveStatus, conclude

if TYPE_CHECKING:
    import pandas as pd

Exact = Callable[[PlacementProblem, Placement | None], Solution]
"""An exact method with its limits bound: takes a problem and a placement to start from."""

Progress = Callable[[str, int], None]
"""Called with a method's name and the layers it has just finished."""


_QUICK = 0.1
"""Seconds a layer below which an exact method is handed twice as many layers next."""


@dataclass(frozen=True)
class Effort:
    """How much a study may spend.

    Parameters
    ----------
    repeats
        Timed calls of a heuristic, after one warm-up.
    gap
        Relative distance from the bound within which a placement is OPTIMAL.
    budget
        Seconds for one exact method on one setting; layers beyond it are SKIPPED. None = no end.
    jobs
        Layers handed to an exact method at first, which it may solve in parallel.
    hint
        Whether exact methods start from the best heuristic placement of the layer.
    """

    repeats: int = 5
    gap: float = DEFAULT_GAP
    budget: float | None = None
    jobs: int = 1
    hint: bool = True


@dataclass(frozen=True, eq=False)
class Study:
    """One setting: the problem, every method's run and the tidy table of ``compare``.

    ``without_groups`` is the study of the same loads without the rule of groups and nodes, None
    where there is no such rule; with it the table has ``global_bound`` and ``policy_price``.
    """

    problem: PlacementProblem
    runs: dict[str, Run]
    layers: pd.DataFrame
    without_groups: Study | None = None


def study(
    problem: PlacementProblem,
    heuristics: Mapping[str, Method],
    exact: Mapping[str, Exact],
    effort: Effort,
    progress: Progress = lambda method, layers: None,
) -> Study:
    """Run all methods on one setting and hold them against one bound.

    A hierarchical problem is studied without its groups first: every bound of that relaxation
    holds for it too, and the two bounds together tell what the rule itself costs.
    """
    relaxed = None
    if problem.hierarchical:
        relaxed = study(replace(problem, num_nodes=1, num_groups=1), heuristics, exact, effort, progress)
    runs = {}
    for name, method in heuristics.items():
        runs[name] = run(problem, method, effort.repeats)
        progress(name, problem.num_layers)
    hint = best_placement(problem, runs) if effort.hint else None
    for name, solver in exact.items():
        runs[name] = _layer_by_layer(problem, name, solver, hint, effort, progress)
    if relaxed is None:
        table = judge(problem, runs, effort.gap)
        return Study(problem, runs, table.assign(global_bound=np.nan, policy_price=np.nan))
    above = layer_bound(relaxed)
    table = judge(problem, runs, effort.gap, above)
    table["global_bound"] = np.tile(above.value, len(runs))
    table["policy_price"] = table.lower_bound / table.global_bound
    return Study(problem, runs, table, relaxed)


def layer_bound(study: Study) -> Bound:
    """Return the bound that the study's methods were held against."""
    first = study.layers[study.layers.method == study.layers.method.iloc[0]]
    return Bound(first.lower_bound.to_numpy(dtype=float), tuple(first.bound_source))


def best_makespan(study: Study) -> NDArray[np.float64]:
    """Return the least makespan any method reached, ``[layers]``, NaN where none has a placement."""
    by_layer = study.layers.groupby("layer", sort=False).makespan.min()
    makespan: NDArray[np.float64] = by_layer.loc[list(study.problem.load.layer_ids)].to_numpy(dtype=float)
    return makespan


def best_placement(problem: PlacementProblem, runs: Mapping[str, Run]) -> Placement | None:
    """Return the best row of all placements, layer by layer; None where a layer has none."""
    found = [r.placement for r in runs.values() if r.placement is not None and r.solved.size == problem.num_layers]
    if not found:
        return None
    makespans = np.array([metrics.makespan(metrics.gpu_load(problem.load, placement)) for placement in found])
    rows = np.array([placement.phy2log for placement in found])
    best = rows[makespans.argmin(axis=0), np.arange(problem.num_layers)]
    return Placement(best, problem.num_experts, problem.num_gpus)


def _layer_by_layer(
    problem: PlacementProblem,
    name: str,
    solver: Exact,
    hint: Placement | None,
    effort: Effort,
    progress: Progress,
) -> Run:
    """Solve some layers at a time, more where that is quick, until they or the budget end.

    The first layer is solved once more beforehand, so that compilation never counts.
    """

    def solve(rows: slice) -> Run:
        return run(problem[rows], lambda part: solver(part, None if hint is None else hint[rows]))

    if problem.num_layers > 1:
        solve(slice(0, 1))
    start = time.perf_counter()
    outcomes: list[LayerOutcome] = []
    some = effort.jobs
    while len(outcomes) < problem.num_layers:
        if effort.budget is not None and time.perf_counter() - start > effort.budget:
            note = f"not tried: {name} had used its {effort.budget:g} s for this setting"
            left = problem.num_layers - len(outcomes)
            outcomes += [LayerOutcome(status=SolveStatus.SKIPPED, note=note)] * left
            progress(name, left)
            break
        rows = slice(len(outcomes), len(outcomes) + some)
        done = len(problem.load.layer_ids[rows])
        before = time.perf_counter()
        answer = solve(rows)
        if answer.solution is None and done > effort.jobs:
            some = effort.jobs  # one layer may be at fault: the others get their chance alone
            continue
        outcomes += _outcomes(answer, done, name)
        progress(name, done)
        some = 2 * some if time.perf_counter() - before < _QUICK * done else effort.jobs
        if answer.status is SolveStatus.SKIPPED and len(outcomes) == done:
            progress(name, problem.num_layers - len(outcomes))
            return answer
    return Run(conclude(problem, outcomes, effort.gap), (time.perf_counter() - start,))


def _outcomes(answer: Run, num_layers: int, name: str) -> list[LayerOutcome]:
    solution = answer.solution
    if solution is None:
        note = answer.note or "returned a placement without a bound"
        return [LayerOutcome(status=answer.status or SolveStatus.ERROR, note=note)] * num_layers
    return [
        LayerOutcome(
            phy2log=solution.placement.phy2log[i] if solution.placement is not None and i in answer.solved else None,
            lower_bound=float(solution.lower_bound[i]),
            bound_source=solution.bound_source[i] or name,
            status=solution.status[i],
            runtime=float(solution.runtime[i]),
            note=solution.note[i],
            certificate=solution.certificate[i],
        )
        for i in range(num_layers)
    ]
