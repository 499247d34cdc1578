"""Drop-in for DeepSeek's EPLB: torch in, the same three tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arguments import integer, shown
from moeopt._arrays import to_numpy
from moeopt._kernel import kernel
from moeopt.balancers.eplb import falling, pack_in_order
from moeopt.balancers.staged import place_in_stages
from moeopt.errors import InputError
from moeopt.load import MAX_TOTAL
from moeopt.problem import PlacementProblem

if TYPE_CHECKING:
    import torch


def rebalance_experts(
    weight: Any,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int | None = None,
    enable_hierarchical: bool | None = None,
    *,
    num_ranks: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place and replicate experts exactly as ``deepseek-ai/EPLB`` does, hundreds of times as fast.

    The same tensors slot by slot, with float32 arithmetic and torch's own sort: that sort is not
    stable, and copies of one expert weigh the same, so who is first among equals is its choice.

    Parameters
    ----------
    weight
        ``[layers, experts]`` loads >= 0: torch tensor (any device and dtype), array, list or
        numeric DataFrame.
    num_replicas
        Slots in all (not per expert), a multiple of ``num_gpus``.
    num_groups, num_nodes
        The hierarchical policy applies where ``num_groups`` is a multiple of ``num_nodes``,
        otherwise the global one, which ignores both.
    num_gpus
        GPUs, a multiple of ``num_nodes`` under the hierarchical policy.
    enable_hierarchical
        SGLang's switch: choose the policy instead of inferring it.
    num_ranks
        vLLM's name for ``num_gpus``; give one of the two.

    Returns
    -------
    phy2log, log2phy, logcnt
        int64 CPU tensors ``[layers, slots]``, ``[layers, experts, X]`` (padded with -1, the
        copies of an expert in the order in which they were granted) and ``[layers, experts]``.

    Raises
    ------
    InputError
        Names the argument and the rule, where the original asserts or silently returns nonsense.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[90, 40, 20, 10]])
    >>> phy2log, log2phy, logcnt = rebalance_experts(weight, num_replicas=6, num_groups=1, num_nodes=1, num_gpus=2)
    >>> phy2log.tolist(), logcnt.tolist()
    ([[1, 0, 3, 0, 0, 2]], [[3, 1, 1, 1]])
    """
    import torch

    if (num_gpus is None) == (num_ranks is None):
        raise InputError("rebalance_experts needs num_gpus (vLLM: num_ranks), one of the two")
    gpus_name, gpus = ("num_gpus", num_gpus) if num_ranks is None else ("num_ranks", num_ranks)
    numbers = {"num_replicas": num_replicas, "num_groups": num_groups, "num_nodes": num_nodes, gpus_name: gpus}
    replicas, groups, nodes, gpus = (integer(name, number, 1) for name, number in numbers.items())
    if not isinstance(enable_hierarchical, bool | np.bool_ | None):
        raise InputError(f"enable_hierarchical must be True, False or None, got {shown(enable_hierarchical)}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        loads = np.array(to_numpy("weight", weight), dtype=np.float32, order="C")
    if loads.ndim != 2:
        raise InputError(f"weight must be [layers, experts], got shape {loads.shape}")
    if replicas % gpus:
        raise InputError(f"num_replicas={replicas} is not a multiple of {gpus_name}={gpus}")
    if replicas < loads.shape[1]:
        raise InputError(f"num_replicas={replicas} is below num_experts={loads.shape[1]}")
    hierarchical = groups % nodes == 0 if enable_hierarchical is None else enable_hierarchical
    groups, nodes = (groups, nodes) if hierarchical else (1, 1)
    plain = loads.size > 0 and loads.min() >= 0 and loads.sum(dtype=float) < MAX_TOTAL / 2
    if groups > 1 or nodes > 1 or not plain:
        PlacementProblem(loads, gpus, replicas, nodes, groups)  # raises what is wrong
    if groups % nodes or replicas % nodes:
        raise InputError(
            f"the hierarchical policy needs num_groups={groups} and num_replicas={replicas} "
            f"to be multiples of num_nodes={nodes}"
        )
    tensor = torch.from_numpy(loads)
    # torch's own summation order: group loads above 2**24 are rounded, and must round alike
    group_load = tensor.reshape(len(tensor), groups, -1).sum(-1).numpy() if nodes > 1 else None
    staged = place_in_stages(loads, replicas, gpus, _balanced_packing, nodes, group_load)
    count = np.zeros(loads.shape, dtype=np.int64)
    log2phy = np.full((*loads.shape, _count(staged.expert, count)), -1, dtype=np.int64)
    _list_slots(staged.expert, staged.slot, log2phy)
    return torch.from_numpy(staged.phy2log), torch.from_numpy(log2phy), torch.from_numpy(count)


def _balanced_packing(weight: NDArray[np.float32], num_packs: int) -> NDArray[np.int64]:
    """EPLB's packing, with equal weights in the order in which torch's sort leaves them."""
    return pack_in_order(weight, num_packs, _falling_as_torch_sorts)


def _falling_as_torch_sorts(weight: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sort by torch where weights are equal: elsewhere there is only one order, and a faster sort."""
    rising = np.sort(weight, axis=1)
    tied = (rising[:, 1:] == rising[:, :-1]).any(axis=1)
    if tied.all():  # as with replicas: copies of one expert weigh the same
        return _torch_sort(weight)
    order = falling(weight)
    order[tied] = _torch_sort(weight[tied])
    return order


def _torch_sort(weight: NDArray[np.float32]) -> NDArray[np.int64]:
    import torch

    order: NDArray[np.int64] = torch.from_numpy(weight).sort(-1, descending=True).indices.numpy()
    return order


@kernel
def _count(expert, count):  # type: ignore[no-untyped-def]
    """Add up the copies of every expert, and return the most of any."""
    most = 0
    for layer in range(expert.shape[0]):
        for item in expert[layer]:
            count[layer, item] += 1
            most = max(most, count[layer, item])
    return most


@kernel
def _list_slots(expert, slot, log2phy):  # type: ignore[no-untyped-def]
    """List the slots of every expert in the order of granting."""
    given = np.empty(log2phy.shape[1], dtype=np.int64)
    for layer in range(expert.shape[0]):
        for item in range(given.size):
            given[item] = 0
        for replica in range(expert.shape[1]):
            item = expert[layer, replica]
            log2phy[layer, item, given[item]] = slot[layer, replica]
            given[item] += 1
