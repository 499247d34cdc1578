"""Why balancers do not take a problem, said before they run: the rest of a sentence that the method's name begins."""

from __future__ import annotations

from dataclasses import replace

from moeopt.errors import PlacementError
from moeopt.problem import PlacementProblem


def counts_no_moves(problem: PlacementProblem) -> str:
    """Of a method that pays no heed to moves."""
    if problem.max_moves is not None:
        return f"counts no moves, and max_moves={problem.max_moves} limits them"
    if problem.max_makespan is not None:
        return "counts no moves, and with max_makespan the problem minimises them"
    return ""


def packs_blindly(problem: PlacementProblem) -> str:
    """Of a method that packs copies without regard to their experts, or to moves."""
    if not problem.allow_colocated and problem.num_redundant > 0 and problem.slots_per_gpu > 1:
        return "may put two copies of an expert on a GPU, and allow_colocated=False"
    return counts_no_moves(problem)


def broken_reference(problem: PlacementProblem) -> str:
    """Of a method that starts from the reference where moves matter, if that is no placement of the problem."""
    if problem.max_moves is None and problem.max_makespan is None:
        return ""
    assert problem.reference is not None
    if problem.reference.num_slots != problem.slots:
        has = problem.reference.num_slots
        return f"starts from the reference, slot by slot, but that has {has} slots, not {problem.slots}"
    try:
        replace(problem, max_moves=None, max_makespan=None).check(problem.reference)
    except PlacementError as error:
        return f"starts from the reference, which breaks the problem's rules: {error}"
    return ""
