"""Recordings that every rank writes its own share of: which ranks are there, and which steps all of them hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from moeopt.errors import TraceError

_LISTED = 12


def listed(ranks: Collection[int]) -> str:
    """``rank 3`` or ``ranks 0, 1, 2``, not too long."""
    shown = ", ".join(map(str, sorted(ranks)[:_LISTED])) + (", ..." if len(ranks) > _LISTED else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def refuse_missing(ranks: Collection[int], num_ranks: int = 0) -> None:
    """Raise TraceError where a rank below the highest (or below ``num_ranks``) is not there."""
    expected = max(num_ranks, max(ranks) + 1)
    if len(ranks) < expected:
        missing = [rank for rank in range(min(expected, len(ranks) + _LISTED + 1)) if rank not in ranks]
        raise TraceError(
            f"the files of {listed(missing)} are missing, those of {listed(ranks)} are there; together they are the "
            "load (single_rank=True, --single-rank, takes what is there)"
        )


def complete_steps(
    step_name: str, holders: Mapping[int, Collection[int]], ranks: Collection[int]
) -> tuple[list[int], str]:
    """Return the steps that all ``ranks`` hold, in order, and a note about those at either end that were left out.

    Ranks start and stop recording within a step or two of each other, so that the first and last
    steps may lack some; one in the middle may not.

    Raises
    ------
    TraceError
        Where a step in the middle lacks a rank, or no step has all.
    """
    steps = sorted(holders)
    whole = [step for step in steps if len(holders[step]) == len(ranks)]
    if not whole:
        raise TraceError(f"no {step_name} was recorded by all of {listed(ranks)}")
    for step in steps:
        if whole[0] < step < whole[-1] and len(holders[step]) < len(ranks):
            missing = [rank for rank in ranks if rank not in holders[step]]
            raise TraceError(f"{step_name} {step} lacks {listed(missing)}, the ones around it were recorded by all")
    left_out = len(steps) - len(whole)
    note = f"{left_out} of {len(steps)} recorded at the begin or end by some ranks only, left out" if left_out else ""
    return whole, note
