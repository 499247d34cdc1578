"""The two-stage scheme of EPLB: choose replica counts first, then pack replicas onto GPUs.

With groups and nodes a stage comes first that packs whole groups onto nodes; replication and
packing then happen inside every node. EPLB and BLDM differ only in the packing they plug in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.replication import replicate

Pack = Callable[[NDArray[Any], int], NDArray[np.int64]]
"""``pack(weight [rows, items], num_packs) -> slot [rows, items]``: equally many items per pack;
pack ``p`` owns the slots ``[p*items/num_packs, (p+1)*items/num_packs)``."""


@dataclass(frozen=True)
class Staged:
    """``phy2log [layers, slots]``; expert and slot of every replica in the order of granting."""

    phy2log: NDArray[np.int64]
    expert: NDArray[np.int64]
    slot: NDArray[np.int64]


def place_in_stages(
    weight: NDArray[Any],
    num_slots: int,
    num_gpus: int,
    pack: Pack,
    num_nodes: int = 1,
    group_load: NDArray[Any] | None = None,
) -> Staged:
    """Replicate greedily and pack, inside nodes where there are several.

    Parameters
    ----------
    weight
        ``[layers, experts]`` loads, float32 or float64.
    group_load
        ``[layers, groups]`` loads of the expert groups; needed with several nodes.
    """
    layers, experts = weight.shape
    member = np.arange(experts)[None, :]
    local = weight
    if num_nodes > 1:
        assert group_load is not None
        member = _experts_by_node(pack(group_load, num_nodes), experts)
        local = np.take_along_axis(weight, member, axis=1)
    expert, share = replicate(local.reshape(layers * num_nodes, -1), num_slots // num_nodes)
    slot = pack(share, num_gpus // num_nodes)
    phy2log = np.empty((layers, num_slots), dtype=np.int64)
    _assemble(member, expert, slot, num_nodes, phy2log)
    return Staged(phy2log, expert.reshape(layers, -1), slot.reshape(layers, -1))


def staged_placement(problem: PlacementProblem, weight: NDArray[Any], pack: Pack) -> Placement:
    """Apply the scheme to ``problem``, hierarchically where the problem is."""
    nodes, group_load = 1, None
    if problem.hierarchical:
        nodes = problem.num_nodes
        group_load = weight.reshape(problem.num_layers, problem.num_groups, -1).sum(axis=2, dtype=weight.dtype)
    staged = place_in_stages(weight, problem.slots, problem.num_gpus, pack, nodes, group_load)
    return Placement(staged.phy2log, problem.num_experts, problem.num_gpus)


def _experts_by_node(group_slot: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """``[layers, experts]`` experts in the order in which the nodes host their groups."""
    group_at = np.argsort(group_slot, axis=1)
    size = experts // group_slot.shape[1]
    member: NDArray[np.int64] = (group_at[:, :, None] * size + np.arange(size)).reshape(len(group_slot), experts)
    return member


@kernel
def _assemble(member, expert, slot, num_nodes, phy2log):  # type: ignore[no-untyped-def]
    """Write every replica into its slot, and turn node-local ids in ``expert`` and ``slot`` global."""
    rows, replicas = expert.shape
    per_node = member.shape[1] // num_nodes
    for row in range(rows):
        layer, node = divmod(row, num_nodes)
        for replica in range(replicas):
            local = node * per_node + expert[row, replica]
            where = node * replicas + slot[row, replica]
            expert[row, replica] = member[layer, local] if member.shape[0] > 1 else member[0, local]
            slot[row, replica] = where
            phy2log[layer, where] = expert[row, replica]
