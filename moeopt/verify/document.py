"""Read ``certificates.json``, check all that it says, and print it: with Python's standard library alone."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from moeopt.verify.check import CLAIMED, PROVEN, LayerVerdict, check_layer
from moeopt.verify.layer import Claim, ExactLayer, copies_by_gpu, short, whole_loads

MOST_SLOTS = 1 << 20
"""Slots of a layer that are read."""


class Unreadable(Exception):
    """A file is not what it should be; the message says where."""


@dataclass(frozen=True)
class Entry:
    """One layer of one setting, and what the document says about it.

    Parameters
    ----------
    title
        The setting in words.
    loads_sha256
        Of the setting's loads, all layers together.
    number
        The trace's own id of the layer.
    layer
        Its loads and rules.
    bound
        The claim about every placement.
    placed
        Claims about placements by the methods' names; without slots where their file is not there.
    told
        What the document says instead of a makespan, by the names of methods that have none.
    """

    title: str
    loads_sha256: str
    number: int
    layer: ExactLayer
    bound: Claim
    placed: dict[str, Claim]
    told: dict[str, str]


def read_document(path: Path) -> list[Entry]:
    """Read every layer of every setting; placements from the files that the document names, beside it.

    Raises
    ------
    Unreadable
        If it is no such document, or its loads are not those whose hash it states.
    """
    document = _json(path)
    loads = _dict(document, "loads")
    return [
        entry
        for setting in _dicts(document, "settings")
        for entry in _entries(setting, loads.get(_text(setting, "loads_sha256")), path.parent)
    ]


def check_entry(entry: Entry) -> tuple[LayerVerdict, dict[str, LayerVerdict]]:
    """Return the verdicts on the bound, and on every placement that is there."""
    verdict = check_layer(entry.layer, entry.bound, entry.number, 0)
    placed = {
        name: check_layer(entry.layer, claim, entry.number, 0)
        for name, claim in entry.placed.items()
        if claim.slots is not None
    }
    return verdict, placed


def main(arguments: Sequence[str]) -> int:
    """Check documents and print what is found, layer by layer.

    Returns 0; 1 if anything is rejected; 2 if a file cannot be used.
    """
    if not arguments or arguments[0].startswith("-"):
        print("usage: verify.py certificates.json ...", file=sys.stderr)
        return 2
    rejected = placements = 0
    bounds: list[str] = []
    for argument in arguments:
        try:
            entries = read_document(Path(argument))
        except Unreadable as error:
            print(f"error: {_printable(argument)}: {_printable(error)}", file=sys.stderr)
            return 2
        title = ""
        for entry in entries:
            if entry.title != title:
                title = entry.title
                print(title)
            verdict, placed = check_entry(entry)
            print("\n".join(_lines(entry, verdict, placed)), flush=True)
            bounds.append(verdict.bound)
            placements += len(placed)
            rejected += sum(not found.ok for found in [verdict, *placed.values()])
            rejected += sum(told.startswith("REJECTED") for told in entry.told.values())
    kinds = ", ".join(f"{bounds.count(kind)} {kind}" for kind in dict.fromkeys(bounds))
    print(f"{placements} placements; bounds: {kinds or 'none'}; {rejected} rejected")
    return 1 if rejected else 0


def _lines(entry: Entry, verdict: LayerVerdict, placed: dict[str, LayerVerdict]) -> Iterator[str]:
    bound = entry.bound.bound
    value = "no bound" if bound is None else f"at least {short(Fraction(bound))}"
    how = f"proven by {entry.bound.certificate['method']}" if verdict.bound == PROVEN else verdict.reason
    yield f"  layer {entry.number}: {value}, {_printable(how)}"
    for name in entry.placed:
        found = placed.get(name)
        if found is None:
            line = "not checked: its file is not there"
        elif not found.ok or found.objective is None:
            line = found.reason
        else:
            line = f"valid, {short(found.objective)}{_above(found.objective, bound, verdict)}"
        yield f"    {_printable(name)}: {_printable(line)}"
    for name, told in entry.told.items():
        yield f"    {_printable(name)}: {_printable(told)}"


def _above(objective: Fraction, bound: float | Fraction | None, verdict: LayerVerdict) -> str:
    """How far an objective is above a bound that holds, or is said to."""
    if bound is None or bound <= 0 or verdict.bound not in (PROVEN, CLAIMED):
        return ""
    return f", at most {short(round(100 * (objective / Fraction(bound) - 1), 4))} % above the best possible"


def _entries(setting: dict[str, Any], rows: Any, folder: Path) -> Iterator[Entry]:
    digest, records = _text(setting, "loads_sha256"), _dicts(setting, "layers")
    if not isinstance(rows, list) or len(rows) != len(records):
        raise Unreadable(f"there are no loads of {len(records)} layers for loads_sha256={digest}")
    if _sha256(rows) != digest:
        raise Unreadable(f"the loads are not those of loads_sha256={digest}")
    told = [_texts(record, "placements") for record in records]
    files = {
        name: _csv(folder, file, sum(row.get(name, "none") != "none" for row in told))
        for name, file in _texts(setting, "files").items()
    }
    for record, loads, placements in zip(records, rows, told, strict=True):
        layer = _layer(setting, record, loads)
        bound = None if record.get("lower_bound") is None else _fraction(record, "lower_bound")
        source = _text(record, "bound_source")
        own = _dict(record, "slots")
        placed, instead = {}, {}
        for name, makespan in placements.items():
            rows_left = files.get(name)
            slots = own.get(name) if rows_left is None or makespan == "none" else next(rows_left)
            if not re.match(r"\d", makespan):
                instead[name] = makespan
                continue
            if slots is not None and not (_is_row(slots) and len(slots) == layer.num_slots):
                raise Unreadable(f"the slots of {name} are not {layer.num_slots} integers")
            placed[name] = Claim(slots, _fraction(placements, name), bound=bound, source=source)
        yield Entry(
            title=f"{_printable(_text(setting, 'trace'))}: {layer.num_slots} slots on {layer.num_gpus} GPUs"
            + (f", {layer.num_groups} groups on {layer.num_nodes} nodes" if layer.num_nodes > 1 else ""),
            loads_sha256=digest,
            number=_whole(record, "layer", 0),
            layer=layer,
            bound=Claim(bound=bound, source=source, certificate=record.get("certificate")),
            placed=placed,
            told=instead,
        )


def _layer(setting: dict[str, Any], record: dict[str, Any], loads: list[float]) -> ExactLayer:
    whole, scale = whole_loads(loads)
    gpus, slots = _whole(setting, "num_gpus", 1), _whole(setting, "num_slots", 1)
    nodes, groups = _whole(setting, "num_nodes", 1), _whole(setting, "num_groups", 1)
    if nodes == 1 or groups == 1:
        nodes = groups = 1
    if slots > MOST_SLOTS or slots < len(whole):
        raise Unreadable(f"num_slots={slots} is below {len(whole)} experts or above {MOST_SLOTS}")
    for name, value, divisor in (("num_slots", slots, gpus), ("num_gpus", gpus, nodes), ("num_groups", groups, nodes)):
        if value % divisor:
            raise Unreadable(f"{name}={value} is not a multiple of {divisor}")
    if len(whole) % groups:
        raise Unreadable(f"{len(whole)} experts are no {groups} groups")
    reference = record.get("reference")
    if reference is not None and not (
        _is_row(reference) and len(reference) % gpus == 0 and all(-1 <= expert < len(whole) for expert in reference)
    ):
        raise Unreadable(f"reference is not a list of experts for {gpus} GPUs")
    split = _text(setting, "split")
    if split not in ("even", "optimal"):
        raise Unreadable(f"split={split} is neither even nor optimal")
    steps = record.get("steps")
    if steps is not None and not (
        isinstance(steps, list)
        and all(_is_row(step) and len(step) == len(loads) and min(step) >= 0 for step in steps)
        and [sum(tokens) for tokens in zip(*steps, strict=True)] == loads
        and record.get("ceiling") is None
        and split == "even"
    ):
        raise Unreadable("steps are not whole loads that add up to the layer's, evenly split and without a ceiling")
    return ExactLayer(
        loads=whole,
        scale=scale,
        num_gpus=gpus,
        slots_per_gpu=slots // gpus,
        num_nodes=nodes,
        num_groups=groups,
        allow_colocated=_flag(setting, "allow_colocated"),
        allow_empty_slots=_flag(setting, "allow_empty_slots"),
        reference=None if reference is None else copies_by_gpu(reference, gpus),
        max_moves=None if setting.get("max_moves") is None else _whole(setting, "max_moves", 0),
        ceiling=None if record.get("ceiling") is None else _fraction(record, "ceiling"),
        splits=split == "optimal" and slots > len(whole),
        steps=steps,
    )


def _sha256(rows: list[Any]) -> str:
    """Hash of loads as little-endian 64-bit integers, or floats where any is one, row by row."""
    numbers = [number for row in rows if isinstance(row, list) for number in row]
    kinds, lengths = {type(number) for number in numbers}, {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(lengths) != 1 or not numbers or not kinds <= {int, float}:
        raise Unreadable("the loads are not rows of as many numbers")
    if not all(0 <= number < 2**63 for number in numbers):  # nan is not
        raise Unreadable("the loads are not finite and >= 0")
    kind = "d" if float in kinds else "q"
    return hashlib.sha256(struct.pack(f"<{len(numbers)}{kind}", *numbers)).hexdigest()


def _csv(folder: Path, name: str, count: int) -> Iterator[list[int]] | None:
    """Rows of a placement's file, one per layer that has a placement; None where the file is not there."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise Unreadable(f"the file {name} is not beside the document")
    if not (folder / path).is_file():
        return None
    lines = _bytes(folder / path).decode("ascii", "replace").split()
    if len(lines) != count or not all(re.fullmatch(r"-?\d{1,9}(,-?\d{1,9})*", line) for line in lines):
        raise Unreadable(f"the file {name} does not hold {count} rows of integers")
    return iter([[int(number) for number in line.split(",")] for line in lines])


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not readable JSON: {error}") from None
    if not isinstance(document, dict):
        raise Unreadable("not a JSON object")
    return document


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise Unreadable("not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {error}") from None


def _dict(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key, {})
    if not isinstance(value, dict):
        raise Unreadable(f"{key} is not an object")
    return value


def _dicts(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unreadable(f"{key} is not a list of objects")
    return value


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise Unreadable(f"{key} is not a text")
    return value


def _texts(record: dict[str, Any], key: str) -> dict[str, str]:
    value = _dict(record, key)
    return {name: _text(value, name) for name in value}


def _flag(record: dict[str, Any], key: str) -> bool:
    value = record.get(key)
    if not isinstance(value, bool):
        raise Unreadable(f"{key} is neither true nor false")
    return value


def _whole(record: dict[str, Any], key: str, least: int) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Unreadable(f"{key} is not an integer >= {least}")
    return value


def _fraction(record: dict[str, Any], key: str) -> Fraction:
    """Read ``"7"`` or ``"22/3"``; longer numbers than any float are refused."""
    found = re.fullmatch(r"(\d{1,700})(?:/(\d{1,700}))?", _text(record, key))
    if found is None or (found[2] and not int(found[2])):
        raise Unreadable(f"{key} is not a fraction such as 22/3")
    return Fraction(int(found[1]), int(found[2] or 1))


def _is_row(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _printable(text: object) -> str:
    """Return what came from outside without what a terminal would obey."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    return shown if len(shown) <= 300 else f"{shown[:150]}...{shown[-150:]}"
