"""Records: the best placement and the best proven bound known of every named instance, and the page that shows them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

from moeopt._files import write_whole
from moeopt._text import printable
from moeopt.bounds import Bound, Certificate
from moeopt.certificates import certificates_json, loads_sha256
from moeopt.errors import InputError
from moeopt.instances import INSTANCES, instance
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE
from moeopt.verify.check import LayerVerdict, check_layer
from moeopt.verify.document import Entry, Unreadable, read_document
from moeopt.verify.layer import Claim, ExactLayer
from moeopt.verify.solution import exact_layer

File = str | os.PathLike[str]

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "instances"
"""Folder of the records, one file per instance; the page ``instances.md`` is beside it. In a checkout only."""

_BEGIN, _END = "<!-- instances -->\n", "<!-- /instances -->"
_HEADINGS = (
    "instance",
    "experts, GPUs x slots",
    "rules",
    "best known",
    "proven bound",
    "gap, %",
    "status",
    "proven by",
    "found by",
)

_CREDITS = ("placed_by", "placed_on", "proved_by", "proved_on")


@dataclass(frozen=True)
class Record:
    """What is known of an instance.

    Parameters
    ----------
    problem
        The instance.
    slots, placed_by, placed_on
        Expert of every slot of the best placement known, who found it how, and when.
    bound, certificate, proved_by, proved_on
        The best bound proven exactly, its proof, who found it how, and when.
    """

    problem: PlacementProblem
    slots: list[int] | None = None
    placed_by: str = ""
    placed_on: str = ""
    bound: Fraction | None = None
    certificate: Certificate = field(default_factory=dict)
    proved_by: str = ""
    proved_on: str = ""

    @property
    def objective(self) -> Fraction | None:
        """Exact makespan or moves of the placement; None without one."""
        return None if self.slots is None else checked(self.problem, Claim(slots=self.slots)).objective

    @property
    def placement(self) -> Placement | None:
        """The placement as any method takes it."""
        return None if self.slots is None else Placement([self.slots], self.problem.num_experts, self.problem.num_gpus)

    @property
    def float_bound(self) -> Bound:
        """The bound as any method takes it, rounded down."""
        if self.bound is None:
            return Bound.unknown(1)
        return Bound([_rounded_down(self.bound)], (self.certificate["method"],), (self.certificate,))

    def json(self) -> bytes:
        """Return the record as a document that ``docs/verify.py`` checks; both claims are checked once more."""
        head = {"instance": self.problem.load.source} | {key: getattr(self, key) for key in _CREDITS}
        by_steps, placement = self.problem.steps is not None, self.placement
        return certificates_json(self.problem, placement, self.float_bound, "best known", by_steps=by_steps, head=head)


def checked(problem: PlacementProblem, claim: Claim) -> LayerVerdict:
    """Return the verdict on a claim about an instance; one that knows its steps is about what these cost."""
    return check_layer(_layer(problem), claim, 0, 0)


def _layer(problem: PlacementProblem) -> ExactLayer:
    return exact_layer(problem, 0, by_steps=problem.steps is not None)


def read_record(name: str, folder: File = RECORDS) -> Record:
    """Return what is known of an instance: nothing, where there is no file.

    Raises
    ------
    InputError
        For an unknown instance, and for a file that is no record of it.
    """
    problem, path = instance(name), Path(folder, f"{name}.json")
    if not path.exists():
        return Record(problem)
    entries = entries_for(problem, path)
    head = json.loads(path.read_bytes())
    if len(entries) != 1 or head.get("instance") != name or entries[0].layer != _layer(problem):
        raise InputError(f"{printable(path)}: no record of {name}, with its loads and rules")
    for key in _CREDITS:
        if not isinstance(head.get(key), str):
            raise InputError(f"{printable(path)}: {key} is not a text")
    slots = [claim.slots for claim in entries[0].placed.values()]
    bound = entries[0].bound
    if bound.bound is not None and not (isinstance(bound.certificate, dict) and "method" in bound.certificate):
        raise InputError(f"{printable(path)}: the bound has no certificate that names its method")
    return Record(
        problem,
        slots=slots[0] if slots else None,
        bound=None if bound.bound is None else Fraction(bound.bound),
        certificate=bound.certificate or {},
        **{key: head[key] for key in _CREDITS},
    )


def entries_for(problem: PlacementProblem, path: File) -> list[Entry]:
    """Return the layers of a document that have the loads of an instance; InputError where there are none."""
    try:
        entries = read_document(Path(path))
    except Unreadable as error:
        raise InputError(f"{printable(path)}: {printable(error)}") from None
    own = [entry for entry in entries if entry.loads_sha256 == loads_sha256(problem.load)]
    if not own:
        raise InputError(f"{printable(path)}: no layer has the loads of {problem.load.source}")
    return own


def write_record(record: Record, folder: File = RECORDS) -> None:
    """Write a record and the page; each is whole or as it was."""
    name, page = record.problem.load.source, Path(folder).with_suffix(".md")
    renewed = with_table(page.read_text(), table(folder, {name: record}))
    write_whole(Path(folder, f"{name}.json"), record.json())
    write_whole(page, renewed)


def with_table(page: str, lines: str) -> str:
    """Return the page with what stands between its two ``instances`` comments replaced.

    Raises
    ------
    InputError
        If it does not have both.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise InputError(f"the page of the records lacks {_BEGIN.strip()} or {_END}")
    return f"{before}{begin}\n{lines}\n{end}{after}"


def table(folder: File = RECORDS, new: Mapping[str, Record] = MappingProxyType({})) -> str:
    """Return the table of all instances, with the records of the folder and those that are ``new``."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS)]
    rows += [_row(name, new.get(name) or read_record(name, folder), Path(folder).name) for name in INSTANCES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(name: str, record: Record, folder: str) -> tuple[str, ...]:
    problem, reached, bound = record.problem, record.objective, record.bound
    gap = None if reached is None or not bound else reached / bound - 1
    closed = reached is not None and bound is not None and reached <= bound * (1 + Fraction(DEFAULT_TOLERANCE))
    known = reached is not None or bound is not None
    return (
        f"[`{name}`]({folder}/{name}.json)" if known else f"`{name}`",
        f"{problem.num_experts}, {problem.num_gpus} x {problem.slots_per_gpu}",
        rules(problem),
        _number(reached),
        _number(bound),
        "" if gap is None else f"{float(100 * gap):.4f}",
        "closed" if closed else "open",
        f"`{record.certificate['method']}`" if record.certificate else "",
        _credits(record),
    )


def _credits(record: Record) -> str:
    """Who found placement and bound, and when: once, if it was one and the same."""
    placed = f"{record.placed_by}, {record.placed_on}" if record.placed_by else ""
    proved = f"{record.proved_by}, {record.proved_on}" if record.proved_by else ""
    if placed == proved:
        return placed
    return "; ".join([*(["placement " + placed] if placed else []), *(["bound " + proved] if proved else [])])


def rules(problem: PlacementProblem) -> str:
    """Say what is special about a problem, in a few words."""
    told = ["replicas" if problem.num_redundant else "partition"]
    if problem.hierarchical:
        told.append(f"{problem.num_groups} groups on {problem.num_nodes} nodes")
    if not problem.allow_colocated:
        told.append("copies apart")
    if problem.allow_empty_slots:
        told.append("slots may be empty")
    if problem.splits:
        told.append("optimal split")
    if problem.steps is not None:
        told.append(f"sum over {len(problem.steps)} steps")
    if problem.max_moves is not None:
        told.append(f"at most {problem.max_moves} moves")
    if problem.max_makespan is not None:
        told.append(f"fewest moves within {problem.max_makespan[0]:.0f} tokens")
    return ", ".join(told)


def _number(value: Fraction | None) -> str:
    """Return whole numbers as they are, others with four digits."""
    if value is None:
        return ""
    return str(value) if value.denominator == 1 else f"{float(value):.4f}"


def _rounded_down(value: Fraction) -> float:
    """Return the largest float that is not above."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, 0.0)
