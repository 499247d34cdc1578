"""Placement: which expert sits in which slot, and the views derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import ArrayFields, LayerIndex, exact_integers, frozen, layer_indices, to_numpy
from moeopt.errors import InputError

if TYPE_CHECKING:
    from moeopt.problem import PlacementProblem

MAX_SLOTS = 2**26
"""The most slots of all layers in a file, which take several times their memory: a thousand large placements."""


@dataclass(frozen=True, eq=False)
class Placement(ArrayFields):
    """A map from slots to experts, ``phy2log [layers, slots]``.

    Parameters
    ----------
    phy2log
        ``[layers, slots]`` (or ``[slots]``, one layer): the expert in every slot, -1 = empty.
        The slots of GPU ``g`` are ``[g*slots_per_gpu, (g+1)*slots_per_gpu)``.
    num_experts, num_gpus
        Experts per layer and GPUs; the number of slots must be a multiple of the latter.

    Raises
    ------
    InputError
        For a wrong shape or an expert id outside ``[-1, num_experts)``. Whether the placement is
        feasible is a question for ``PlacementProblem.check``.

    Examples
    --------
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> placement.replica_count.tolist()
    [[2, 1, 1]]
    >>> placement.copies.shape  # layers, gpus, experts
    (1, 2, 3)
    >>> placement.copies[0].tolist()
    [[1, 1, 0], [1, 0, 1]]
    """

    phy2log: NDArray[np.int64]
    num_experts: int
    num_gpus: int

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(self, phy2log: Any, num_experts: int, num_gpus: int) -> None: ...

    def __post_init__(self) -> None:
        array = np.atleast_2d(exact_integers("phy2log", to_numpy("phy2log", self.phy2log)))
        if array.ndim != 2 or array.size == 0:
            raise InputError(f"phy2log must be [layers, slots] and not empty, got shape {array.shape}")
        for name in ("num_experts", "num_gpus"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if array.shape[1] % self.num_gpus:
            raise InputError(f"num_slots={array.shape[1]} is not a multiple of num_gpus={self.num_gpus}")
        bad = (array < -1) | (array >= self.num_experts)
        if bad.any():
            layer, slot = (int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"phy2log must hold expert ids in [-1, {self.num_experts}), "
                f"got {array[layer, slot]} at layer {layer}, slot {slot}"
            )
        object.__setattr__(self, "phy2log", frozen(array))

    @property
    def num_layers(self) -> int:
        """Layers."""
        return int(self.phy2log.shape[0])

    @property
    def num_slots(self) -> int:
        """Slots on all GPUs together."""
        return int(self.phy2log.shape[1])

    @property
    def slots_per_gpu(self) -> int:
        """Slots of one GPU."""
        return self.num_slots // self.num_gpus

    @cached_property
    def by_gpu(self) -> NDArray[np.int64]:
        """``[layers, gpus, slots_per_gpu]`` view of ``phy2log``."""
        return self.phy2log.reshape(self.num_layers, self.num_gpus, self.slots_per_gpu)

    @cached_property
    def replica_count(self) -> NDArray[np.int64]:
        """``[layers, experts]`` copies of every expert. O(layers * slots)."""
        return _count(self.phy2log, self.num_experts)

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """``[layers, gpus, experts]`` copies of every expert on every GPU."""
        rows = self.phy2log.reshape(self.num_layers * self.num_gpus, self.slots_per_gpu)
        counts = _count(rows, self.num_experts)
        return frozen(counts.reshape(self.num_layers, self.num_gpus, self.num_experts))

    @cached_property
    def held(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which GPU holds which expert: ``(layer * gpus + gpu) * experts + expert``, rising, and how often.

        What ``copies`` says without its zeros: 8 bytes per slot instead of one number per GPU and expert.
        O(layers * slots * log slots).
        """
        gpu = np.arange(self.num_layers * self.num_gpus)[:, None] * self.num_experts
        rows = self.phy2log.reshape(-1, self.slots_per_gpu)
        keys, counts = np.unique((gpu + rows)[rows >= 0], return_counts=True)
        return frozen(keys), frozen(counts)

    @cached_property
    def log2phy(self) -> NDArray[np.int64]:
        """``[layers, experts, max replicas]`` slots of every expert in rising order, padded with -1."""
        table = np.full((self.num_layers, self.num_experts, int(self.replica_count.max())), -1, dtype=np.int64)
        order = np.argsort(self.phy2log, axis=1, kind="stable")
        experts = np.take_along_axis(self.phy2log, order, axis=1)
        first = np.cumsum(self.replica_count, axis=1) - self.replica_count
        empty = self.num_slots - self.replica_count.sum(axis=1)
        layers = np.broadcast_to(np.arange(self.num_layers)[:, None], experts.shape)
        filled = experts >= 0
        start = np.take_along_axis(first, np.maximum(experts, 0), axis=1) + empty[:, None]
        rank = np.arange(self.num_slots)[None, :] - start
        table[layers[filled], experts[filled], rank[filled]] = order[filled]
        table.setflags(write=False)
        return table

    def fill(self, problem: PlacementProblem) -> Placement:
        """Fill empty slots with copies, for engines that know no empty slots.

        No GPU exceeds the makespan of this placement if copies are found that see to it, and the makespan falls
        where they help; otherwise it rises by as little as was found (``metrics.makespan`` tells). A GPU that
        holds all copies of an expert can take another one of it at no cost, where copies may share a GPU.

        Parameters
        ----------
        problem
            The loads and the rules: groups stay on their nodes, copies apart where they must.

        Raises
        ------
        PlacementError
            If this placement breaks the problem, or an empty slot is on a GPU that holds all that it may hold.

        Notes
        -----
        Slot after slot the expert of which another copy gives the least makespan, then the most even loads;
        every choice is thought over again until none changes. O(empty slots * GPUs * experts) per round.
        """
        from moeopt.filling import filled  # here, as it needs the metrics, and these need placements

        return filled(problem, self)

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: LayerIndex) -> Placement:
        return Placement(self.phy2log[layer_indices(index, self.num_layers)], self.num_experts, self.num_gpus)


def as_placement(values: Any, num_experts: int, num_gpus: int) -> Placement:
    """Return a Placement, or ``phy2log`` given as list, numpy array or torch tensor, as a Placement."""
    return values if isinstance(values, Placement) else Placement(values, num_experts, num_gpus)


def _count(rows: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    offset = np.arange(len(rows))[:, None] * (num_experts + 1) + 1
    flat = np.bincount((rows + offset).ravel(), minlength=len(rows) * (num_experts + 1))
    counts = flat.reshape(len(rows), num_experts + 1)[:, 1:].astype(np.int64)
    return frozen(counts)
