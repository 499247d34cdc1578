"""study: one setting through all methods; heuristics first, timed on this machine, then exact methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moeopt.compare import Method, Run, everything_known, run, tabulate
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution

if TYPE_CHECKING:
    import pandas as pd

    from moeopt.report.moves import MovesStudy

Solver = Callable[..., Solution]
"""``solver(problem, *, time_limit, tolerance, start, seed, jobs, budget, progress) -> Solution``."""

Progress = Callable[[str, int], None]
"""Called with a method's name and the layers it has just finished."""


@dataclass(frozen=True)
class Effort:
    """How much a study may spend.

    Parameters
    ----------
    repeats
        Timed calls of a heuristic, after one warm-up.
    tolerance
        Relative distance from the bound within which a placement is OPTIMAL.
    time_limit
        Seconds per layer for an exact method; None = until the layer is closed.
    budget
        Seconds for one exact method on one setting; layers not begun by then keep what was known. None = no end.
    jobs
        Layers that an exact method works on at a time; None = as joblib is configured.
    seed
        Of the exact methods' random choices.
    warm
        Whether exact methods start from what the heuristics and bounds say about the layer.
    """

    repeats: int = 5
    tolerance: float = DEFAULT_TOLERANCE
    time_limit: float | None = None
    budget: float | None = None
    jobs: int | None = None
    seed: int = 0
    warm: bool = True


@dataclass(frozen=True, eq=False)
class Study:
    """One setting: the problem, what every method found, and what is known from all of them together.

    Parameters
    ----------
    problem
        The setting.
    runs
        What each method found, by its name.
    known
        The best placement and the best bound of every layer, from all methods.
    layers
        The table of ``compare``, every method held against ``known``. For a problem with groups and nodes
        ``global_bound`` and ``policy_price`` tell what this rule costs; NaN for others.
    exact
        Names of the runs that are exact methods.
    without_groups
        The study of the same loads without the rule of groups and nodes; None where there is no such rule.
    moves
        The front between balance and migration; None where no placement in force was given.
    """

    problem: PlacementProblem
    runs: Mapping[str, Run]
    known: Solution
    layers: pd.DataFrame
    exact: tuple[str, ...] = ()
    without_groups: Study | None = None
    moves: MovesStudy | None = None


def study(
    problem: PlacementProblem,
    heuristics: Mapping[str, Method],
    exact: Mapping[str, Solver],
    effort: Effort,
    progress: Progress = lambda method, layers: None,
) -> Study:
    """Run all methods on one setting and hold them against one bound.

    A hierarchical problem is studied without its groups first: every bound of that relaxation
    holds for it too, and the two bounds together tell what the rule itself costs.

    Raises
    ------
    ContradictionError
        If a method's placement beats a bound that another one claims.
    """
    relaxed = None
    if problem.hierarchical:
        relaxed = study(replace(problem, num_nodes=1, num_groups=1), heuristics, exact, effort, progress)
    above = None if relaxed is None else relaxed.known.bound
    runs = {}
    for name, method in heuristics.items():
        progress(name, 0)
        runs[name] = run(problem, method, effort.repeats)
        progress(name, problem.num_layers)
    start = everything_known(problem, runs, effort.tolerance, above) if effort.warm else None
    for name, solver in exact.items():
        progress(name, 0)
        runs[name] = _solved(problem, solver, start, effort, partial(progress, name))
    known = everything_known(problem, runs, effort.tolerance, above)
    table = tabulate(runs, known)
    global_bound = np.nan if above is None else np.tile(above.value, len(runs))
    table = table.assign(global_bound=global_bound, policy_price=table.lower_bound / global_bound)
    return Study(problem, runs, known, table, tuple(exact), relaxed)


def _solved(
    problem: PlacementProblem, solver: Solver, start: Solution | None, effort: Effort, progress: Callable[[int], None]
) -> Run:
    """Call an exact method once for all layers, after the first ``jobs`` of them as a warm-up that does not count."""
    told = 0

    def tell(layers: int) -> None:
        nonlocal told
        told += layers
        progress(layers)

    method = partial(
        solver, time_limit=effort.time_limit, tolerance=effort.tolerance, seed=effort.seed, jobs=effort.jobs
    )  # fmt: skip
    first = slice(0, effort.jobs or 1)
    if problem.num_layers > 1:  # so that neither compilation nor the start of worker processes counts
        run(problem[first], partial(method, start=None if start is None else start[first]))
    found = run(problem, partial(method, start=start, budget=effort.budget, progress=tell))
    progress(problem.num_layers - told)
    return found
