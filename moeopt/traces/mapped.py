"""Arrays that stay in their file: memory maps, and how to read through one without keeping it in memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)  # POSIX


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the file's map that ``array`` is a view of, or None where it is in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def forget_pages(array: NDArray[Any]) -> None:
    """Give the pages of a mapped file back, which count as memory of this process once they were read."""
    mapping = mapping_of(array)
    if mapping is not None and DONT_NEED is not None:
        mapping.madvise(DONT_NEED)
