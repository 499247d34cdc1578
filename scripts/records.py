"""Better the records of the named instances with ``solve``: ``python scripts/records.py SECONDS [NAME ...]``.

A bound counts where its certificate proves it. Where the best one rests on a search, runs that are content with less
may end with one that does not.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from moeopt import Solution, verify_bound, write_certificates
from moeopt.bounds import lower_bound
from moeopt.challenge import submit
from moeopt.instances import INSTANCES
from moeopt.records import read_record
from moeopt.traces import write_placement
from solvers import solve

GAPS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Of runs one after another, until one ends with a bound that is proven and better than that of the record."""


def solved(name: str, seconds: float) -> Solution:
    """Best placement that ``solve`` finds, and the best of its bounds that is proven without it."""
    record = read_record(name).solution
    problem, proven = record.problem, lower_bound(record.problem).join(record.bound)
    found = Solution(problem, record.placement, proven)
    for gap in GAPS:
        run = solve(problem, time_limit=seconds, gap=gap, hint=found)
        found = found.join(Solution(problem, run.placement))
        if run.lower_bound[0] > proven.value[0] and verify_bound(problem, run.bound).proven:
            return found.join(Solution(problem, bound=run.bound))
        if run.lower_bound[0] == proven.value[0]:
            break
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
            told = submit(name, placement, certificates, by="moeopt, solve")
        print(f"{name}\n{told}\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(float(sys.argv[1]), *sys.argv[2:])
