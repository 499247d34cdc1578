"""``certificates.json``: loads, rules, placements and proofs, as far as an outsider needs them to check everything."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moeopt._files import write_whole
from moeopt.bounds import Bound, Certificate
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.verify import LayerVerdict
from moeopt.verify.check import check_layer
from moeopt.verify.layer import Claim
from moeopt.verify.solution import exact_layer


class Stepwise(Protocol):
    """What is known about the sum over steps of the fullest GPU, as ``solve_steps`` returns it."""

    @property
    def problem(self) -> PlacementProblem:
        """The problem, which knows its steps."""

    @property
    def placement(self) -> Placement:
        """The best placement known."""

    @property
    def bound(self) -> Bound:
        """What is proven."""


@dataclass(frozen=True)
class LayerRecord:
    """The bound of a layer, its verdict, and every method's exact makespan (or why it is rejected).

    ``slots`` has the placements that no file holds; ``reference`` and ``ceiling`` are of problems that count moves,
    ``steps`` of those whose objective is the sum over steps of the fullest GPU.
    """

    layer: int
    lower_bound: str | None
    bound_source: str
    verdict: str
    reason: str
    placements: dict[str, str]
    certificate: Certificate | None
    slots: dict[str, list[int]] = field(default_factory=dict)
    reference: list[int] | None = None
    ceiling: str | None = None
    steps: list[list[int]] | None = None


@dataclass(frozen=True)
class SettingRecord:
    """One setting; ``files`` has the placements of all its layers by method, beside the document."""

    trace: str
    num_gpus: int
    num_slots: int
    num_nodes: int
    num_groups: int
    allow_colocated: bool
    allow_empty_slots: bool
    split: str
    max_moves: int | None
    loads_sha256: str
    files: dict[str, str]
    layers: tuple[LayerRecord, ...]


def setting_record(
    problem: PlacementProblem,
    bound: Bound,
    verdicts: Sequence[LayerVerdict],
    methods: Mapping[str, Sequence[LayerVerdict]],
    slots: Mapping[str, Sequence[list[int]]] | None = None,
    files: Mapping[str, str] | None = None,
    by_steps: bool = False,
) -> SettingRecord:
    """Return what is to be written of one setting.

    Parameters
    ----------
    problem, bound
        Loads and rules, and what is proven about all placements.
    verdicts
        On the bound, per layer.
    methods
        Verdicts on every method's placement, per layer.
    slots, files
        Placements by method: ``[layers, slots]``, or the name of a CSV file with a row per placed layer.
    by_steps
        Whether the bound is on the sum over the problem's steps of the fullest GPU.
    """
    steps = problem.steps if by_steps else None
    limited = problem.max_moves is not None or problem.max_makespan is not None
    return SettingRecord(
        trace=problem.load.source,
        num_gpus=problem.num_gpus,
        num_slots=problem.slots,
        num_nodes=problem.num_nodes,
        num_groups=problem.num_groups,
        allow_colocated=problem.allow_colocated,
        allow_empty_slots=problem.allow_empty_slots,
        split=problem.split,
        max_moves=problem.max_moves,
        loads_sha256=loads_sha256(problem.load),
        files=dict(files or {}),
        layers=tuple(
            LayerRecord(
                layer=layer,
                lower_bound=None if math.isnan(bound.value[i]) else str(Fraction(float(bound.value[i]))),
                bound_source=bound.source[i],
                verdict=verdicts[i].bound,
                reason=verdicts[i].reason,
                placements={name: _told(found[i]) for name, found in methods.items()},
                certificate=bound.certificate[i],
                slots={name: rows[i] for name, rows in (slots or {}).items()},
                reference=problem.reference.phy2log[i].tolist() if limited and problem.reference is not None else None,
                ceiling=(
                    None
                    if by_steps or problem.max_makespan is None
                    else str(Fraction(float(problem.highest_makespan[i])))
                ),
                steps=None if steps is None else steps[:, i].tolist(),
            )
            for i, layer in enumerate(problem.load.layer_ids)
        ),
    )


def encoded(
    settings: Sequence[SettingRecord], loads: Iterable[LoadMatrix], head: Mapping[str, Any] | None = None
) -> bytes:
    """Return the document, one layer a line; ``head`` is what else it should say."""
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (head or {}).items()]
    rows = {loads_sha256(load): ",\n".join(map(json.dumps, load.values.tolist())) for load in loads}
    told = ",\n".join(f'"{digest}": [\n{text}\n]' for digest, text in rows.items())
    parts += [f'"loads": {{\n{told}\n}}', f'"settings": [\n{",".join(map(_setting, settings))}\n]']
    return ("{" + ",\n".join(parts) + "}\n").encode()


def certificates_json(
    problem: PlacementProblem,
    placement: Placement | None,
    bound: Bound,
    name: str,
    *,
    by_steps: bool = False,
    head: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the document of one placement, called ``name``, and one bound; every claim is checked once more."""
    rows = np.full((problem.num_layers, 1), -1) if placement is None else placement.phy2log
    verdicts = [
        check_layer(
            exact_layer(problem, i, by_steps=by_steps),
            Claim(
                slots=None if set(row) == {-1} else row,
                bound=None if math.isnan(bound.value[i]) else float(bound.value[i]),
                source=bound.source[i],
                certificate=bound.certificate[i],
            ),
            layer,
            0,
        )
        for i, (layer, row) in enumerate(zip(problem.load.layer_ids, rows.tolist(), strict=True))
    ]
    placed = {} if placement is None else {name: rows.tolist()}
    methods = dict.fromkeys(placed, verdicts)
    record = setting_record(problem, bound, verdicts, methods, placed, by_steps=by_steps)
    return encoded([record], [problem.load], head)


def write_certificates(path: str | os.PathLike[str], solution: Solution | Stepwise) -> Path:
    """Write what an outsider needs to check a solution again: loads, rules, placement, bounds and their proofs.

    ``docs/verify.py`` reads the file, and so does ``moeopt submit``; the format stands in ``docs/certificates.md``.

    Parameters
    ----------
    path
        File to write.
    solution
        Of any exact method; that of ``solve_steps`` claims what steps cost.

    Raises
    ------
    InputError
        For steps that are no counts, or if the file cannot be written; it is whole or as it was.

    Examples
    --------
    >>> import tempfile
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = solve(PlacementProblem([[9, 5, 4, 2]], num_gpus=2))
    ...     print(write_certificates(f"{folder}/certificates.json", found).name)
    certificates.json
    """
    by_steps = not isinstance(solution, Solution)
    if by_steps and not solution.problem.load.is_integer:
        raise InputError("steps must be whole numbers in a document: sums of others are rounded")
    content = certificates_json(solution.problem, solution.placement, solution.bound, "placement", by_steps=by_steps)
    return write_whole(path, content)


def loads_sha256(load: LoadMatrix) -> str:
    """Hash of loads as little-endian 64-bit numbers, row by row."""
    return hashlib.sha256(load.values.astype(load.values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def _told(verdict: LayerVerdict) -> str:
    """Return the exact makespan of a placement, why it is rejected, or that there is none."""
    if not verdict.ok:
        return verdict.reason
    return "none" if verdict.makespan is None else str(verdict.makespan)


def _setting(record: SettingRecord) -> str:
    head = json.dumps({name: value for name, value in vars(record).items() if name != "layers"})
    layers = ",\n".join(json.dumps(vars(layer)) for layer in record.layers)
    return f'{head[:-1]}, "layers": [\n{layers}\n]}}'
