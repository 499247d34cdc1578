"""PlacementProblem: loads, GPUs, slots and the rules a placement must keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt._arguments import integer, shown
from moeopt._arrays import ArrayFields, LayerIndex, frozen, layer_indices, to_numpy
from moeopt.errors import InputError, PlacementError
from moeopt.load import LoadMatrix, as_load
from moeopt.placement import Placement, as_placement

SPLITS = ("even", "optimal")
"""How the tokens of an expert may be shared among its copies."""


@dataclass(frozen=True, eq=False)
class PlacementProblem(ArrayFields):
    """Place every expert of every layer on GPUs so that the fullest GPU has the least load.

    Layers are independent. All variants are carried by this one type (see ``docs/problem.md``):
    partition, replicated, hierarchical, move-limited, fewest moves, optimal split, and the two switches.

    Parameters
    ----------
    load
        ``[layers, experts]`` loads: LoadMatrix, list, numpy array or torch tensor; or a Trace, whose
        windows are summed and stay known as ``steps``.
    num_gpus
        GPUs (expert-parallel ranks).
    num_slots
        Slots on all GPUs together, a multiple of ``num_gpus`` and at least ``num_experts``;
        one per expert by default.
    num_nodes, num_groups
        Where both exceed 1 the problem is hierarchical: experts form ``num_groups`` groups of
        consecutive ids, every group lives wholly on one node, each node hosts equally many.
    allow_colocated
        Whether one GPU may hold two copies of one expert.
    allow_empty_slots
        Whether slots may stay empty.
    reference
        The placement in force now (Placement or ``[layers, slots]``), from which moves are counted.
    max_moves
        At most this many moves in every layer; needs ``reference``.
    max_makespan
        Ceiling for the makespan, a number or ``[layers]``. With it the objective turns round:
        fewest moves from ``reference`` such that no GPU exceeds the ceiling.
    split
        How an expert's tokens are shared among its copies: ``"even"``, or ``"optimal"``, the way that makes
        the fullest GPU's load least (``metrics.split_makespan``). The latter knows no limits of moves.

    Raises
    ------
    InputError
        Names the argument, the rule it breaks and its value.

    Examples
    --------
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> problem.num_layers, problem.slots_per_gpu, problem.num_redundant
    (1, 2, 0)
    """

    load: LoadMatrix
    num_gpus: int
    num_slots: int | None = None
    num_nodes: int = 1
    num_groups: int = 1
    allow_colocated: bool = True
    allow_empty_slots: bool = False
    reference: Placement | None = None
    max_moves: int | None = None
    max_makespan: NDArray[np.float64] | None = None
    split: str = "even"

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(
            self,
            load: Any,
            num_gpus: int,
            num_slots: int | None = None,
            num_nodes: int = 1,
            num_groups: int = 1,
            allow_colocated: bool = True,
            allow_empty_slots: bool = False,
            reference: Any = None,
            max_moves: int | None = None,
            max_makespan: Any = None,
            split: str = "even",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "load", as_load(self.load))
        if self.num_slots is None:
            object.__setattr__(self, "num_slots", self.load.num_experts)
        for name in ("num_gpus", "num_slots", "num_nodes", "num_groups"):
            object.__setattr__(self, name, integer(name, getattr(self, name), minimum=1))
        self._check_shape()
        self._check_moves()
        if self.split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {shown(self.split)}")
        if self.split == "optimal" and (self.max_moves is not None or self.max_makespan is not None):
            raise InputError("split='optimal' neither limits nor minimises moves: leave max_moves and max_makespan out")

    def _check_shape(self) -> None:
        experts = self.num_experts
        _multiple("num_slots", self.slots, "num_gpus", self.num_gpus)
        _multiple("num_gpus", self.num_gpus, "num_nodes", self.num_nodes)
        _multiple("num_experts", experts, "num_groups", self.num_groups)
        if self.hierarchical:
            _multiple("num_groups", self.num_groups, "num_nodes", self.num_nodes)
        if self.slots < experts:
            raise InputError(
                f"num_slots={self.slots} is below num_experts={experts}: every expert needs a slot; "
                f"the smallest that fits is {-(-experts // self.num_gpus) * self.num_gpus}"
            )
        distinct = experts // self.num_nodes if self.hierarchical else experts
        if not self.allow_colocated and not self.allow_empty_slots and self.slots_per_gpu > distinct:
            raise InputError(
                f"allow_colocated=False with {self.slots_per_gpu} slots per GPU needs as many different "
                f"experts, but a GPU can host only {distinct}; allow empty slots or lower num_slots"
            )

    def _check_moves(self) -> None:
        if self.reference is not None:
            reference = as_placement(self.reference, self.num_experts, self.num_gpus)
            object.__setattr__(self, "reference", reference)
            for name in ("num_layers", "num_experts", "num_gpus"):
                if getattr(reference, name) != getattr(self, name):
                    raise InputError(
                        f"reference has {name}={getattr(reference, name)}, the problem has {getattr(self, name)}"
                    )
        for name in ("max_moves", "max_makespan"):
            if getattr(self, name) is not None and self.reference is None:
                raise InputError(f"{name} needs a reference placement to count moves from")
        if self.max_moves is not None:
            object.__setattr__(self, "max_moves", integer("max_moves", self.max_moves, minimum=0))
        if self.max_makespan is not None:
            if self.max_moves is not None:
                raise InputError("max_moves and max_makespan exclude each other: one is limited, one minimised")
            ceiling = to_numpy("max_makespan", self.max_makespan).astype(float)
            if ceiling.ndim > 1 or ceiling.size not in (1, self.num_layers):
                raise InputError(f"max_makespan must be a number or [{self.num_layers}], got shape {ceiling.shape}")
            if not np.all(np.isfinite(ceiling) & (ceiling >= 0)):
                raise InputError(f"max_makespan must be finite and >= 0, got {shown(ceiling.tolist())}")
            object.__setattr__(self, "max_makespan", frozen(np.broadcast_to(ceiling, (self.num_layers,))))

    @property
    def num_layers(self) -> int:
        """Layers."""
        return self.load.num_layers

    @property
    def num_experts(self) -> int:
        """Experts per layer."""
        return self.load.num_experts

    @property
    def steps(self) -> NDArray[np.int64] | NDArray[np.float64] | None:
        """``[steps, layers, experts]`` loads that ``load`` is the sum of, in time order; None where unknown."""
        return self.load.steps

    @property
    def slots(self) -> int:
        """``num_slots`` as resolved at construction, typed as the integer it is."""
        assert self.num_slots is not None
        return self.num_slots

    @property
    def slots_per_gpu(self) -> int:
        """Slots of one GPU."""
        return self.slots // self.num_gpus

    @property
    def num_redundant(self) -> int:
        """Slots beyond one per expert."""
        return self.slots - self.num_experts

    @property
    def hierarchical(self) -> bool:
        """Whether nodes and groups constrain the placement."""
        return self.num_nodes > 1 and self.num_groups > 1

    @property
    def objective(self) -> str:
        """``"makespan"``, or ``"moves"`` where ``max_makespan`` is given."""
        return "makespan" if self.max_makespan is None else "moves"

    @property
    def splits(self) -> bool:
        """Whether tokens may go to any copy, and there are copies: else the split is even, whatever ``split`` says."""
        return self.split == "optimal" and self.num_redundant > 0

    def gpu_load(self, placement: Placement) -> NDArray[np.float64]:
        """``[layers, gpus]`` load of every GPU under this problem's split; the fullest one's is the makespan."""
        rule = metrics.split_gpu_load if self.splits else metrics.gpu_load
        return rule(self.load, placement)

    @property
    def ceiling(self) -> NDArray[np.float64]:
        """``[layers]`` load that no GPU may exceed: ``max_makespan`` and the rounding of float sums, or infinity.

        The one place where that slack is added: whatever aims at the ceiling reads it here.
        """
        if self.max_makespan is None:
            return np.full(self.num_layers, np.inf)
        return self.max_makespan * (1 + metrics.FLOAT_SLACK)

    @property
    def highest_makespan(self) -> NDArray[np.float64]:
        """``[layers]`` largest makespan that ``check`` lets pass: sums of what keeps the ceiling are rounded."""
        return self.ceiling * (1 + (self.slots_per_gpu + 4) * 2.0**-52)

    @property
    def max_replicas(self) -> int:
        """The most copies any feasible placement can give one expert."""
        nodes = self.num_nodes if self.hierarchical else 1
        most = (self.slots - self.num_experts) // nodes + 1
        return most if self.allow_colocated else min(most, self.num_gpus // nodes)

    @property
    def group_of_expert(self) -> NDArray[np.intp]:
        """``[experts]`` group of every expert."""
        return np.arange(self.num_experts) // (self.num_experts // self.num_groups)

    @property
    def node_of_gpu(self) -> NDArray[np.intp]:
        """``[gpus]`` node of every GPU."""
        return np.arange(self.num_gpus) // (self.num_gpus // self.num_nodes)

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: LayerIndex) -> PlacementProblem:
        rows = layer_indices(index, self.num_layers)
        return replace(
            self,
            load=self.load[rows],
            reference=None if self.reference is None else self.reference[rows],
            max_makespan=None if self.max_makespan is None else self.max_makespan[rows],
        )

    def check(self, placement: Placement) -> None:
        """Raise PlacementError unless ``placement`` keeps every rule of this problem.

        The message names the layer (the trace's own id), the rule and the numbers.
        O(layers * slots * log slots_per_gpu).
        """
        if not isinstance(placement, Placement):
            raise PlacementError(f"placement must be a Placement, got {type(placement).__name__}")
        for name in ("num_layers", "num_experts", "num_gpus", "num_slots"):
            if getattr(placement, name) != getattr(self, name):
                raise PlacementError(f"placement has {name}={getattr(placement, name)}, not {getattr(self, name)}")
        self._refuse(placement.replica_count < 1, "expert {1} has no slot")
        if not self.allow_empty_slots:
            self._refuse(placement.phy2log < 0, "slot {1} is empty, and allow_empty_slots=False")
        if not self.allow_colocated:
            held = np.sort(placement.by_gpu, axis=2)
            twice = (held[:, :, 1:] == held[:, :, :-1]) & (held[:, :, 1:] >= 0)
            self._refuse(twice, "GPU {1} holds expert {value} twice, and allow_colocated=False", held[:, :, 1:])
        if self.hierarchical:
            self._check_groups(placement)
        if self.max_moves is not None:
            assert self.reference is not None
            moves = metrics.moves(self.reference, placement)
            self._refuse(moves > self.max_moves, f"moves exceed max_moves={self.max_moves} ({{value}})", moves)
        if self.max_makespan is not None:
            makespan = metrics.makespan(metrics.gpu_load(self.load, placement))
            self._refuse(makespan > self.highest_makespan, "makespan exceeds max_makespan ({value})", makespan)

    def _check_groups(self, placement: Placement) -> None:
        hosts = np.zeros((self.num_layers, self.num_nodes, self.num_groups + 1), dtype=bool)
        group = np.append(self.group_of_expert, self.num_groups)  # an empty slot, -1, is in none
        node = np.repeat(self.node_of_gpu, self.slots_per_gpu)
        hosts[np.arange(self.num_layers)[:, None], node, group[placement.phy2log]] = True
        hosts = hosts[:, :, : self.num_groups]
        self._refuse(hosts.sum(axis=1) != 1, "group {1} is spread over several nodes")
        share = self.num_groups // self.num_nodes
        self._refuse(hosts.sum(axis=2) != share, f"node {{1}} does not host exactly {share} groups")

    def _refuse(self, bad: NDArray[np.bool_], rule: str, values: NDArray[Any] | None = None) -> None:
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            value = None if values is None else values[where]
            raise PlacementError(f"layer {self.load.layer_ids[where[0]]}: {rule.format(*where, value=value)}")

    def __str__(self) -> str:
        spare = f", {self.num_redundant} redundant" if self.num_redundant else ""
        lines = [
            f"PlacementProblem: {self.num_layers} layers of {self.num_experts} experts ({self.load.source}) "
            f"on {self.num_gpus} GPUs with {self.slots_per_gpu} slots each{spare}"
        ]
        rules = []
        if self.hierarchical:
            rules.append(f"{self.num_groups} groups kept whole on {self.num_nodes} nodes")
        rules.append(f"copies of an expert {'may' if self.allow_colocated else 'must not'} share a GPU")
        rules.append(f"slots {'may' if self.allow_empty_slots else 'must not'} stay empty")
        if self.max_moves is not None:
            rules.append(f"at most {self.max_moves} moves from the reference")
        lines.append("rules: " + "; ".join(rules))
        lines.append(
            f"objective: least load of the fullest GPU{', tokens split among copies at best' * self.splits}"
            if self.objective == "makespan"
            else "objective: fewest moves from the reference within max_makespan"
        )
        return "\n".join(lines)


def _multiple(name: str, value: int, of: str, divisor: int) -> None:
    if value % divisor:
        raise InputError(f"{name}={value} is not a multiple of {of}={divisor}")
