"""The challenge: submit a better placement, or a better bound with its proof, of a named instance."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path

from moeopt._text import printable
from moeopt.bounds import Certificate
from moeopt.errors import InputError
from moeopt.instances import instance
from moeopt.problem import PlacementProblem
from moeopt.records import RECORDS, File, checked, entries_for, read_record, write_record
from moeopt.traces.placements import read_placement
from moeopt.verify.check import PROVEN
from moeopt.verify.layer import Claim


def submit(
    name: str,
    placement: File | None = None,
    certificates: File | None = None,
    *,
    by: str,
    records: File = RECORDS,
) -> str:
    """Check a placement, a bound or both in exact arithmetic, and write record and table where they are better.

    Parameters
    ----------
    name
        Of the instance.
    placement
        A file with one layer, of any format that ``read_placement`` reads.
    certificates
        A file as :func:`moeopt.certificates.write_certificates` writes it. Of its layers those with the
        instance's loads count, and the best of their bounds; its proof is checked for the instance itself.
    by
        Who found it, and how: up to 80 letters, for the table.
    records
        Folder of the records.

    Returns
    -------
    str
        What was found, and what was written.

    Raises
    ------
    InputError
        For an unknown instance, a file that cannot be used, a placement that breaks a rule, and a bound that its
        certificate does not prove; nothing is written.
    """
    if placement is None and certificates is None:
        raise InputError("submit needs a placement, certificates, or both")
    if not 0 < len(by) <= 80 or not by.isprintable() or set(by) & set("|<>[]`\\"):
        raise InputError(f"by must be 1 to 80 letters, none of |<>[]`\\, got {printable(by, 100)!r}")
    problem = instance(name)
    if not Path(records).with_suffix(".md").is_file():
        raise InputError(f"records={printable(records)}: there is no page beside it; submit from a checkout")
    known = read_record(name, records)
    today, told, new = date.today().isoformat(), [], known
    if placement is not None:
        slots, reached = _placed(problem, placement)
        before = known.objective
        if before is None or reached < before:
            new = replace(new, slots=slots, placed_by=by, placed_on=today)
        told.append(f"placement: valid, {_compared(problem, reached, before, better=-1)}")
    if certificates is not None:
        bound, certificate = _proven(problem, certificates)
        if known.bound is None or bound > known.bound:
            new = replace(new, bound=bound, certificate=certificate, proved_by=by, proved_on=today)
        told.append(f"bound: proven by {certificate['method']}, {_compared(problem, bound, known.bound, better=1)}")
    if new is known:
        return "\n".join([*told, "not better than the record: nothing written"])
    write_record(new, records)
    return "\n".join([*told, f"written: {printable(Path(records, f'{name}.json'))} and the table; open a pull request"])


def _placed(problem: PlacementProblem, path: File) -> tuple[list[int], Fraction]:
    """Slots of a placement's file and their exact objective."""
    read = read_placement(path, problem.num_experts, problem.num_gpus)
    if read.phy2log.shape != (1, problem.slots):
        layers, slots = read.phy2log.shape
        raise InputError(f"{printable(path)}: holds {layers} layers of {slots} slots, not 1 of {problem.slots}")
    slots = read.phy2log[0].tolist()
    verdict = checked(problem, Claim(slots=slots))
    if verdict.objective is None:
        raise InputError(f"{printable(path)}: {verdict.reason}")
    return slots, verdict.objective


def _proven(problem: PlacementProblem, path: File) -> tuple[Fraction, Certificate]:
    """The largest bound that the file claims of the instance, and its proof, once that has been checked."""
    claims = [entry.bound for entry in entries_for(problem, path) if entry.bound.bound is not None]
    if not claims:
        raise InputError(f"{printable(path)}: no bound is claimed of {problem.load.source}")
    claim = max(claims, key=lambda claim: Fraction(claim.bound or 0))
    assert claim.bound is not None
    verdict = checked(problem, claim)
    if verdict.bound != PROVEN:
        raise InputError(f"{printable(path)}: the bound {float(claim.bound):.12g} is not proven: {verdict.reason}")
    return Fraction(claim.bound), claim.certificate


def _compared(problem: PlacementProblem, value: Fraction, before: Fraction | None, better: int) -> str:
    """Say how a value stands to the record's; ``better`` is 1 where more is better, else -1."""
    unit = "tokens" if problem.objective == "makespan" else "moves"
    told = f"{float(value):.10g} {unit}"
    if before is None:
        return f"{told}, the first"
    if value == before:
        return f"{told}, as the record"
    return f"{told}, {'better' if (value - before) * better > 0 else 'worse'} than the record's {float(before):.10g}"
