"""CBC in a process of its own that does not outlive an interruption: PuLP's own call leaves it running."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pulp


class StoppableCBC(pulp.COIN_CMD):  # type: ignore[misc]
    """PuLP's CBC, with the same files in and out, killed when the wait for it is interrupted."""

    def solve_CBC(self, lp: Any, use_mps: bool = True) -> int:
        """Write the model, run CBC on it, read the solution; see ``pulp.COIN_CMD.solve_CBC``."""
        with tempfile.TemporaryDirectory() as folder:
            model, start, solution = (str(Path(folder, name)) for name in ("lp.mps", "lp.mst", "lp.sol"))
            variables, names, rows, _ = lp.writeMPS(model, rename=1)
            command = [self.path, model]
            if self.optionsDict.get("warmStart"):
                self.writesol(start, lp, variables, names, rows)
                command += ["-mips", start]
            if self.timeLimit is not None:
                command += ["-sec", str(self.timeLimit)]
            options = [*self.options, *self.getOptions()]
            command += [word for option in options for word in f"-{option}".split()]
            command += ["-solve", "-printingOptions", "all", "-solution", solution]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if not Path(solution).exists():
                raise pulp.PulpSolverError(f"CBC wrote no solution: {self.path}")
            status, values, _, _, _, outcome = self.readsol_MPS(solution, lp, variables, names, rows)
        lp.assignVarsVals(values)
        lp.assignStatus(status, outcome)
        return int(status)
