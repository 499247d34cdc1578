"""How far is every balancer from the best possible placement? ``python scripts/gap_report.py --help``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

app = typer.Typer(add_completion=False)


def gap_report(**options: Any) -> Any:
    """Run ``moeopt.report.build.gap_report`` with all balancers, all solvers and, if asked for, the check."""
    # Imported late, so that --help is quick and Ctrl-C during the imports is caught below.
    from moeopt.balancers import BALANCERS
    from moeopt.report.build import gap_report
    from solvers import SOLVERS, verify

    return gap_report(BALANCERS, SOLVERS, **options | {"verify": verify if options["verify"] else None})


@app.command()
def parse(
    context: typer.Context,
    trace: Annotated[list[str] | None, Option(help="Recorded loads, repeatable. [default: generated]")] = None,
    gpus: Annotated[str | None, Option(help="List of GPU numbers, e.g. 8,16.")] = None,
    slots: Annotated[str | None, Option(help="List of total slots; all combinations that divide are run.")] = None,
    nodes: Annotated[int | None, Option(help="Nodes of the hierarchical policy; with --groups.")] = None,
    groups: Annotated[int | None, Option(help="Expert groups, each wholly on one node; with --nodes.")] = None,
    methods: Annotated[str | None, Option(help="List of methods. [default: balancers, one exact method]")] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    time_limit: Annotated[float | None, Option(help="Seconds per layer. [default: 2, and 60 a setting]")] = None,
    jobs: Annotated[int, Option(help="Layers solved at the same time.")] = 1,
    repeats: Annotated[int, Option(help="Timed calls of every balancer.")] = 5,
    reference: Annotated[str | None, Option(help="Placement file to count moves from. [default: contiguous]")] = None,
    seed: Annotated[int, Option(help="Seed of the generated trace and of the solvers.")] = 0,
    out: Annotated[Path, Option(help="Folder for the report's files.")] = Path("report"),
    quiet: Annotated[bool, Option("--quiet", help="No progress, no tables.")] = False,
    verify: Annotated[bool, Option("--verify", help="Check all placements and bounds in exact arithmetic.")] = False,
) -> None:  # fmt: skip
    """Run every balancer beside exact methods and report the gap to a proven lower bound."""
    from moeopt.report.settings import names, numbers

    gap_report(
        trace=trace or (), gpus=numbers("--gpus", gpus), slots=numbers("--slots", slots), nodes=nodes, groups=groups,
        methods=names("--methods", methods), layers=layers, time_limit=time_limit, jobs=jobs, repeats=repeats,
        reference=reference, seed=seed, out=out, quiet=quiet, verify=verify, command=context.obj,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0; 1 if ``--verify`` rejects anything; 2 for unusable input; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return app(arguments, standalone_mode=False, obj=arguments) or 0
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        code, message = _told(error)
        if not code:
            raise
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return code


def _told(error: Exception) -> tuple[int, str]:
    """Return the exit code and what to tell the user; code 0 for mistakes that are ours."""
    if hasattr(error, "format_message"):  # an error of the command line
        return 2, error.format_message()
    from moeopt.errors import InputError, VerificationError

    if isinstance(error, VerificationError):
        return 1, str(error)
    return (2, str(error)) if isinstance(error, InputError) else (0, "")


if __name__ == "__main__":
    sys.exit(main())
