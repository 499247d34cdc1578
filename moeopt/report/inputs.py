"""What a report starts from: traces read once, the placement in force, and small generated instances."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeopt._text import printable
from moeopt.balancers.eplb import eplb
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.facts import TraceRecord
from moeopt.report.settings import distinct, pick_layers, pose
from moeopt.traces import generate, read_trace
from moeopt.traces.placements import read_rows

SMALL_SHAPES = {8: ((2, 8), (2, 10), (4, 8)), 6: ((4, 8),)}
"""GPUs and slots by number of experts: small enough for every solver to finish in a second or so."""

SMALL_LAYERS = 4


@dataclass(frozen=True)
class Input:
    """One trace: the loads of the chosen layers, the ids of all its layers, and its record."""

    load: LoadMatrix
    all_layers: tuple[int, ...]
    record: TraceRecord


def read_inputs(
    paths: Sequence[str | os.PathLike[str]], layers: str | None, seed: int, reading: Mapping[str, Any]
) -> list[Input]:
    """Read every trace once, with options of ``read_trace``; generate one where no path is given.

    Raises
    ------
    InputError
        TraceError for an unusable trace; names ``layers`` that are not there.
    """
    if paths:
        traces = [read_trace(path, **reading) for path in paths]
        origins = [printable(Path(path).name, 80) for path in paths]
    else:
        traces, origins = [generate("prefill", seed=seed)], [f"generated, preset prefill, seed {seed}"]
    inputs = []
    names = distinct(trace.source for trace in traces)
    for trace, name, origin in zip(traces, names, origins, strict=True):
        full = trace.total()
        load = pick_layers(LoadMatrix(full.values, full.layer_ids, name), layers)
        inputs.append(Input(load, full.layer_ids, TraceRecord.of(load, origin, trace.sha256, trace.note)))
    return inputs


def read_reference(
    path: str | os.PathLike[str], load: LoadMatrix, all_layers: tuple[int, ...], num_gpus: int
) -> Placement:
    """Read the placement in force of the layers of ``load``.

    The file may hold these, all layers of the trace, or all of the model, found by their numbers.

    Raises
    ------
    TraceError
        Names the file and the layer that it has no row for.
    """
    rows = read_rows(path, load.num_experts, num_gpus)
    if rows.numbers is None and not rows.shared and rows.placement.num_layers == len(all_layers):
        return rows.placement[[all_layers.index(layer) for layer in load.layer_ids]]
    return rows.picked(load.layer_ids)


@dataclass(frozen=True)
class OlderLoads:
    """Loads that the placement in force was made for, and their record."""

    load: LoadMatrix
    record: TraceRecord

    def matched(self, source: LoadMatrix) -> LoadMatrix:
        """Return the older loads of the layers of ``source``, by the traces' own ids.

        Raises
        ------
        InputError
            If a layer is missing, or the number of experts differs.
        """
        name, load = self.record.origin, self.load
        if load.num_experts != source.num_experts:
            raise InputError(
                f"reference_trace {name} has {load.num_experts} experts per layer, {source.source} has "
                f"{source.num_experts}"
            )
        place = {layer: row for row, layer in enumerate(load.layer_ids)}
        missing = [layer for layer in source.layer_ids if layer not in place]
        if len(missing) == source.num_layers:
            raise InputError(
                f"reference_trace {name} has no layers in common with {source.source}, whose layers are "
                f"{min(source.layer_ids)} to {max(source.layer_ids)}"
            )
        if missing:
            shown = ", ".join(map(str, missing[:8])) + (", .." if len(missing) > 8 else "")
            raise InputError(f"reference_trace {name} lacks layers {shown} of {source.source}")
        return load[[place[layer] for layer in source.layer_ids]]


def read_older(path: str | os.PathLike[str], reading: Mapping[str, Any]) -> OlderLoads:
    """Read the trace of older loads; TraceError where it is unusable."""
    trace = read_trace(path, **reading)
    load = trace.total()
    return OlderLoads(load, TraceRecord.of(load, printable(Path(path).name, 80), trace.sha256, trace.note))


def placed_by_eplb(load: LoadMatrix, num_nodes: int, num_groups: int, num_gpus: int, num_slots: int) -> Placement:
    """Return EPLB's placement of older loads: the one in force before the new loads came."""
    return eplb(PlacementProblem(load, num_gpus, num_slots, num_nodes=num_nodes, num_groups=num_groups))


def small_problems(seed: int) -> list[PlacementProblem]:
    """Pose a few experts of a generated trace, where every solver closes every layer."""
    values = generate("prefill", num_layers=SMALL_LAYERS, num_experts=64, tokens=4096, seed=seed).total().values
    problems = []
    for num_experts, small_shapes in SMALL_SHAPES.items():
        load = LoadMatrix(values[:, :num_experts], source=f"small_{num_experts}experts")
        problems += pose(load, small_shapes)[0]
    return problems
