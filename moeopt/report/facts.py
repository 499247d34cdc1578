"""What a report remembers of its run: the records of ``run.json``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from moeopt import _arguments as check
from moeopt.cluster import Cluster
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.report.machine import Machine
from moeopt.report.study import Effort


@dataclass(frozen=True)
class Arguments:
    """What ``gap_report`` was asked for, checked; see there.

    Raises
    ------
    InputError
        Names the argument that breaks its rule.
    """

    trace: Sequence[str | os.PathLike[str]]
    gpus: Sequence[int] | None
    slots: Sequence[int] | None
    nodes: int | None
    groups: int | None
    methods: Sequence[str] | None
    layers: str | None
    time_limit: float | None
    jobs: int | None
    cluster: str | None
    repeats: int
    reference: str | os.PathLike[str] | None
    seed: int
    out: str | os.PathLike[str]
    quiet: bool
    verify: bool
    reference_trace: str | os.PathLike[str] | None = None
    expert_bytes: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.trace, str | os.PathLike):
            raise InputError(f"trace must be a list of paths, got {check.shown(self.trace)}")
        for name, values in (("gpus", self.gpus), ("slots", self.slots)):
            for value in values or ():
                check.integer(name, value, 1)
        check.integer("repeats", self.repeats, 1)
        check.seed(self.seed)
        check.seconds("time_limit", self.time_limit)
        if self.jobs is not None:
            check.integer("jobs", self.jobs, 1)
            if self.cluster is not None:
                raise InputError("jobs and cluster exclude each other: layers run on this machine or on the cluster")
        check.nodes_and_groups(self.nodes, self.groups)
        if self.reference is not None and self.reference_trace is not None:
            raise InputError(
                "reference and reference_trace exclude each other: the placement in force is read from a file, "
                "or made from older loads"
            )
        if self.expert_bytes is not None:
            check.integer("expert_bytes", self.expert_bytes, 1)
            if self.reference is None and self.reference_trace is None:
                raise InputError("expert_bytes needs reference or reference_trace: bytes are told of moves from it")
        for name, number in (("nodes", self.nodes), ("groups", self.groups)):
            if number is not None:
                check.integer(name, number, 2)

    @property
    def whole(self) -> bool:
        """Whether nothing about traces and settings is asked for, so that the default report is meant."""
        chosen = (self.trace, self.gpus, self.slots, self.nodes, self.groups, self.layers)
        return not any((*chosen, self.reference, self.reference_trace))


@dataclass(frozen=True)
class TraceRecord:
    """Where loads come from, a hash of the bytes that were read (of the loads, for generated ones), and a remark."""

    name: str
    origin: str
    sha256: str
    layers: int
    layer_ids: tuple[int, ...]
    experts: int
    tokens: float
    note: str = ""

    @classmethod
    def of(cls, load: LoadMatrix, origin: str, sha256: str | None = None, note: str = "") -> TraceRecord:
        """Return the record of the layers that are used; without ``sha256`` the loads are hashed."""
        return cls(
            name=load.source,
            origin=origin,
            sha256=sha256 or hashlib.sha256(load.values.tobytes()).hexdigest(),
            layers=load.num_layers,
            layer_ids=load.layer_ids,
            experts=load.num_experts,
            tokens=load.values.sum().item(),
            note=note,
        )


@dataclass(frozen=True)
class Facts:
    """Everything that a reader needs to judge a report, and to get it again.

    Parameters
    ----------
    arguments
        What was asked for.
    command
        The command line; empty for a call from Python.
    effort
        What methods might spend on the usual settings.
    versions, machine
        Where the heuristics were timed.
    cluster
        Where exact methods ran; None = on the same machine.
    traces
        The loads.
    small
        Names of the traces whose settings are small enough for every exact method.
    impossible
        Settings left out, and why.
    reference
        The older loads that the placement in force was made from, where there are such.
    verification
        What the independent check found; None where it was not asked for.
    """

    arguments: Arguments
    command: tuple[str, ...]
    effort: Effort
    versions: dict[str, str]
    machine: Machine
    cluster: Cluster | None
    traces: tuple[TraceRecord, ...]
    small: tuple[str, ...]
    impossible: tuple[str, ...]
    reference: TraceRecord | None = None
    verification: str | None = None
