"""What more slots bring: settings of one trace and one number of GPUs held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeopt.report.study import Study
from moeopt.report.tables import percent


def more_slots(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return, by trace and GPUs, what each number of slots reaches and is proven to allow, and sentences on it.

    ``reached`` and ``bound`` are sums over layers of the best makespan known and of the bound, over that of the mean
    load of the GPUs, which no number of slots can beat.
    """
    families: dict[tuple[str, int, int, int], list[Study]] = {}
    for study in studies:
        problem = study.problem
        if len(study.known.solved) == study.known.num_layers and problem.load.values.any():
            key = (problem.load.source, problem.num_gpus, problem.num_nodes, problem.num_groups)
            families.setdefault(key, []).append(study)
    found = []
    for (trace, gpus, nodes, groups), family in families.items():
        family.sort(key=lambda study: study.problem.slots)
        rows = [_row(study) for study in family]
        told = [_saved(rows[i], rows[i + 1], gpus) for i in range(len(rows) - 1)] + [_left(rows, gpus)]
        found.append(
            {"trace": trace, "gpus": gpus, "nodes": nodes, "groups": groups, "rows": rows, "words": told}
        )  # fmt: skip
    return found


def _row(study: Study) -> dict[str, Any]:
    known, mean = study.known, study.problem.load.values.sum(dtype=float) / study.problem.num_gpus
    return {
        "slots": study.problem.slots,
        "reached": float(known.makespan.sum() / mean),
        "bound": float(known.lower_bound.sum() / mean),
        "methods": {
            name: float(run.found.makespan.sum() / mean)
            for name, run in study.runs.items()
            if len(run.found.solved) == known.num_layers
        },
    }


def _saved(fewer: dict[str, Any], more: dict[str, Any], gpus: int) -> str:
    """Say what some more slots save: what the best placements known do, and what is proven of the best possible."""
    saved = max(1 - more["reached"] / fewer["reached"], 0.0)
    least, most = max(1 - more["reached"] / fewer["bound"], 0.0), max(1 - more["bound"] / fewer["reached"], 0.0)
    return (
        f"{more['slots'] - fewer['slots']} more slots on {gpus} GPUs ({more['slots']} instead of {fewer['slots']}) "
        f"take {percent(saved)} % less expert time with the best placements known; between the best possible ones it "
        f"is proven to be {percent(least)} to {percent(most)} %."
    )


def _left(rows: Sequence[dict[str, Any]], gpus: int) -> str:
    """Say what any number of slots beyond the most that were tried could bring."""
    last = rows[-1]
    told = f"Any number beyond {last['slots']} could take at most {percent(max(1 - 1 / last['reached'], 0.0))} % less: "
    told += f"all {gpus} GPUs would then carry the same load."
    if len(rows) == 1:
        told += f" To compare, run with more numbers of slots, such as --slots {last['slots']},{last['slots'] + gpus}."
    return told
