"""Where a run takes place: processor, system and the versions of what it uses."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "moeopt", "numpy", "numba", "scipy", "pandas", "ortools", "pulp", "highspy", "torch", "matplotlib", "joblib",
    "distributed",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """The machine that times the heuristics."""

    platform: str
    cpu: str
    cores: int | None

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.platform}"


def this_machine() -> Machine:
    """Return what is known about this machine."""
    return Machine(platform.platform(), _cpu(), os.cpu_count())


def versions() -> dict[str, str]:
    """Versions of Python and of every installed package that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Return the processor's name; the kernel knows it where ``platform`` does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
