"""compare: any number of methods on one problem, scored by one evaluator against one bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds, metrics
from moeopt.bounds import Bound
from moeopt.errors import InputError, MoeoptError, UnsupportedError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, FLOAT_RESOLUTION, Solution, SolveStatus

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
    answer
        What the method returned; None if it could not.
    seconds
        Runtime of every repeat, all layers together.
    status, note
        SKIPPED or ERROR and the reason, where there is no answer.
    """

    answer: Placement | Solution | None = None
    seconds: tuple[float, ...] = ()
    status: SolveStatus | None = None
    note: str = ""

    @property
    def placement(self) -> Placement | None:
        """The placement; layers without one are all -1."""
        return self.answer.placement if isinstance(self.answer, Solution) else self.answer

    @property
    def solution(self) -> Solution | None:
        """The answer of an exact method, None for a heuristic."""
        return self.answer if isinstance(self.answer, Solution) else None

    @property
    def solved(self) -> NDArray[np.intp]:
        """Numbers of the layers that have a placement."""
        if self.placement is None:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero((self.placement.phy2log >= 0).any(axis=1))


def compare(
    problem: PlacementProblem,
    methods: Mapping[str, Method],
    *,
    repeats: int = 1,
    warmup: int = 1,
    gap: float = DEFAULT_GAP,
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
    gap
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
        SKIPPED (it cannot take the problem) or ERROR and the reason in ``note``.
    MoeoptError
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
    if repeats < 1 or warmup < 0:
        raise InputError(f"repeats must be >= 1 and warmup >= 0, got repeats={repeats}, warmup={warmup}")
    return judge(problem, {name: run(problem, methods[name], repeats, warmup) for name in methods}, gap, bound)


def run(problem: PlacementProblem, method: Method, repeats: int = 1, warmup: int = 1) -> Run:
    """Call one method, time it, check what it returns; never raises for a method's own fault."""
    try:
        answer, seconds = _timed(problem, method)
        if isinstance(answer, Placement):
            problem.check(answer)
            for _ in range(warmup - 1):
                method(problem)
            timed = [_timed(problem, method)[1] for _ in range(repeats if warmup else repeats - 1)]
            return Run(answer, tuple(timed if warmup else [seconds, *timed]))
        if not isinstance(answer, Solution):
            raise InputError(f"returned {type(answer).__name__}, not a Placement or a Solution")
        if len(answer) != problem.num_layers:
            raise InputError(f"returned a Solution of {len(answer)} layers for {problem.num_layers}")
        found = Run(answer, (seconds,))
        if found.placement is not None and found.solved.size:
            problem[found.solved.tolist()].check(found.placement[found.solved.tolist()])
        return found
    except UnsupportedError as error:
        return Run(status=SolveStatus.SKIPPED, note=_reason(error))
    except InputError as error:
        return Run(status=SolveStatus.ERROR, note=_reason(error))
    except Exception as error:
        return Run(status=SolveStatus.ERROR, note=f"{type(error).__name__}: {_reason(error)}")


def judge(
    problem: PlacementProblem, runs: Mapping[str, Run], gap: float = DEFAULT_GAP, bound: Bound | None = None
) -> pd.DataFrame:
    """Score runs by ``metrics`` and hold them against one bound; the table of ``compare``."""
    import pandas as pd  # here, because importing moeopt should not cost what pandas costs

    scores = {name: _score(problem, run) for name, run in runs.items()}
    best = _best_bound(problem, runs, scores, bound)
    tables = [_table(problem, name, runs[name], scores[name], best, gap) for name in runs]
    empty = pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat(tables, ignore_index=True) if tables else empty
    table.attrs["runtime"] = {name: list(run.seconds) for name, run in runs.items()}
    return table


def shared_bound(problem: PlacementProblem, runs: Mapping[str, Run], bound: Bound | None = None) -> Bound:
    """Return the bound that ``judge`` holds all runs against, with what proves it again."""
    return _best_bound(problem, runs, {name: _score(problem, run) for name, run in runs.items()}, bound)


def reference_placement(problem: PlacementProblem) -> Placement:
    """Return the placement moves are counted from: ``problem.reference``, or the contiguous layout."""
    from moeopt.balancers import contiguous

    return contiguous(problem) if problem.reference is None else problem.reference


def _timed(problem: PlacementProblem, method: Method) -> tuple[Any, float]:
    start = time.perf_counter()
    answer = method(problem)
    return answer, time.perf_counter() - start


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, eq=False)
class _Score:
    """``[layers]`` numbers of one run, NaN where it has no placement."""

    makespan: NDArray[np.float64]
    imbalance: NDArray[np.float64]
    moves: NDArray[np.float64]
    objective: NDArray[np.float64]


def _score(problem: PlacementProblem, run: Run) -> _Score:
    makespan, imbalance, moves = np.full((3, problem.num_layers), np.nan)
    rows = run.solved.tolist()
    if run.placement is not None and rows:
        gpu_load = metrics.gpu_load(problem.load[rows], run.placement[rows])
        makespan[rows], imbalance[rows] = metrics.makespan(gpu_load), metrics.imbalance(gpu_load)
        moves[rows] = metrics.moves(reference_placement(problem)[rows], run.placement[rows])
    return _Score(makespan, imbalance, moves, makespan if problem.objective == "makespan" else moves)


def _best_bound(
    problem: PlacementProblem, runs: Mapping[str, Run], scores: Mapping[str, _Score], given: Bound | None
) -> Bound:
    """Largest bound of all sources per layer; refuses one that a feasible placement beats."""
    _refuse_contradiction(problem, runs)
    combinatorial = bounds.lower_bound(problem)
    value, source = combinatorial.value.copy(), list(combinatorial.source)
    certificate = list(combinatorial.certificate)
    unproven = (None,) * problem.num_layers
    claims = [] if given is None else [(given.value, given.source, given.certificate or unproven)]
    for name, run in runs.items():
        if run.solution is not None:
            origin = tuple(s or name for s in run.solution.bound_source)
            claims.append((run.solution.lower_bound, origin, run.solution.certificate))
    for claimed, origin, proof in claims:
        for layer in np.flatnonzero(np.isnan(value) | (claimed > value)):
            value[layer], source[layer], certificate[layer] = claimed[layer], origin[layer], proof[layer]
    for name, score in scores.items():
        wrong = np.flatnonzero(score.objective < value * (1 - FLOAT_RESOLUTION))
        if wrong.size:
            first = int(wrong[0])
            raise MoeoptError(
                f"layer {problem.load.layer_ids[first]} of {problem.load.source}: {name} reaches "
                f"{score.objective[first]:.12g}, below the lower bound {value[first]:.12g} "
                f"of {source[first]}; one of the two is wrong"
            )
        # A floating-point solver's bound may stand above a feasible objective by its tolerance.
        value = np.where(score.objective < value, score.objective, value)
    return Bound(value, tuple(source), tuple(certificate))


def _refuse_contradiction(problem: PlacementProblem, runs: Mapping[str, Run]) -> None:
    solved = {int(layer) for run in runs.values() for layer in run.solved}
    for name, run in runs.items():
        claims = run.solution.status if run.solution is not None else ()
        for layer, status in enumerate(claims):
            if status is SolveStatus.INFEASIBLE and layer in solved:
                raise MoeoptError(
                    f"layer {problem.load.layer_ids[layer]} of {problem.load.source}: {name} claims that no "
                    "placement exists, and another method has one"
                )


def _table(problem: PlacementProblem, name: str, run: Run, score: _Score, bound: Bound, gap: float) -> pd.DataFrame:
    import pandas as pd

    relative = metrics.gap(score.objective, bound.value)
    solution = run.solution
    if solution is not None:
        runtime = solution.runtime
    else:
        runtime = np.full(problem.num_layers, np.median(run.seconds) / problem.num_layers if run.seconds else np.nan)
    return pd.DataFrame(
        {
            "trace": problem.load.source,
            "num_gpus": problem.num_gpus,
            "num_slots": problem.slots,
            "layer": problem.load.layer_ids,
            "method": name,
            "status": [str(_status(run, layer, relative[layer], gap)) for layer in range(problem.num_layers)],
            "makespan": score.makespan,
            "mean_load": problem.load.values.sum(axis=1, dtype=float) / problem.num_gpus,
            "lower_bound": bound.value,
            "bound_source": bound.source,
            "gap": relative,
            "imbalance": score.imbalance,
            "balancedness": 1.0 / score.imbalance,
            "moves": pd.array(score.moves, dtype="Int64"),
            "runtime_ms": runtime * 1e3,
            "note": solution.note if solution is not None else run.note,
        },
        columns=list(COLUMNS),
    )


def _status(run: Run, layer: int, relative: float, gap: float) -> SolveStatus:
    if run.status is not None:
        return run.status
    if layer in run.solved:
        return SolveStatus.OPTIMAL if relative <= max(gap, FLOAT_RESOLUTION) else SolveStatus.FEASIBLE
    return run.solution.status[layer] if run.solution is not None else SolveStatus.NO_SOLUTION
