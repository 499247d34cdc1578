"""Minimise moves: bring copies home by exchanges of a few GPUs, all of which stay under one ceiling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moeopt import _arguments as arguments
from moeopt import metrics
from moeopt.balancers._reasons import counts_no_moves
from moeopt.balancers.contiguous import contiguous
from moeopt.balancers.relabel import relabel
from moeopt.balancers.repair import bring_home
from moeopt.balancers.start import as_start, first_placement
from moeopt.methods import refuses
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


@refuses(counts_no_moves)
def minimize_moves(problem: PlacementProblem, *, start: Placement | Any = None, tolerance: float = 0.001) -> Placement:
    """Bring copies of a placement home while no GPU exceeds its makespan by more than ``tolerance``.

    GPUs are renamed as ``relabel`` does first. Then copies go home by cyclic exchanges of a few GPUs that save
    moves in all, and slots are given back to the expert that the reference has there, as long as every
    GPU stays under one ceiling, ``1 + tolerance`` times the start's makespan. Within nodes only, where groups
    bind experts to nodes.

    Parameters
    ----------
    start
        The placement to tidy (Placement or ``[layers, slots]``); by default EPLB's, dealt apart where copies
        may not share a GPU. Home is ``problem.reference``, or the contiguous layout where there is none.
    tolerance
        Relative height of the ceiling above the start's makespan, >= 0.

    Raises
    ------
    UnsupportedError
        If moves are limited or minimised: ``repair`` does that.
    InputError
        If ``tolerance`` is no number >= 0 or ``start`` no placement; PlacementError if that breaks the problem.

    Notes
    -----
    O(slots * log slots) a copy brought home, after ``relabel``.

    Examples
    --------
    >>> from moeopt import PlacementProblem, balancers
    >>> problem = PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2)
    >>> start = balancers.eplb(problem)
    >>> balancers.minimize_moves(problem, start=start).phy2log.tolist()
    [[1, 2, 4, 0, 3, 5]]
    """
    tolerance = arguments.fraction("tolerance", tolerance)
    known = problem if problem.reference is not None else replace(problem, reference=contiguous(problem))
    first = first_placement(problem) if start is None else as_start(problem, start)
    ceiling = metrics.makespan(metrics.gpu_load(problem.load, first)) * (1 + tolerance)
    return bring_home(known, relabel(known, start=first), ceiling)
