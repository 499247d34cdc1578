"""Exact methods on a real Dask cluster on loopback: same numbers as on this machine, whoever is lost."""

import json
import os
import signal
import sys

import joblib
import numpy as np
import pandas as pd
import pytest

from moeopt import PlacementProblem
from moeopt.cli import main
from moeopt.cluster import connected
from moeopt.errors import InputError
from solvers import solve_cpsat

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes of one thread each."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", silence_logs=50, **options) as started:
        yield started


@pytest.fixture(scope="module")
def problem():
    loads = np.random.default_rng(5).integers(1, 1000, (40, 8))
    return PlacementProblem(loads, num_gpus=3, num_slots=9, allow_empty_slots=True)


def same(one, other):
    """Whether two solutions say the same; they took different times."""
    return (one.placement, one.bound, one.status) == (other.placement, other.bound, other.status)


def test_layers_run_in_the_workers_processes(cluster):
    with connected(cluster.scheduler_address) as found:
        pids = set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4)))
    assert (found.workers, found.threads) == (2, 2)
    assert os.getpid() not in pids


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_the_numbers_are_those_of_this_machine_even_if_a_worker_is_killed_in_the_middle(cluster, problem):
    alone = solve_cpsat(problem)
    with connected(cluster.scheduler_address):
        assert same(solve_cpsat(problem), alone)
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        victim, _ = client.run(os.getpid).values()
    done, done_before_the_kill = [], []

    def kill_one(layers):
        done.append(layers)
        if len(done) > 2 and not done_before_the_kill:
            os.kill(victim, signal.SIGKILL)
            done_before_the_kill.append(sum(done))

    with connected(cluster.scheduler_address):
        found = solve_cpsat(problem, progress=kill_one)
    assert 0 < done_before_the_kill[0] < problem.num_layers
    assert same(found, alone)
    assert sum(done) == problem.num_layers


def test_a_report_from_the_cluster_has_the_same_numbers_and_says_where_they_come_from(cluster, tmp_path, capsys):
    trace = tmp_path / "tiny.json"
    trace.write_text(json.dumps(np.random.default_rng(3).integers(1, 1000, (4, 8)).tolist()))
    common = ["gap-report", "--trace", str(trace), "--gpus", "2", "--methods", "eplb,cpsat", "--repeats", "1"]
    assert main([*common, "--out", str(tmp_path / "here")]) == 0
    assert main([*common, "--out", str(tmp_path / "there"), "--cluster", cluster.scheduler_address]) == 0
    tables = [pd.read_csv(tmp_path / name / "layers.csv").drop(columns="runtime_ms") for name in ("here", "there")]
    pd.testing.assert_frame_equal(*tables)
    assert "exact methods ran on 2 workers" in capsys.readouterr().out
    assert "an exact method runs once, on 2 workers" in (tmp_path / "there" / "report.md").read_text()
    record = json.loads((tmp_path / "there" / "run.json").read_text())
    assert record["cluster"] == {"address": cluster.scheduler_address, "workers": 2, "threads": 2}


def test_an_address_where_nobody_answers_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("moeopt.cluster.PATIENCE", 0.5)
    with (
        pytest.raises(InputError, match=r"cluster=tcp://127\.0\.0\.1:9: no scheduler answers"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_the_extra_the_error_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["gap-report", "--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --cluster needs the package distributed: pip install 'moeopt[cluster]'\n"


def test_jobs_and_cluster_exclude_each_other(tmp_path, capsys):
    assert main(["gap-report", "--cluster", "x", "--jobs", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--jobs and --cluster exclude each other" in capsys.readouterr().err
