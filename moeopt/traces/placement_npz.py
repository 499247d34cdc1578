"""A placement as ``.npz``: ``phy2log``, ``num_experts`` and ``num_gpus``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import printable
from moeopt.errors import TraceError
from moeopt.placement import Placement


def placement_npz(placement: Placement, layer_ids: Sequence[int], model_layers: int) -> bytes:
    """Return the placement with its numbers of experts and GPUs, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        phy2log=placement.phy2log,
        num_experts=np.int64(placement.num_experts),
        num_gpus=np.int64(placement.num_gpus),
    )
    return buffer.getvalue()


def phy2log_from_npz(arrays: dict[str, NDArray[Any]], num_experts: int, num_gpus: int) -> NDArray[Any]:
    """``phy2log`` of a ``.npz`` whose own numbers, where it has them, must be the ones asked for."""
    for name, asked in (("num_experts", num_experts), ("num_gpus", num_gpus)):
        own = arrays.get(name)
        if own is not None and (own.shape or own.item() != asked):
            shown = f"an array of shape {own.shape}" if own.shape else own.item()
            raise TraceError(f"the file is for {name}={printable(shown, 60)}, not {asked}")
    return arrays["phy2log"]
