"""OmniInfer's placement pattern: 0/1 ``[ranks, layers, experts]``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError


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
    if not held.any():
        raise TraceError("the pattern places no expert")
    slots = int(held.sum(axis=2).max())
    order = np.argsort(~held, axis=2, kind="stable")[:, :, :slots]
    phy2log = np.where(np.take_along_axis(held, order, axis=2), order, -1)
    return phy2log.reshape(len(phy2log), -1).astype(np.int64)
