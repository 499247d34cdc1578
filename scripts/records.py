"""Better the records of the named instances with ``solve``: ``python scripts/records.py SECONDS [NAME ...]``.

A bound counts where its certificate proves it. Where the best one rests on a search, runs that are content with less
may end with one that does not.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from moeopt import Solution, verify_bound, write_certificates
from moeopt.balancers import scenario_search
from moeopt.bounds import lower_bound, steps_bound
from moeopt.challenge import submit
from moeopt.instances import INSTANCES
from moeopt.records import Record, read_record
from moeopt.traces import write_placement
from solvers import solve
from solvers.steps import StepsSolution, solve_steps

GAPS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Of runs one after another, until one ends with a bound that is proven and better than that of the record."""


def solved(record: Record, seconds: float) -> Solution | StepsSolution:
    """Best placement that is found, and the best of the bounds that is proven without what found it."""
    problem, placement = record.problem, record.placement
    if problem.steps is not None:
        placement = scenario_search(problem, start=placement, budget=seconds)
        found = solve_steps(problem, time_limit=seconds, start=placement)
        return replace(found, bound=record.float_bound.join(steps_bound(problem)))
    known = Solution(problem, placement, lower_bound(problem).join(record.float_bound))
    for gap in GAPS:
        run = solve(problem, time_limit=seconds, tolerance=gap, start=known)
        before, known = known.lower_bound[0], known.join(Solution(problem, run.placement))
        if run.lower_bound[0] > before and verify_bound(problem, run.bound).proven:
            return known.join(Solution(problem, bound=run.bound))
        if run.lower_bound[0] == before:
            break
    return known


def main(seconds: float, *names: str) -> None:
    """Solve instances, all by default, and submit what is found."""
    for name in names or INSTANCES:
        found = solved(read_record(name), seconds)
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
