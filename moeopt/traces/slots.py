"""From slots to experts: how recorders that count by slot say what their slots held."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError


class SlotMap:
    """Which expert every slot held while it was counted, ``[layers, slots]``.

    Raises
    ------
    TraceError
        For anything but ids of experts, of which there are no more than slots.
    """

    def __init__(self, name: str, phy2log: NDArray[Any]) -> None:
        if phy2log.ndim != 2 or phy2log.size == 0 or phy2log.dtype.kind not in "iuf":
            raise TraceError(f"{name} must be [layers, slots] of expert ids")
        if not (phy2log >= 0).all() or (phy2log.dtype.kind == "f" and (phy2log % 1).any()):
            raise TraceError(f"{name} must be [layers, slots] of expert ids")
        highest = int(phy2log.max())
        if highest >= phy2log.shape[1]:
            raise TraceError(f"{name} names expert {highest} with {phy2log.shape[1]} slots")
        self.shape: tuple[int, int] = (int(phy2log.shape[0]), int(phy2log.shape[1]))
        self.num_experts = highest + 1
        rows = np.arange(self.shape[0])[:, None] * self.num_experts
        self._at = (rows + phy2log.astype(np.int64)).ravel()

    def experts(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Add up ``counts [layers, slots]``, checked and at most 2**53 per layer, to ``[layers, experts]``."""
        summed = np.bincount(self._at, counts.ravel(), minlength=self.shape[0] * self.num_experts)
        logical = summed.reshape(self.shape[0], self.num_experts)
        return logical if counts.dtype.kind == "f" else logical.astype(np.int64)
