"""Everything a report prints, handed to an independent check, and the record of what it found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from moeopt.bounds import Bound
from moeopt.compare import reference_placement, shared_bound
from moeopt.problem import PlacementProblem
from moeopt.report.settings import title
from moeopt.report.study import Study
from moeopt.solution import Solution, SolveStatus


class Verdict(Protocol):
    """What a check says about one layer: see ``solvers.verify.LayerVerdict``."""

    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def placement_ok(self) -> bool | None: ...  # noqa: D102
    @property
    def makespan(self) -> Fraction | None: ...  # noqa: D102
    @property
    def bound(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


class Verification(Protocol):
    """What a check says about a solution."""

    @property
    def layers(self) -> Sequence[Verdict]: ...  # noqa: D102


Verify = Callable[[PlacementProblem, Solution], Verification]
"""An independent check of every claim of a solution; ``solvers.verify``."""


@dataclass(frozen=True)
class Certificates:
    """What was checked: the content of ``certificates.json``, one line of summary, and what was rejected."""

    content: bytes
    summary: str
    rejected: tuple[str, ...]


def certify(studies: Sequence[Study], verify: Verify) -> Certificates:
    """Check every placement and every shared bound of the studies, that of a policy's relaxation included.

    A method's makespans, moves and statuses are checked as they are printed, against the printed
    bound; the bound itself is checked once, from its certificate.
    """
    settings, rejected = [], []
    verdicts: list[Verdict] = []
    placements = 0
    for done in [s for study in studies for s in (study.without_groups, study) if s is not None]:
        record, bounds, by_method = _setting(done, verify)
        settings.append(record)
        verdicts += bounds
        layers = done.problem.load.layer_ids
        for name, found in {"shared bound": bounds, **by_method}.items():
            where = f"{title(done.problem)}: {name}"
            rejected += [f"{where}, layer {i}: {v.reason}" for i, v in zip(layers, found, strict=True) if not v.ok]
        placements += sum(v.placement_ok is not None for found in by_method.values() for v in found)
    proven, claimed, unknown = (
        sum(v.bound == kind for v in verdicts) for kind in ("proven", "solver's claim", "unknown")
    )
    summary = f"verified: {placements} placements, {proven} bounds proven exactly, {claimed} rest on a solver's search"
    if unknown:
        summary += f", {unknown} not decided"
    if rejected:
        summary += f"; REJECTED: {len(rejected)}"
    return Certificates(_json(settings), summary, tuple(rejected))


def _setting(study: Study, verify: Verify) -> tuple[dict[str, Any], list[Verdict], dict[str, list[Verdict]]]:
    """Record, verdicts on the shared bound, and verdicts on every method, of one setting."""
    problem = replace(study.problem, reference=reference_placement(study.problem))
    above = study.without_groups
    given = None if above is None else shared_bound(above.problem, above.runs)
    bound = shared_bound(study.problem, study.runs, given)
    bounds = list(verify(problem, _bound_alone(bound)).layers)
    by_method = {name: list(verify(problem, _as_printed(study, name, bound)).layers) for name in study.runs}
    load = study.problem.load
    record = {
        "trace": load.source,
        "num_gpus": problem.num_gpus,
        "num_slots": problem.slots,
        "num_nodes": problem.num_nodes,
        "num_groups": problem.num_groups,
        "loads_sha256": hashlib.sha256(load.values.tobytes()).hexdigest(),
        "layers": [
            {
                "layer": layer,
                "lower_bound": str(Fraction(float(bound.value[i]))),
                "bound_source": bound.source[i],
                "verdict": bounds[i].bound,
                "reason": bounds[i].reason,
                "placements": {name: _told(found[i]) for name, found in by_method.items()},
                "certificate": bound.certificate[i],
            }
            for i, layer in enumerate(load.layer_ids)
        ],
    }
    return record, bounds, by_method


def _bound_alone(bound: Bound) -> Solution:
    layers = len(bound.value)
    unknown = np.full(layers, np.nan)
    return Solution(
        placement=None,
        status=(SolveStatus.NO_SOLUTION,) * layers,
        makespan=unknown,
        moves=unknown,
        objective=unknown,
        lower_bound=bound.value,
        bound_source=bound.source,
        runtime=unknown,
        note=("",) * layers,
        certificate=bound.certificate,
    )


def _as_printed(study: Study, name: str, bound: Bound) -> Solution:
    """Return a method's rows of the table, as a solution whose bound needs no further proof."""
    rows = study.layers[study.layers.method == name]
    makespan = rows.makespan.to_numpy(dtype=float)
    return replace(
        _bound_alone(bound),
        placement=study.runs[name].placement,
        status=tuple(SolveStatus(status) for status in rows.status),
        makespan=makespan,
        moves=rows.moves.to_numpy(dtype=float, na_value=np.nan),
        objective=makespan,
        lower_bound=rows.lower_bound.to_numpy(dtype=float),
        certificate=(None,) * len(rows),
    )


def _told(verdict: Verdict) -> str:
    """Return the exact makespan of a placement, why it is rejected, or that there is none."""
    if not verdict.ok:
        return verdict.reason
    return "none" if verdict.makespan is None else str(verdict.makespan)


def _json(settings: Sequence[dict[str, Any]]) -> bytes:
    """Write one layer a line."""
    texts = []
    for setting in settings:
        head = json.dumps({key: value for key, value in setting.items() if key != "layers"})
        layers = ",\n".join(json.dumps(layer) for layer in setting["layers"])
        texts.append(f'{head[:-1]}, "layers": [\n{layers}\n]}}')
    return ('{"settings": [\n' + ",\n".join(texts) + "\n]}\n").encode()
