"""The benchmark runs on a tiny trace, and what does not depend on the clock is right."""

import json
from dataclasses import replace

import numpy as np
import pytest
from benchmarking.command import main
from benchmarking.measure import alternate, balancer_rows, duel, exact_row, exponent, growth_rows
from benchmarking.page import page
from benchmarking.records import Facts, OpenLayer, Results
from benchmarking.rivals import duels, numpy_eplb
from benchmarking.tables import balancer_table, exact_table, growth_table, open_table

from moeopt import PlacementProblem, rebalance_experts
from moeopt.balancers import BALANCERS
from moeopt.bounds import Bound
from moeopt.report.machine import Machine
from solvers import SOLVERS


@pytest.fixture(scope="module")
def loads():
    return np.random.default_rng(3).integers(1, 10**6, (3, 16))


@pytest.fixture(scope="module")
def problem(loads):
    return PlacementProblem(loads, num_gpus=4, num_slots=20, allow_empty_slots=True)


@pytest.fixture(scope="module")
def trace(tmp_path_factory, loads):
    path = tmp_path_factory.mktemp("trace") / "tiny.json"
    path.write_text(json.dumps({"logical_count": loads.tolist()}))
    return path


def test_one_run_writes_the_page_and_its_pictures_and_nothing_else(tmp_path, trace, capsys):
    out = tmp_path / "out"
    peer = tmp_path / "engine.py"
    peer.write_text("from moeopt import rebalance_experts\n")
    options = ["--trace", trace, "--settings", "4/16,4/20", "--methods", "eplb,bldm", "--peer", peer, "--out", out]
    assert main([*map(str, options), "--quick", "--no-fresh", "--no-exact"]) == 0
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    figures = {f"figures/performance/{name}.png" for name in ("speed_quality", "scaling")}
    assert written == {"performance.md", *figures}
    text = (out / "performance.md").read_text()
    assert all(f"]({name})" in text for name in figures)
    for row in ("| 8 / 16 | engine |", "| 8 / 16 | plain BLDM in lists |", "| 4 / 20 |", "### tiny"):
        assert row in text
    assert "python scripts/benchmark.py --trace" in text
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "balancers: tiny" in captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--settings", "8x256"], "--settings must be GPUs/slots"),
        (["--settings", "0/256"], "--settings must be GPUs/slots"),
        (["--methods", "magic"], "--methods 'magic' is unknown"),
        (["--repeats", "0"], "--repeats must be >= 1"),
        (["--time-limit", "nan"], "--time-limit must be"),
        (["--trace", "missing.json"], "missing.json"),
        (["--peer", "missing.py"], "missing.py is not a Python file"),
        (["--layers", "99"], "--layers 99"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_arguments_end_with_2_one_line_and_no_file(tmp_path, capsys, arguments, reason):
    assert main([*arguments, "--quick", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("num_gpus", "num_slots"), [(4, 16), (4, 20), (16, 16), (10, 30)])
def test_the_numpy_version_places_as_the_drop_in_does(loads, num_gpus, num_slots):
    expected = rebalance_experts(loads, num_slots, 1, 1, num_gpus)[0].numpy()
    assert np.array_equal(numpy_eplb(loads, num_slots, num_gpus), expected)


def test_plain_versions_place_as_ours_do_on_loads_without_ties(problem):
    rows = list(duels(problem.load, 4, 20, {}))
    assert [row.rival for row in rows] == ["plain EPLB in torch", "plain EPLB in numpy", "plain BLDM in lists"]
    assert [row.same for row in rows] == [1.0, 1.0, 1.0]


def test_calls_take_turns_and_the_order_changes_from_round_to_round():
    turns = []

    def call(name):
        if turns[-1:] != [name]:
            turns.append(name)

    taken = alternate({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3)
    assert turns == ["a", "b", "a", "b"]  # a b, b a, a b: a turn that follows itself counts once
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_a_duel_states_how_many_times_as_fast_ours_is():
    row = duel(2, 8, ("slow", lambda: sum(range(300_000))), ("fast", lambda: sum(range(3_000))), 3, 1.0)
    assert row.times_low <= row.times <= row.times_high
    assert (row.num_gpus, row.num_slots, row.rival, row.ours, row.same) == (2, 8, "slow", "fast", 1.0)


def test_quality_of_a_balancer_is_that_of_its_placement_and_a_given_bound_counts(problem):
    plain = {row.method: row.measured for row in balancer_rows(problem, {"eplb": BALANCERS["eplb"]}, rounds=1)}
    eplb = BALANCERS["eplb"](problem)
    share = np.take_along_axis(problem.load.values / eplb.replica_count, eplb.phy2log, axis=1)
    gpus = share.reshape(3, 4, 5).sum(axis=2)
    imbalance = gpus.max(axis=1) / gpus.mean(axis=1)
    assert plain["eplb"].mean_imbalance == pytest.approx(imbalance.mean())
    assert plain["eplb"].worst_imbalance == pytest.approx(imbalance.max())
    proven = Bound(gpus.max(axis=1), ("elsewhere",) * 3)
    judged = balancer_rows(problem, {"eplb": BALANCERS["eplb"]}, rounds=1, bound=proven)[0].measured
    assert judged.max_gap == 0
    assert judged.proven == 1


def test_a_method_that_refuses_a_setting_has_dashes(problem):
    odd = problem.load.values[:, :15]
    some = {name: BALANCERS[name] for name in ("eplb", "hot_replication")}
    rows = balancer_rows(PlacementProblem(odd, 4, 16, allow_empty_slots=True), some, rounds=1)
    refused = [row for row in rows if row.measured is None]
    assert [row.method for row in refused] == ["hot_replication"]
    assert "multiple of num_gpus=4" in refused[0].note
    assert "| hot_replication | - | - |" in balancer_table(rows)


def test_what_the_exact_method_proved_is_counted_and_what_it_left_is_an_interval(loads):
    problem = PlacementProblem(loads[:, :6], num_gpus=2)
    row = exact_row(problem, SOLVERS["cpsat"](problem, time_limit=20))
    assert sum(count for _, count in row.closed) == row.proven == 3
    assert "| 2 / 6 | 3/3 |" in exact_table([row])
    assert open_table([row]) == "Every layer is proven."
    half_done = replace(row, proven=2, still_open=(OpenLayer(7, 100.0, 110.0, 0.1),))
    assert "| 2 / 6 | 7 | 100 | 110 | 10.000 |" in open_table([half_done])


def test_growth_is_the_power_of_the_size():
    sizes = [1, 10, 100, 1000]
    assert exponent(sizes, [9, 1, 10, 100]) == pytest.approx(1)
    assert exponent(sizes, [1, 100, 1e4, np.nan]) == pytest.approx(2)
    assert np.isnan(exponent(sizes, [1, 1, np.nan, np.nan]))


def test_a_method_that_could_take_too_long_is_left_out_from_there_on():
    rows = growth_rows({"eplb": BALANCERS["eplb"]}, [(16, 2, 16), (32, 4, 32), (64, 8, 64)], longest=0.0)
    assert rows[0].seconds["eplb"] > 0
    assert np.isnan(rows[1].seconds["eplb"])
    assert np.isnan(rows[2].seconds["eplb"])
    assert "| 32 | 4 | 32 | - | - |" in growth_table(rows)


def test_lines_put_together_stay_within_100_columns(problem):
    rows = balancer_rows(problem, BALANCERS, rounds=1)
    facts = Facts(
        command=("python",), date="today", machine=Machine("p", "c", 2), cluster=None, versions={"numpy": "2"},
        traces={"tiny": "here"}, layers=3, impossible=(), repeats=1, time_limit=1.0,
    )  # fmt: skip
    text = page(Results(balancers=rows), facts, [])
    assert max(map(len, text.splitlines())) <= 105
