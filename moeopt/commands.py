"""What ``moeopt plan``, ``convert`` and ``check`` do with files: read, ask the library, write, tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from moeopt import metrics
from moeopt._arguments import nodes_and_groups
from moeopt._text import printable
from moeopt.checkup import check
from moeopt.errors import InputError, TraceError
from moeopt.load import LoadMatrix, as_load
from moeopt.placement import Placement
from moeopt.planning import Method, plan
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.traces.engines import engine_named, write_placement
from moeopt.traces.loads_out import write_trace
from moeopt.traces.placements import read_rows
from moeopt.traces.read import read_trace
from moeopt.traces.trace import Trace

File = str | os.PathLike[str]


def plan_file(
    trace: File,
    out: File,
    engine: str,
    gpus: int,
    slots: int | None = None,
    *,
    method: Method,
    layer_ids: Sequence[int] | None = None,
    model_layers: int | None = None,
    nodes: int | None = None,
    groups: int | None = None,
    reference: File | None = None,
    expert_bytes: int | None = None,
    within: float | None = None,
    max_moves: int | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Plan for the loads of a file, write what ``engine`` loads, and return what to tell.

    Parameters
    ----------
    trace, reference
        Files with loads, and with the placement in force.
    layer_ids, model_layers
        The model's own numbers of the trace's layers, where the trace has others, and how many layers it has.
    gpus, slots, nodes, groups, method, within, max_moves
        As in :func:`moeopt.planning.plan`.
    expert_bytes
        Bytes of one expert's weights in one layer, to tell transfers in GB.
    reading
        Options of ``read_trace``.

    Raises
    ------
    InputError
        For unusable arguments or input; the file is whole or as it was.
    """
    recorded = _read(trace, layer_ids, reading)
    load = _numbered_for(recorded, trace, layer_ids, engine, model_layers)
    num_nodes, num_groups = nodes_and_groups(nodes, groups)
    if expert_bytes is not None and reference is None:
        raise InputError("expert_bytes needs a reference placement to count transfers from")
    there = None if reference is None else _placement(reference, load, gpus)
    made = plan(
        load,
        gpus,
        slots,
        engine=engine,
        num_nodes=num_nodes,
        num_groups=num_groups,
        method=method,
        reference=there,
        within=within,
        max_moves=max_moves,
    )
    lines = [str(made)]
    if there is not None and expert_bytes is not None:
        sent = metrics.transfer_bytes(there, made.placement, expert_bytes)
        lines.append(f"to receive: {sent.sum() / 1e9:.3f} GB in all layers together")
    write_placement(out, made.placement, engine, layer_ids=load.layer_ids, model_layers=model_layers)
    return "\n".join([*_notes(recorded), *lines, _written(out, engine, load.layer_ids, model_layers)])


def check_file(
    file: File,
    trace: File,
    gpus: int,
    *,
    layer_ids: Sequence[int] | None = None,
    nodes: int | None = None,
    groups: int | None = None,
    engine: str | None = None,
    solver: Callable[..., Solution] | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Check the placement of a file against the loads of another one, and return what to tell.

    Parameters
    ----------
    file, trace
        Files with the placement and with loads.
    layer_ids, reading
        As in :func:`plan_file`.
    gpus, nodes, groups, engine, solver
        As in :func:`moeopt.checkup.check`.

    Raises
    ------
    InputError
        If the placement breaks a rule or ``engine`` could not load it, and for unusable input.
    """
    recorded = _read(trace, layer_ids, reading)
    load = recorded.total()
    num_nodes, num_groups = nodes_and_groups(nodes, groups)
    placement = _placement(file, load, gpus, engine)
    try:
        found = check(load, placement, num_nodes=num_nodes, num_groups=num_groups, engine=engine, solver=solver)
    except InputError as error:
        raise InputError(f"{printable(file)}: {error}") from None
    return "\n".join([*_notes(recorded), str(found)])


def convert_file(
    file: File,
    out: File,
    *,
    engine: str | None = None,
    loads: str | None = None,
    experts: int | None = None,
    gpus: int | None = None,
    layer_ids: Sequence[int] | None = None,
    model_layers: int | None = None,
    trace: File | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write a placement or loads in another format, and return what to tell.

    Parameters
    ----------
    engine, loads
        A name of ``moeopt.traces.ENGINES`` for a placement, or of ``LOAD_FORMATS`` for loads: one of the two.
    experts, gpus
        Experts per layer and GPUs of a placement.
    layer_ids
        The model's own numbers of the layers wanted, picked from the file as ``read_placement`` does; of loads, the
        numbers that its layers get.
    model_layers
        How many layers the model has.
    trace
        Loads by which empty slots are filled.
    reading
        Options of ``read_trace``, for loads.

    Raises
    ------
    InputError
        For unusable arguments or input; the file is whole or as it was.
    """
    if (engine is None) == (loads is None):
        raise InputError("convert needs engine, for a placement, or loads: one of the two")
    if engine is None:
        assert loads is not None
        recorded = _read(file, layer_ids, reading)
        write_trace(out, recorded, loads, model_layers=model_layers)
        shape = f"{recorded.num_windows} windows of {recorded.num_layers} layers of {recorded.num_experts} experts"
        return "\n".join([*_notes(recorded), f"written: {printable(out)}, {shape}"])
    if experts is None or gpus is None:
        raise InputError("experts and gpus are needed for a placement, whose files do not tell them")
    engine_named(engine)
    rows = read_rows(file, experts, gpus)
    ids = tuple(layer_ids or rows.numbers or range(rows.placement.num_layers))
    placement = rows.picked(ids)
    if trace is not None:
        placement = placement.fill(PlacementProblem(_loads_of(trace, ids), gpus, placement.num_slots))
    write_placement(out, placement, engine, layer_ids=ids, model_layers=model_layers)
    return _written(out, engine, ids, model_layers)


def _read(path: File, layer_ids: Sequence[int] | None, reading: Mapping[str, Any]) -> Trace:
    """Read loads, with a bar where somebody looks on; their layers get the numbers that are given."""
    recorded = read_trace(path, progress=sys.stderr.isatty(), **reading)
    if layer_ids is None:
        return recorded
    if len(layer_ids) != recorded.num_layers:
        raise InputError(f"layer_ids names {len(layer_ids)} layers, and {recorded.source} has {recorded.num_layers}")
    return replace(recorded, layer_ids=tuple(layer_ids))


def _notes(recorded: Trace) -> list[str]:
    """What the reader remarked; the order of time does not matter here."""
    return [f"{recorded.source}: {recorded.note}"] if recorded.note else []


def _numbered_for(
    recorded: Trace, path: File, layer_ids: Sequence[int] | None, engine: str | None, model_layers: int | None
) -> LoadMatrix:
    """Return the loads, if their layers have the numbers by which an engine finds them."""
    load = as_load(recorded)
    if engine is not None and engine_named(engine).by_layer_id and model_layers is not None:
        if layer_ids is None and _counted(load) and load.num_layers < model_layers:
            first = model_layers - load.num_layers
            raise InputError(
                f"layer_ids must say which of the model's {model_layers} layers the {load.num_layers} of "
                f"{printable(path)} are, which it counts from 0; such as {first}-{model_layers - 1}"
            )
        if max(load.layer_ids) >= model_layers:
            raise InputError(f"model_layers={model_layers}, and {printable(path)} has layer {max(load.layer_ids)}")
    return load


def _loads_of(path: File, layer_ids: tuple[int, ...]) -> LoadMatrix:
    """Read the loads of some layers, found by number, or in order where the trace only counts as many."""
    load = read_trace(path).total()
    if _counted(load) and load.num_layers == len(layer_ids):
        return load
    place = {layer: row for row, layer in enumerate(load.layer_ids)}
    if missing := [layer for layer in layer_ids if layer not in place]:
        raise InputError(f"trace {printable(path)} has no loads of layer {missing[0]}, by which to fill its slots")
    return load[[place[layer] for layer in layer_ids]]


def _counted(load: LoadMatrix) -> bool:
    """Whether layers have no numbers but those of their rows, which may be the MoE layers alone."""
    return load.layer_ids == tuple(range(load.num_layers))


def _placement(path: File, load: LoadMatrix, gpus: int, engine: str | None = None) -> Placement:
    """Read the rows of a placement that belong to the layers of ``load``.

    Rows that cannot be told apart by number are not guessed, and where an engine finds rows by number there must
    be enough of them.
    """
    rows = read_rows(path, load.num_experts, gpus)
    count, last = rows.placement.num_layers, max(load.layer_ids)
    if rows.numbers is None and not rows.shared:
        if engine is not None and engine_named(engine).by_layer_id and count <= last:
            raise TraceError(
                f"{printable(path)}: has {count} rows, and {engine_named(engine).label} finds layer {last} by its "
                "number, counted over all layers of the model: rows are missing"
            )
        if count > load.num_layers and _counted(load):
            raise InputError(
                f"layer_ids must say which of the {count} rows of {printable(path)} the {load.num_layers} layers of "
                f"{load.source} are, which it counts from 0"
            )
    return rows.picked(load.layer_ids)


def _written(out: File, engine: str, layer_ids: Sequence[int], model_layers: int | None) -> str:
    """Say what is in the file, so that a wrong number of layers or a wrong name meets the eye."""
    target = engine_named(engine)
    rows, first, last = len(layer_ids), min(layer_ids), max(layer_ids)
    line = f"written: {printable(Path(out))}, {rows} layers"
    if target.by_layer_id:
        named = f"{first} to {last}" if last - first + 1 == rows else f"from {first} to {last}"
        line += f", {named} of {last + 1 if model_layers is None else model_layers}"
        line += "; if the model has more, name --model-layers" if model_layers is None else ""
    elif len(set(np.diff(layer_ids).tolist())) > 1:
        line += f"; of the layers between {first} and {last}, those without load are not among them"
    if not Path(out).name.endswith(target.suffix):
        line += f"; for {target.label} its name must end with {target.suffix}"
    return line
