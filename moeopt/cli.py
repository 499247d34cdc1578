"""The command ``moeopt``: it brings balancers and exact methods together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from moeopt.exit_codes import exit_code

BENCHMARK = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"
"""In a checkout only: the benchmark compares with the plain versions among its tests."""

ENGINE_HELP = "What loads it: sglang, vllm, vllm-jsonl, trtllm, ascend, omni; or npz, csv."
MODEL_LAYERS_HELP = "Layers of the model, dense ones too. [default: up to the last one that is there]"

RoutedExperts = Annotated[bool, Option("--routed-experts", help="Arrays are [tokens, layers, top_k] of experts.")]
SingleRank = Annotated[bool, Option("--single-rank", help="Take what is there although files of other ranks are not.")]
Experts = Annotated[int | None, Option(help="Experts per layer, which routed experts do not say.")]
WindowTokens = Annotated[int | None, Option(help="Cut routed experts into windows of so many tokens.")]
StepsPerWindow = Annotated[int | None, Option(help="Add up so many recorded steps to one window.")]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"moeopt {version('moeopt')}")
        raise typer.Exit


@app.callback()
def moeopt(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The yardstick for Mixture-of-Experts expert placement."""


@app.command()
def gap_report(
    context: typer.Context,
    trace: Annotated[list[str] | None, Option(help="Recorded loads, repeatable. [default: generated]")] = None,
    gpus: Annotated[str | None, Option(help="List of GPU numbers, e.g. 8,16.")] = None,
    slots: Annotated[str | None, Option(help="List of total slots; all combinations that divide are run.")] = None,
    nodes: Annotated[int | None, Option(help="Nodes of the hierarchical policy; with --groups.")] = None,
    groups: Annotated[int | None, Option(help="Expert groups, each wholly on one node; with --nodes.")] = None,
    methods: Annotated[
        str | None, Option(help="List of methods, or FILE.py:FUNCTION. [default: balancers, one exact method]")
    ] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    time_limit: Annotated[float | None, Option(help="Seconds per layer. [default: 2, and 60 per setting]")] = None,
    jobs: Annotated[int | None, Option(help="Layers solved at a time on this machine. [default: 1]")] = None,
    cluster: Annotated[str | None, Option(help="Dask scheduler whose workers solve layers, tcp://HOST:PORT.")] = None,
    repeats: Annotated[int, Option(help="Timed calls of every balancer.")] = 5,
    reference: Annotated[str | None, Option(help="Placement file to count moves from. [default: contiguous]")] = None,
    reference_trace: Annotated[str | None, Option(help="Older loads: moves count from EPLB on them.")] = None,
    expert_bytes: Annotated[int | None, Option(help="Bytes of one expert in one layer, to tell moves in GB.")] = None,
    seed: Annotated[int, Option(help="Seed of the generated trace and of the solvers.")] = 0,
    out: Annotated[Path, Option(help="Folder for the report's files.")] = Path("report"),
    quiet: Annotated[bool, Option("--quiet", help="No progress, no tables.")] = False,
    verify: Annotated[bool, Option("--verify", help="Check all placements and bounds in exact arithmetic.")] = False,
    routed_experts: RoutedExperts = False,
    experts: Experts = None,
    single_rank: SingleRank = False,
) -> None:  # fmt: skip
    """Run every balancer beside exact methods and report the gap to a proven lower bound."""
    # Imported late, so that --help is quick and Ctrl-C during the imports is caught in main.
    from moeopt.balancers import BALANCERS
    from moeopt.report.build import gap_report
    from moeopt.report.settings import names, numbers
    from solvers import SOLVERS
    from solvers.moves_cover import proven_moves

    gap_report(
        BALANCERS, SOLVERS,
        trace=trace or (), gpus=numbers("gpus", gpus), slots=numbers("slots", slots), nodes=nodes, groups=groups,
        methods=names("methods", methods), layers=layers, time_limit=time_limit, jobs=jobs, cluster=cluster,
        repeats=repeats, reference=reference, seed=seed, out=out, quiet=quiet, verify=verify, command=context.obj,
        reference_trace=reference_trace, expert_bytes=expert_bytes, moves_bound=proven_moves,
        reading={"routed_experts": routed_experts, "num_experts": experts, "single_rank": single_rank},
    )  # fmt: skip


@app.command()
def replay(
    context: typer.Context,
    trace: Annotated[str | None, Option(help="Loads of many steps in time order. [default: generated]")] = None,
    gpus: Annotated[int, Option(help="GPUs.")] = 8,
    slots: Annotated[int | None, Option(help="Slots on all GPUs. [default: an eighth more than experts]")] = None,
    nodes: Annotated[int | None, Option(help="Nodes of the hierarchical policy; with --groups.")] = None,
    groups: Annotated[int | None, Option(help="Expert groups, each wholly on one node; with --nodes.")] = None,
    layers: Annotated[str | None, Option(help="Layers by the trace's own ids, e.g. 3-10,17.")] = None,
    reference: Annotated[str | None, Option(help="Placement in force. [default: first plans cost no moves]")] = None,
    policy: Annotated[
        list[str] | None, Option(help="A policy, repeatable, e.g. 'eplb every=16 window=64 moves=2 trigger=0.02'.")
    ] = None,
    every: Annotated[str | None, Option(help="Steps between plans of the usual policies, e.g. 16,64.")] = None,
    window: Annotated[int | None, Option(help="Steps that their plans see. [default: the warm-up's]")] = None,
    warmup: Annotated[int | None, Option(help="Steps before those that count. [default: a quarter, <= 32]")] = None,
    dispatch: Annotated[str, Option(help="How tokens find a copy: even, random, local, optimal.")] = "even",
    move_price: Annotated[float | None, Option(help="Price of a move in balanced layer-steps.")] = None,
    expert_bytes: Annotated[float | None, Option(help="Bytes of one expert in one layer; with the next two.")] = None,
    bandwidth: Annotated[float | None, Option(help="Bytes per second at which experts move.")] = None,
    layer_step_seconds: Annotated[float | None, Option(help="Seconds of a layer's experts per balanced step.")] = None,
    charge_planning: Annotated[bool, Option("--charge-planning", help="Charge the seconds of planning too.")] = False,
    competition: Annotated[bool, Option("--competition", help="Add the published competition's score.")] = False,
    seed: Annotated[int, Option(help="Seed of the generated trace.")] = 0,
    out: Annotated[Path, Option(help="Folder for the page and its pictures.")] = Path("replay"),
    quiet: Annotated[bool, Option("--quiet", help="No progress, no tables.")] = False,
    routed_experts: RoutedExperts = False,
    experts: Experts = None,
    window_tokens: WindowTokens = None,
    steps_per_window: StepsPerWindow = None,
    single_rank: SingleRank = False,
) -> None:
    """Is rebalancing worth it? Run policies over recorded steps, every plan judged on the steps after it."""
    from moeopt.policies import METHODS
    from moeopt.report.replay_report import replay_report
    from moeopt.report.settings import numbers

    replay_report(
        METHODS, trace=trace, gpus=gpus, slots=slots, nodes=nodes, groups=groups, layers=layers,
        policy=policy or (), every=numbers("every", every), window=window, warmup=warmup, dispatch=dispatch,
        reference=reference,
        move_price=move_price, expert_bytes=expert_bytes, bandwidth=bandwidth, layer_step_seconds=layer_step_seconds,
        charge_planning=charge_planning, competition=competition, seed=seed, out=out, quiet=quiet, command=context.obj,
        reading={
            "routed_experts": routed_experts, "num_experts": experts, "window_tokens": window_tokens,
            "steps_per_window": steps_per_window, "single_rank": single_rank,
        },
    )  # fmt: skip


@app.command()
def plan(
    trace: Annotated[str, Option(help="Recorded loads.")],
    gpus: Annotated[int, Option(help="GPUs.")],
    engine: Annotated[str, Option(help=ENGINE_HELP)],
    out: Annotated[Path, Option(help="File to write.")],
    slots: Annotated[int | None, Option(help="Total slots. [default: the fewest that hold all experts]")] = None,
    model_layers: Annotated[int | None, Option(help=MODEL_LAYERS_HELP)] = None,
    layer_ids: Annotated[str | None, Option(help="The model's own numbers of the trace's layers, e.g. 3-60.")] = None,
    nodes: Annotated[int | None, Option(help="Nodes of the hierarchical policy; with --groups.")] = None,
    groups: Annotated[int | None, Option(help="Expert groups, each wholly on one node; with --nodes.")] = None,
    reference: Annotated[str | None, Option(help="File with the placement in force.")] = None,
    expert_bytes: Annotated[int | None, Option(help="Bytes of one expert in one layer, to tell moves in GB.")] = None,
    within: Annotated[float | None, Option(help="Fewest moves within this share of the best, e.g. 0.01.")] = None,
    max_moves: Annotated[int | None, Option(help="The best with at most so many moves per layer.")] = None,
    method: Annotated[str, Option(help="Any method, or FILE.py:FUNCTION.")] = "search",
    time_limit: Annotated[float, Option(help="Seconds per layer of an exact method.")] = 2.0,
    routed_experts: RoutedExperts = False,
    experts: Experts = None,
    single_rank: SingleRank = False,
) -> None:
    """Plan a placement for recorded loads and write the file that an engine loads."""
    from moeopt.balancers import BALANCERS, scenario_search
    from moeopt.commands import plan_file
    from moeopt.picking import pick_methods
    from moeopt.report.settings import ranges
    from solvers import SOLVERS

    exact = {name: partial(solver, time_limit=time_limit) for name, solver in SOLVERS.items()}
    (picked,) = pick_methods([method], {**BALANCERS, "scenario_search": scenario_search, **exact}, argument="method")
    told = plan_file(
        trace, out, engine, gpus, slots, method=next(iter(picked.values())), layer_ids=ranges("layer_ids", layer_ids),
        model_layers=model_layers, nodes=nodes, groups=groups, reference=reference, expert_bytes=expert_bytes,
        within=within, max_moves=max_moves,
        reading={"routed_experts": routed_experts, "num_experts": experts, "single_rank": single_rank},
    )  # fmt: skip
    print(told)


@app.command()
def convert(
    file: Annotated[str, Argument(help="A placement or loads, of any format that can be read.")],
    out: Annotated[Path, Argument(help="File to write.")],
    engine: Annotated[str | None, Option(help=ENGINE_HELP)] = None,
    loads: Annotated[str | None, Option(help="Write loads instead: json, npy or npz.")] = None,
    experts: Annotated[int | None, Option(help="Experts per layer, of a placement or of routed experts.")] = None,
    gpus: Annotated[int | None, Option(help="GPUs, of a placement.")] = None,
    layer_ids: Annotated[str | None, Option(help="The model's own numbers of the layers, e.g. 3-60.")] = None,
    model_layers: Annotated[int | None, Option(help=MODEL_LAYERS_HELP)] = None,
    trace: Annotated[str | None, Option(help="Loads by which empty slots are filled with copies.")] = None,
    routed_experts: RoutedExperts = False,
    window_tokens: WindowTokens = None,
    steps_per_window: StepsPerWindow = None,
    max_bytes: Annotated[int | None, Option(help="The most bytes of loads, unpacked. [default: 4 GiB]")] = None,
    single_rank: SingleRank = False,
) -> None:
    """Write a placement or loads in another format."""
    from moeopt.commands import convert_file
    from moeopt.report.settings import ranges

    told = convert_file(
        file, out, engine=engine, loads=loads, experts=experts, gpus=gpus, model_layers=model_layers, trace=trace,
        layer_ids=ranges("layer_ids", layer_ids),
        reading={
            "routed_experts": routed_experts, "num_experts": experts, "window_tokens": window_tokens,
            "steps_per_window": steps_per_window, "max_bytes": max_bytes, "single_rank": single_rank,
        },
    )  # fmt: skip
    print(told)


@app.command()
def check(
    file: Annotated[str, Argument(help="A placement, of any format that can be read.")],
    trace: Annotated[str, Option(help="Recorded loads.")],
    gpus: Annotated[int, Option(help="GPUs.")],
    engine: Annotated[str | None, Option(help="Check that this engine can load it, too.")] = None,
    layer_ids: Annotated[str | None, Option(help="The model's own numbers of the trace's layers, e.g. 3-60.")] = None,
    nodes: Annotated[int | None, Option(help="Nodes of the hierarchical policy; with --groups.")] = None,
    groups: Annotated[int | None, Option(help="Expert groups, each wholly on one node; with --nodes.")] = None,
    exact: Annotated[bool, Option("--exact", help="Prove the best possible by exact methods.")] = False,
    time_limit: Annotated[float, Option(help="Seconds per layer of --exact.")] = 2.0,
    routed_experts: RoutedExperts = False,
    experts: Experts = None,
    single_rank: SingleRank = False,
) -> None:
    """Check a placement from elsewhere: valid, how balanced, how far from the best possible."""
    from moeopt.commands import check_file
    from moeopt.report.settings import ranges
    from solvers import SOLVERS

    told = check_file(
        file, trace, gpus, engine=engine, layer_ids=ranges("layer_ids", layer_ids), nodes=nodes, groups=groups,
        solver=partial(SOLVERS["solve"], time_limit=time_limit) if exact else None,
        reading={"routed_experts": routed_experts, "num_experts": experts, "single_rank": single_rank},
    )  # fmt: skip
    print(told)


@app.command()
def submit(
    instance: Annotated[str, Option(help="A name of docs/instances.md.")],
    by: Annotated[str, Option(help="Who found it, and how, for the table.")],
    file: Annotated[str | None, Argument(help="A placement, of any format that can be read.")] = None,
    certificates: Annotated[str | None, Option(help="A bound with its proof, for docs/verify.py.")] = None,
    records: Annotated[Path | None, Option(help="Folder of the records. [default: the checkout's]")] = None,
) -> None:
    """Submit a better placement or bound of a named instance: checked exactly, then written for a pull request."""
    from moeopt.challenge import submit
    from moeopt.records import RECORDS

    print(submit(instance, file, certificates, by=by, records=records or RECORDS))


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def benchmark(context: typer.Context) -> None:
    """Measure speed, quality, cold start, memory and growth; needs a checkout of the repository."""
    from moeopt.errors import InputError

    if not BENCHMARK.is_file():
        raise InputError(
            "benchmark needs a checkout of the repository, as it compares with the plain versions among its tests; "
            "there, run python scripts/benchmark.py"
        )
    # A process of its own: numpy and torch must not be loaded before their threads are limited.
    raise typer.Exit(subprocess.call([sys.executable, str(BENCHMARK), *context.args]))


def script(name: str, arguments: Sequence[str]) -> int:
    """Run the sub-command of a script, ``scripts/gap_report.py`` for ``gap_report``; see :func:`exit_code`."""
    command = ("python", f"scripts/{name}.py", *arguments)
    return exit_code(app, [name.replace("_", "-"), *arguments], "moeopt", command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``moeopt``; see :func:`exit_code`."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return exit_code(app, arguments, "moeopt", ("moeopt", *arguments))
