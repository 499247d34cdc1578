"""What was measured: one record per kind of row, and everything together."""

from __future__ import annotations

from dataclasses import dataclass, field

from moeopt.cluster import Cluster
from moeopt.report.machine import Machine

DROP_IN = "drop-in"
"""How ``moeopt.rebalance_experts`` is called in tables."""


@dataclass(frozen=True)
class Duel:
    """How many times as fast ours is as a rival, round by round; ``same`` is the share of layers placed alike."""

    num_gpus: int
    num_slots: int
    rival: str
    rival_ms: float
    ours: str
    ours_ms: float
    times: float
    times_low: float
    times_high: float
    same: float


@dataclass(frozen=True)
class Measured:
    """Runtime (median and quartiles, all layers together) and quality of a balancer that took the setting."""

    ms: float
    ms_low: float
    ms_high: float
    mean_imbalance: float
    worst_imbalance: float
    mean_gap: float
    max_gap: float
    proven: float


@dataclass(frozen=True)
class BalancerRow:
    """A balancer on a setting; ``measured`` is None, and ``note`` says why, where it has no placement."""

    trace: str
    num_gpus: int
    num_slots: int
    method: str
    measured: Measured | None
    note: str = ""


@dataclass(frozen=True)
class OpenLayer:
    """A layer without proof: its optimum lies between bound and makespan."""

    layer: int
    lower_bound: float
    makespan: float
    gap: float


@dataclass(frozen=True)
class ExactRow:
    """What the exact method proved on a setting; ``closed`` counts layers by what closed them."""

    trace: str
    num_gpus: int
    num_slots: int
    layers: int
    proven: int
    mean_gap: float
    max_gap: float
    mean_seconds: float
    max_seconds: float
    closed: tuple[tuple[str, int], ...]
    still_open: tuple[OpenLayer, ...]


@dataclass(frozen=True)
class MovesRow:
    """What ``repair`` of another trace's placement costs: runtime of all layers, moves per layer, layers reached."""

    trace: str
    older: str
    num_gpus: int
    num_slots: int
    layers: int
    ms: float
    moves: float
    reached: int
    eplb_moves: float


@dataclass(frozen=True)
class GrowthRow:
    """Seconds for one layer by method; NaN = not measured."""

    experts: int
    gpus: int
    slots: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class ColdRow:
    """A step of a fresh process, with compiled kernels on disk and without."""

    step: str
    warm_ms: float
    cold_ms: float


@dataclass(frozen=True)
class MemoryRow:
    """Peak resident bytes of a fresh process: with the problem, with the kernels loaded, after the call."""

    layers: int
    experts: int
    gpus: int
    slots: int
    method: str
    problem: int
    kernels: int
    peak: int


@dataclass
class Results:
    """Rows of every part that was run; an empty part is left out of the page."""

    duels: list[Duel] = field(default_factory=list)
    balancers: list[BalancerRow] = field(default_factory=list)
    exact: list[ExactRow] = field(default_factory=list)
    moves: list[MovesRow] = field(default_factory=list)
    growth: dict[str, list[GrowthRow]] = field(default_factory=dict)
    cold: list[ColdRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """What was run, where and when."""

    command: tuple[str, ...]
    date: str
    machine: Machine
    cluster: Cluster | None
    versions: dict[str, str]
    traces: dict[str, str]
    layers: int
    impossible: tuple[str, ...]
    repeats: int
    time_limit: float
