"""compare: any number of methods on one problem, scored by one evaluator against one bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moeopt import bounds, metrics
from moeopt._arguments import fraction, integer
from moeopt.balancers.contiguous import contiguous
from moeopt.bounds import Bound
from moeopt.errors import ContradictionError, InputError, NoPlacementError, UnsupportedError
from moeopt.methods import refusal
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution, Stop

if TYPE_CHECKING:
    import pandas as pd

Method = Callable[[PlacementProblem], Placement | Solution]

COLUMNS = (
    "trace", "num_gpus", "num_slots", "layer", "method", "status", "makespan", "mean_load", "lower_bound",
    "bound_source", "gap", "imbalance", "balancedness", "moves", "runtime_ms", "note",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """One method's answer to one problem: checked, but not yet held against a bound.

    Parameters
    ----------
    found
        What is known through this method alone; why it ended and a note where there is no placement.
    seconds
        Runtime of every repeat, all layers together.
    exact
        Whether the method returned a Solution itself.
    """

    found: Solution
    seconds: tuple[float, ...] = ()
    exact: bool = False


def compare(
    problem: PlacementProblem,
    methods: Mapping[str, Method],
    *,
    repeats: int = 1,
    warmup: int = 1,
    tolerance: float = DEFAULT_TOLERANCE,
    bound: Bound | None = None,
) -> pd.DataFrame:
    """Run every method on the problem and hold all of them against the same lower bound.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules that all placements must keep.
    methods
        Name -> any callable ``problem -> Placement | Solution``; your own heuristic is one entry.
    repeats, warmup
        Timed calls of a heuristic, and calls before them that do not count (compilation). An
        exact method, known by returning a Solution, is called once.
    tolerance
        Relative distance from the bound within which a placement is OPTIMAL.
    bound
        A bound on this problem that is proven elsewhere, joined with those found here.

    Returns
    -------
    pandas.DataFrame
        A row per method and layer with the columns ``COLUMNS``; ``layer`` is the trace's own id,
        loads are in tokens, ``gap`` is a fraction. ``lower_bound`` is the best of the
        combinatorial bounds, ``bound`` and every Solution's bound. ``lower_bound`` and ``gap``
        speak of the problem's objective. ``moves`` count from ``problem.reference``, or from the
        contiguous layout when there is none. ``runtime_ms`` is a Solution's own time for the
        layer, or a heuristic's median call divided by the layers. ``attrs["runtime"]`` holds
        the seconds of every call for all layers together, by method.

    Raises
    ------
    InputError
        If ``repeats`` < 1 or ``warmup`` < 0. What a *method* raises becomes rows with the status
        SKIPPED (it does not take the problem: methods are asked first where they can say),
        NO_SOLUTION or ERROR and the reason in ``note``.
    ContradictionError
        If a feasible placement beats a claimed bound: one of the two is wrong.

    Examples
    --------
    >>> from moeopt import balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> mine = lambda problem: Placement([[0, 3, 1, 2]], problem.num_experts, problem.num_gpus)
    >>> table = compare(problem, {"contiguous": balancers.contiguous, "mine": mine})
    >>> [str(status) for status in table.status]
    ['FEASIBLE', 'OPTIMAL']
    """
    integer("repeats", repeats, 1)
    integer("warmup", warmup, 0)
    runs = {name: run(problem, method, repeats, warmup) for name, method in methods.items()}
    return tabulate(runs, everything_known(problem, runs, fraction("tolerance", tolerance), bound))


def run(problem: PlacementProblem, method: Method, repeats: int = 1, warmup: int = 1) -> Run:
    """Ask one method whether it takes the problem, call it, time it, check what it returns.

    Never raises for a method's own fault.
    """
    why = refusal(method, problem)
    if why:
        return Run(Solution(problem, stop=Stop.SKIPPED, note=why))
    try:
        answer, seconds = _timed(problem, method)
        if isinstance(answer, Placement):
            found = Solution(problem, answer)
            for _ in range(warmup - 1):
                method(problem)
            timed = [_timed(problem, method)[1] for _ in range(repeats if warmup else repeats - 1)]
            return Run(found, tuple(timed if warmup else [seconds, *timed]))
        if not isinstance(answer, Solution):
            raise InputError(f"returned {type(answer).__name__}, not a Placement or a Solution")
        if len(answer) != problem.num_layers:
            raise InputError(f"returned a Solution of {len(answer)} layers for {problem.num_layers}")
        return Run(replace(answer, problem=problem), (seconds,), exact=True)
    except UnsupportedError as error:
        stop, note = Stop.SKIPPED, _reason(error)
    except NoPlacementError as error:
        stop, note = Stop.DONE, _reason(error)
    except InputError as error:
        stop, note = Stop.ERROR, _reason(error)
    except Exception as error:
        stop, note = Stop.ERROR, f"{type(error).__name__}: {_reason(error)}"
    return Run(Solution(problem, stop=stop, note=note))


def everything_known(
    problem: PlacementProblem, runs: Mapping[str, Run], tolerance: float = DEFAULT_TOLERANCE, bound: Bound | None = None
) -> Solution:
    """Join what all runs found with the combinatorial bounds and ``bound``.

    Raises
    ------
    ContradictionError
        Names the method whose answer contradicts what is known from the others.
    """
    known = Solution(problem, bound=bounds.lower_bound(problem), tolerance=tolerance)
    if bound is not None:
        known = known.join(Solution(problem, bound=bound))
    for name, done in runs.items():
        try:
            known = known.join(done.found)
        except ContradictionError as error:
            raise ContradictionError(f"{name}: {error}") from None
    return known


def tabulate(runs: Mapping[str, Run], known: Solution) -> pd.DataFrame:
    """Hold all runs against one bound: the table of ``compare``."""
    import pandas as pd  # here, because importing moeopt should not cost what pandas costs

    tables = [_table(name, done, known) for name, done in runs.items()]
    empty = pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat(tables, ignore_index=True) if tables else empty
    table.attrs["runtime"] = {name: list(done.seconds) for name, done in runs.items()}
    return table


def against(known: Solution, found: Solution) -> Solution:
    """Return what one method found, held against everything that is proven."""
    return replace(found, bound=known.bound, tolerance=known.tolerance)


def reference_placement(problem: PlacementProblem) -> Placement:
    """Return the placement moves are counted from: ``problem.reference``, or the contiguous layout."""
    return contiguous(problem) if problem.reference is None else problem.reference


def _timed(problem: PlacementProblem, method: Method) -> tuple[Any, float]:
    start = time.perf_counter()
    answer = method(problem)
    return answer, time.perf_counter() - start


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _table(name: str, done: Run, known: Solution) -> pd.DataFrame:
    import pandas as pd

    problem, found = known.problem, against(known, done.found)
    imbalance = metrics.imbalance(found.gpu_load)
    seconds = np.full(problem.num_layers, np.median(done.seconds) / problem.num_layers if done.seconds else np.nan)
    moves = np.full(problem.num_layers, np.nan)
    if found.placement is not None:
        rows = found.solved
        moves[rows] = metrics.moves(reference_placement(problem)[rows], found.placement[rows])
    return pd.DataFrame(
        {
            "trace": problem.load.source,
            "num_gpus": problem.num_gpus,
            "num_slots": problem.slots,
            "layer": problem.load.layer_ids,
            "method": name,
            "status": [str(status) for status in found.status],
            "makespan": found.makespan,
            "mean_load": problem.load.values.sum(axis=1, dtype=float) / problem.num_gpus,
            "lower_bound": found.lower_bound,
            "bound_source": found.bound_source,
            "gap": found.gap,
            "imbalance": imbalance,
            "balancedness": 1.0 / imbalance,
            "moves": pd.array(moves, dtype="Int64"),
            "runtime_ms": 1e3 * (found.runtime if done.exact else seconds),
            "note": found.note,
        },
        columns=list(COLUMNS),
    )
