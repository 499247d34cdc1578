"""Which problems a report poses: lists of GPUs and slots, layers by their ids, names of traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem

DEFAULT_SHAPES = ((8, 1.0), (8, 1.25), (8, 1.5), (32, 1.125))
"""GPUs and slots per expert: 8 GPUs with 256, 320 and 384 slots, 32 with 288, for 256 experts."""


def numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Read ``"8,16"`` as ``(8, 16)``; None stays None.

    Raises
    ------
    InputError
        If a part is not an integer >= 1.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit() and int(part) >= 1):
            raise InputError(f"{name} must be integers >= 1 separated by commas, got {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def names(name: str, text: str | None) -> tuple[str, ...] | None:
    """Read ``"eplb,bldm"`` as ``("eplb", "bldm")``; None stays None; an empty name is an error."""
    if text is None:
        return None
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in parts:
        raise InputError(f"{name} must be names separated by commas, got {text!r}")
    return parts


def ranges(name: str, text: str | None) -> tuple[int, ...] | None:
    """Read ``"3-5,8"`` as ``(3, 4, 5, 8)``; None stays None.

    Raises
    ------
    InputError
        If a part is neither an integer >= 0 nor a rising range of them.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() and len(end) < 8 for end in ends):
            raise InputError(f"{name} must be integers and ranges such as 3-60,62, got {text!r}")
        first, last = int(ends[0]), int(ends[-1])
        if last < first:
            raise InputError(f"{name} must be integers and rising ranges such as 3-60,62, got {text!r}")
        found += range(first, last + 1)
    return tuple(found)


def pick_layers(load: LoadMatrix, text: str | None) -> LoadMatrix:
    """Keep the layers that ``"0-3,7"`` names by the trace's own ids; None keeps all.

    See :func:`layer_rows` for what is raised.
    """
    return load if text is None else load[layer_rows(load.layer_ids, load.source, text)]


def layer_rows(layer_ids: Sequence[int], source: str, text: str) -> list[int]:
    """Return the rows of the layers that ``"0-3,7"`` names by their ids.

    A range picks the layers present in it, since dense layers have no ids here; a part that
    picks nothing is an error.

    Raises
    ------
    InputError
        For text that is not such a list, and for a part without a layer in the trace.
    """
    picked: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
            raise InputError(f"layers must be layer ids and ranges such as 0-3,7, got {text!r}")
        found = [i for i, layer in enumerate(layer_ids) if int(ends[0]) <= layer <= int(ends[-1])]
        if not found:
            raise InputError(f"layers {part} is not in {source}, whose layers are {min(layer_ids)} to {max(layer_ids)}")
        picked.update(found)
    return sorted(picked)


def distinct(sources: Iterable[str]) -> list[str]:
    """Return names that can stand in file names, ``-2``, ``-3`` added where one recurs."""
    taken: list[str] = []
    for raw in sources:
        clean = "".join(c if c.isalnum() or c in "-_." else "_" for c in raw).strip(".") or "trace"
        name, number = clean, 1
        while name.lower() in (other.lower() for other in taken):
            number += 1
            name = f"{clean}-{number}"
        taken.append(name)
    return taken


def label(problem: PlacementProblem) -> str:
    """Return ``{trace}_{gpus}gpus_{slots}slots``, the stem of the setting's files."""
    return f"{problem.load.source}_{problem.num_gpus}gpus_{problem.slots}slots"


def placements_file(problem: PlacementProblem, method: str) -> str:
    """Return the name of the file with a method's slots, in the report's folder."""
    return f"placements/{label(problem)}_{method}.csv"


def title(problem: PlacementProblem) -> str:
    """Return the setting in words, for headings."""
    nodes = f", {problem.num_groups} groups on {problem.num_nodes} nodes" if problem.hierarchical else ""
    return f"{problem.load.source}: {problem.num_slots} slots on {problem.num_gpus} GPUs{nodes}"


def shapes(
    num_experts: int, gpus: Sequence[int] | None = None, slots: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Every (GPUs, slots) asked for; the default shapes where neither is given.

    GPUs alone get the fewest slots that hold all experts; slots alone go on 8 GPUs.
    """
    if gpus is None and slots is None:
        wanted = [(g, _round_up(num_experts * ratio, g)) for g, ratio in DEFAULT_SHAPES]
    elif slots is None:
        wanted = [(g, _round_up(num_experts, g)) for g in gpus or ()]
    else:
        wanted = [(g, s) for g in gpus or (8,) for s in slots]
    return list(dict.fromkeys(wanted))


def pose(
    load: LoadMatrix,
    shapes: Iterable[tuple[int, int]],
    num_nodes: int = 1,
    num_groups: int = 1,
    reference: Callable[[int, int], Placement] | None = None,
) -> tuple[list[PlacementProblem], list[str]]:
    """Pose every shape in its widest reading; shapes that cannot be are returned as reasons.

    ``reference`` gives the placement in force for numbers of GPUs and slots.
    """
    problems, impossible = [], []
    for num_gpus, num_slots in shapes:
        try:
            problem = PlacementProblem(
                load,
                num_gpus,
                num_slots,
                num_nodes=num_nodes,
                num_groups=num_groups,
                allow_empty_slots=True,
                reference=None if reference is None else reference(num_gpus, num_slots),
            )
        except InputError as error:
            impossible.append(f"{load.source}, {num_gpus} GPUs, {num_slots} slots: {error}")
        else:
            problems.append(problem)
    return problems, impossible


def _round_up(slots: float, num_gpus: int) -> int:
    return int(-(-slots // num_gpus)) * num_gpus
