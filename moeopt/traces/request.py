"""What a caller asks of a reader: how steps become windows, and what the file itself does not say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeopt._arguments import integer
from moeopt.errors import InputError, TraceError
from moeopt.traces.opened import Opened, opened

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


@dataclass(frozen=True)
class Request:
    """The options of ``read_trace``, checked; see there."""

    steps_per_window: int | None = None
    window_tokens: int | None = None
    routed_experts: bool = False
    num_experts: int | None = None
    num_layers: int | None = None
    top_k: int | None = None
    single_rank: bool = False
    max_bytes: int | None = None
    tick: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("steps_per_window", "window_tokens", "num_experts", "num_layers", "top_k", "max_bytes"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, integer(name, value, 1))
        for name in ("routed_experts", "single_rank"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def opened(self, path: Path, digest: Hash | None = None) -> AbstractContextManager[Opened]:
        """Open a file within the caller's bounds; ``digest`` hashes it after others."""
        return opened(path, self.max_bytes, self.tick, digest)

    def check_experts(self, found: int) -> None:
        """Refuse loads of another number of experts than the caller expects."""
        if self.num_experts is not None and found != self.num_experts:
            raise TraceError(f"{found} experts per layer, not num_experts={self.num_experts}")

    def refuse_tokens(self) -> None:
        """Refuse options that only routed experts have, where a file holds loads."""
        for name in ("routed_experts", "window_tokens", "num_layers", "top_k"):
            if getattr(self, name):
                raise TraceError(f"holds loads; {name} is for routed experts")
