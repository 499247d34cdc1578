"""Better the records of the named instances with ``solve``: ``python scripts/records.py SECONDS [NAME ...]``.

A bound counts where its certificate proves it. Where the best one rests on a search, shorter runs may end with one that
does not.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from moeopt import Solution, verify_bound, write_certificates
from moeopt.bounds import lower_bound
from moeopt.challenge import submit
from moeopt.instances import INSTANCES
from moeopt.records import read_record
from moeopt.traces import write_placement
from solvers import solve

SHARES = (1.0, 0.25, 0.05)
"""Of the seconds, for runs one after another, until a bound is proven."""


def solved(name: str, seconds: float) -> Solution:
    """Best placement that ``solve`` finds, and the best of its bounds that is proven without it."""
    found = read_record(name).solution
    problem, proven = found.problem, found.bound.join(lower_bound(found.problem))
    for share in SHARES:
        known = Solution(problem, found.placement, proven)
        run = solve(problem, time_limit=share * seconds, hint=known)
        found = known.join(Solution(problem, run.placement))
        if verify_bound(problem, run.bound).proven:
            return found.join(Solution(problem, bound=run.bound))
    return found


def main(seconds: float, *names: str) -> None:
    """Solve instances, all by default, and submit what is found."""
    for name in names or INSTANCES:
        found = solved(name, seconds)
        with tempfile.TemporaryDirectory() as folder:
            certificates = write_certificates(Path(folder, "certificates.json"), found)
            placement = None
            if found.placement is not None:
                placement = write_placement(Path(folder, "placement.csv"), found.placement, "csv")
            told = submit(name, placement, certificates, by=f"moeopt {version('moeopt')}, solve")
        print(f"{name}\n{told}\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(float(sys.argv[1]), *sys.argv[2:])
