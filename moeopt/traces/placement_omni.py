"""OmniInfer's placement pattern: 0/1 ``[ranks, layers, experts]``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.placement import Placement


def pattern_npy(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> bytes:
    """Return the 0/1 pattern as ``.npy``, one row per MoE layer."""
    buffer = io.BytesIO()
    np.save(buffer, (placement.copies > 0).swapaxes(0, 1).astype(np.uint8))
    return buffer.getvalue()


def phy2log_from_pattern(pattern: NDArray[Any], num_experts: int, num_gpus: int) -> NDArray[np.int64]:
    """``phy2log [layers, slots]`` of a 0/1 pattern; experts of a rank in rising order.

    A rank with fewer experts than the fullest one has empty slots (-1) at its end.
    """
    if pattern.shape[0] != num_gpus or pattern.shape[2] != num_experts:
        raise TraceError(
            f"the pattern is {list(pattern.shape)} [ranks, layers, experts], "
            f"asked for num_gpus={num_gpus}, num_experts={num_experts}"
        )
    bad = (pattern != 0) & (pattern != 1)
    if bad.any():
        rank, layer, expert = (int(i) for i in np.argwhere(bad)[0])
        raise TraceError(f"rank {rank}, layer {layer}, expert {expert}: {pattern[rank, layer, expert]} is not 0 or 1")
    held = np.swapaxes(pattern, 0, 1) == 1
    layers, ranks, experts = np.nonzero(held)
    if not experts.size:
        raise TraceError("the pattern places no expert")
    count = held.sum(axis=2)
    slots = int(count.max())
    first = np.cumsum(count) - count.ravel()  # where each rank's experts begin in the list of all
    position = np.arange(experts.size) - np.repeat(first, count.ravel())
    phy2log = np.full((len(held), num_gpus, slots), -1, dtype=np.int64)
    phy2log[layers, ranks, position] = experts
    return phy2log.reshape(len(held), -1)
