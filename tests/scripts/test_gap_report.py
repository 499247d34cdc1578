import csv
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moeopt.balancers import contiguous
from moeopt.bounds import Bound, mean_load
from moeopt.report.page.shell import data_of
from moeopt.solution import Solution
from moeopt.verify.document import main as outsider
from solvers import SOLVERS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gap_report.py"
METHODS = "contiguous,eplb,bldm,hot_replication,minimize_moves,relabel,local_search,cpsat"
LAYER_COLUMNS = (
    "trace,num_gpus,num_slots,layer,method,status,makespan,mean_load,lower_bound,"
    "bound_source,gap,imbalance,balancedness,moves,runtime_ms"
)
SUMMARY_COLUMNS = (
    "trace,num_gpus,num_slots,method,mean_gap,max_gap,step_gap,mean_imbalance,sigma,moves,share_optimal,"
    "runtime_ms_mean,runtime_ms_std,runtime_ms_min,runtime_ms_max,runtime_ms_median"
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gap_report_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loads():
    return np.random.default_rng(3).integers(1, 1000, (3, 16))


@pytest.fixture(scope="module")
def trace(tmp_path_factory, loads):
    """A dense layer comes first, so the MoE layers have the ids 1, 2 and 3."""
    path = tmp_path_factory.mktemp("trace") / "tiny.json"
    path.write_text(json.dumps({"logical_count": [[0] * 16, *loads.tolist()]}))
    return path


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


@pytest.fixture(scope="module")
def report(tmp_path_factory, trace):
    out = tmp_path_factory.mktemp("out") / "report"
    arguments = ("--trace", trace, "--gpus", "3,4", "--slots", "16,20", "--methods", METHODS, "--time-limit", "0.3")
    arguments += ("--out", out)
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return out, result


def makespan_of(row, load, num_gpus):
    """The evaluator written a second time, in plain Python, sharing nothing with the package."""
    copies = {expert: row.count(expert) for expert in row if expert >= 0}
    size = len(row) // num_gpus
    gpus = [row[g * size : (g + 1) * size] for g in range(num_gpus)]
    assert set(copies) == set(range(len(load)))
    return max(sum(load[e] / copies[e] for e in gpu if e >= 0) for gpu in gpus)


def test_makespans_recomputed_from_the_written_placements_are_those_of_the_table(report, loads):
    out, _ = report
    by_layer = {1 + i: row for i, row in enumerate(loads.tolist())}
    seen = 0
    table = pd.read_csv(out / "layers.csv")
    for (gpus, slots, method), rows in table.groupby(["num_gpus", "num_slots", "method"]):
        file = out / "placements" / f"tiny_{gpus}gpus_{slots}slots_{method}.csv"
        if rows.makespan.isna().all():
            assert not file.exists()
            continue
        slots = [[int(cell) for cell in line.split(",")] for line in file.read_text().splitlines()]
        for row, layer, expected in zip(slots, rows.layer, rows.makespan, strict=True):
            assert makespan_of(row, by_layer[layer], gpus) == pytest.approx(expected, rel=1e-12)
            seen += 1
    assert seen >= 40


def test_tables_have_the_promised_columns_and_a_row_for_everything(report):
    out, _ = report
    layers, summary = pd.read_csv(out / "layers.csv"), pd.read_csv(out / "summary.csv")
    assert set(LAYER_COLUMNS.split(",")) <= set(layers)
    assert set(SUMMARY_COLUMNS.split(",")) <= set(summary)
    assert sorted(layers.layer.unique()) == [1, 2, 3]
    assert len(summary) == 2 * len(METHODS.split(","))
    assert len(layers) == 3 * len(summary)
    assert layers[layers.makespan.isna()].note.notna().all()


def test_all_methods_share_one_bound_that_none_beats(report):
    layers = pd.read_csv(report[0] / "layers.csv")
    assert (layers.groupby(["num_gpus", "num_slots", "layer"]).lower_bound.nunique() == 1).all()
    assert not (layers.makespan < layers.lower_bound * (1 - 1e-12)).any()


def test_every_setting_has_its_pictures_and_the_text_names_them(report):
    out, _ = report
    text = (out / "report.md").read_text()
    names = {path.name for path in (out / "figures").iterdir()}
    assert len(names) == 2 * 4
    assert all(f"](figures/{name})" in text for name in names)
    assert all((out / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_page_to_explore_has_the_summary_of_every_setting_and_method(report):
    out, _ = report
    settings = data_of((out / "report.html").read_bytes())["settings"]
    rows = [(one["gpus"], one["slots"], method["name"]) for one in settings for method in one["methods"]]
    summary = pd.read_csv(out / "summary.csv")
    assert all((out / method["file"]).exists() for one in settings for method in one["methods"] if method["slots"])
    assert rows == list(zip(summary.num_gpus, summary.num_slots, summary.method, strict=True))


def test_the_record_names_arguments_hash_versions_and_files(report, trace):
    out, _ = report
    record = json.loads((out / "run.json").read_text())
    assert record["traces"][0]["sha256"] == hashlib.sha256(trace.read_bytes()).hexdigest()
    assert record["traces"][0]["layer_ids"] == [1, 2, 3]
    assert record["arguments"]["gpus"] == [3, 4]
    assert {"python", "numpy", "ortools"} <= set(record["versions"])
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(record["files"]) | {"run.json"} == on_disk


def test_a_combination_that_does_not_divide_is_reported_and_not_fatal(report):
    out, result = report
    for text in (result.stdout, (out / "report.md").read_text()):
        assert "3 GPUs, 16 slots: num_slots=16 is not a multiple of num_gpus=3" in text


def test_progress_goes_to_stderr_and_tables_fit_100_columns(report):
    _, result = report
    assert "gap report" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "eplb" in result.stdout
    assert "…" not in result.stdout


def strip(path):
    """Rows of a table without the columns that are times."""
    with path.open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("runtime")} for row in csv.DictReader(file)]


def test_a_seed_gives_the_same_answers_and_replaces_the_earlier_report(script, tmp_path, trace):
    common = ["--trace", str(trace), "--layers", "1-2", "--quiet", "--repeats", "1"]
    runs = []
    for name in ("a", "b"):
        assert (
            script.main([*common, "--gpus", "4", "--methods", "eplb,local_search,cpsat", "--out", str(tmp_path / name)])
            == 0
        )
        runs.append({p.name: p.read_text() for p in (tmp_path / name / "placements").iterdir()})
    assert runs[0] == runs[1]
    assert strip(tmp_path / "a" / "layers.csv") == strip(tmp_path / "b" / "layers.csv")
    (tmp_path / "a" / "mine.txt").write_text("kept")
    assert script.main([*common, "--gpus", "2", "--methods", "eplb", "--out", str(tmp_path / "a")]) == 0
    assert [p.name for p in (tmp_path / "a" / "placements").iterdir()] == ["tiny_2gpus_16slots_eplb.csv"]
    assert (tmp_path / "a" / "mine.txt").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_moves_count_from_the_reference_given(script, tmp_path, trace):
    common = ["--trace", str(trace), "--gpus", "4", "--methods", "eplb", "--quiet", "--repeats", "1"]
    assert script.main([*common, "--out", str(tmp_path / "a")]) == 0
    placement = tmp_path / "a" / "placements" / "tiny_4gpus_16slots_eplb.csv"
    assert script.main([*common, "--reference", str(placement), "--layers", "2,3", "--out", str(tmp_path / "b")]) == 0
    assert (pd.read_csv(tmp_path / "a" / "layers.csv").moves > 0).all()
    assert pd.read_csv(tmp_path / "b" / "layers.csv").moves.tolist() == [0, 0]


def test_nodes_and_groups_tell_the_heuristics_fault_from_the_policys_price(script, tmp_path, trace, capsys):
    arguments = ["--trace", str(trace), "--gpus", "4", "--slots", "16", "--nodes", "2", "--groups", "4"]
    assert (
        script.main([*arguments, "--methods", "eplb,bldm,cpsat", "--repeats", "1", "--out", str(tmp_path / "a")]) == 0
    )
    layers = pd.read_csv(tmp_path / "a" / "layers.csv")
    assert (layers.policy_price >= 1).all()
    assert np.allclose(layers.policy_price, layers.lower_bound / layers.global_bound)
    assert pd.read_csv(tmp_path / "a" / "summary.csv").policy_price.notna().all()
    assert "Price of the policy" in capsys.readouterr().out


def test_verify_checks_everything_and_writes_what_an_outsider_needs(script, tmp_path, trace, loads, capsys):
    arguments = ["--trace", str(trace), "--gpus", "4", "--methods", "eplb,search", "--out", str(tmp_path / "a")]
    assert script.main([*arguments, "--verify"]) == 0
    assert "verified: 6 placements, 3 bounds proven exactly, 0 rest on a solver's search" in capsys.readouterr().out
    (setting,) = json.loads((tmp_path / "a" / "certificates.json").read_text())["settings"]
    assert setting["loads_sha256"] == hashlib.sha256(loads.astype("<i8").tobytes()).hexdigest()
    table = pd.read_csv(tmp_path / "a" / "layers.csv").set_index(["method", "layer"])
    for layer in setting["layers"]:
        assert layer["verdict"] == "proven"
        assert float(Fraction(layer["lower_bound"])) == table.lower_bound["eplb", layer["layer"]]
        assert layer["certificate"]["method"] == layer["bound_source"]
        for method, makespan in layer["placements"].items():
            assert float(Fraction(makespan)) == table.makespan[method, layer["layer"]]
    assert_an_outsider_sees_forged_slots(tmp_path / "a", setting["files"]["eplb"], capsys)
    assert script.main(arguments) == 0
    assert not (tmp_path / "a" / "certificates.json").exists(), "left from the earlier report"


def assert_an_outsider_sees_forged_slots(folder, name, capsys):
    certificates, slots = str(folder / "certificates.json"), folder / name
    assert outsider([certificates]) == 0
    assert "6 placements; bounds: 3 proven; 0 rejected" in capsys.readouterr().out
    first, *others = slots.read_text().split()
    slots.write_text("\n".join([first.replace("0", "1"), *others]))
    assert outsider([certificates]) == 1
    assert "eplb: REJECTED: expert 0 has no slot" in capsys.readouterr().out
    slots.write_text(first)
    assert outsider([certificates]) == 2
    assert "does not hold 3 rows of integers" in capsys.readouterr().err
    slots.unlink()
    assert outsider([certificates]) == 0
    assert "eplb: not checked: its file is not there" in capsys.readouterr().out


def test_verify_of_groups_on_nodes_checks_both_bounds(script, tmp_path, trace, capsys):
    arguments = ["--trace", str(trace), "--gpus", "4", "--slots", "20", "--nodes", "2", "--groups", "4"]
    methods = ["--methods", "eplb", "--repeats", "1"]
    assert script.main([*arguments, *methods, "--verify", "--out", str(tmp_path / "a")]) == 0
    assert "verified: 6 placements, 6 bounds proven exactly" in capsys.readouterr().out


def liar(problem, **options):
    """A method whose certificate proves less than it claims."""
    layers = problem.num_layers
    bound = Bound(1.001 * mean_load(problem), ("mean_load",) * layers, ({"method": "mean_load"},) * layers)
    return Solution(problem, contiguous(problem), bound)


def test_a_forged_certificate_is_reported_and_ends_with_1(script, tmp_path, trace, capsys, monkeypatch):
    monkeypatch.setitem(SOLVERS, "liar", liar)
    arguments = ["--trace", str(trace), "--gpus", "4", "--methods", "contiguous,liar", "--out", str(tmp_path / "a")]
    assert script.main([*arguments, "--verify"]) == 1
    shown = capsys.readouterr()
    assert "REJECTED: 3" in shown.out
    assert "shared bound, layer 1: REJECTED" in shown.err
    assert shown.err.count("error:") == 1
    (setting,) = json.loads((tmp_path / "a" / "certificates.json").read_text())["settings"]
    assert {layer["verdict"] for layer in setting["layers"]} == {"rejected"}
    assert script.main(arguments) == 0


def test_traces_of_one_name_get_distinct_names(script, tmp_path, trace):
    arguments = ["--trace", str(trace), "--trace", str(trace), "--gpus", "4", "--methods", "eplb", "--quiet"]
    assert script.main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert set(pd.read_csv(tmp_path / "a" / "summary.csv").trace) == {"tiny", "tiny-2"}
    assert len(list((tmp_path / "a" / "placements").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gpus", "0"], "--gpus must be integers >= 1"),
        (["--gpus", "eight"], "--gpus must be integers >= 1"),
        (["--gpus", "8,,16"], "--gpus must be integers >= 1"),
        (["--slots", "-16"], "--slots"),
        (["--gpus", "3", "--slots", "16"], "no setting is possible"),
        (["--gpus", "4", "--slots", "8"], "below num_experts=16"),
        (["--methods", "eplb,magic"], "'magic' is unknown; there are contiguous, eplb"),
        (["--methods", ""], "--methods must be names"),
        (["--layers", "7"], "--layers 7 is not in tiny"),
        (["--layers", "x"], "--layers must be layer ids"),
        (["--time-limit", "0"], "--time-limit must be"),
        (["--time-limit", "nan"], "--time-limit must be"),
        (["--time-limit", "soon"], "--time-limit"),
        (["--jobs", "0"], "--jobs must be >= 1"),
        (["--repeats", "0"], "--repeats must be >= 1"),
        (["--seed", "-1"], "--seed must be >= 0"),
        (["--seed", "99999999999999"], "--seed must be <= 2147483647"),
        (["--nodes", "2"], "--nodes and --groups belong together"),
        (["--groups", "2"], "--nodes and --groups belong together"),
        (["--nodes", "1", "--groups", "1"], "--nodes must be >= 2"),
        (["--gpus", "4", "--nodes", "3", "--groups", "4"], "num_gpus=4 is not a multiple of num_nodes=3"),
        (["--trace", "missing.json"], "missing.json"),
        (["--reference", "missing.json"], "missing.json"),
        (["--colour", "red"], "--colour"),
        (["stray"], "stray"),
    ],
)
def test_bad_arguments_end_with_2_one_line_and_no_file(script, tmp_path, trace, capsys, arguments, reason):
    code = script.main(["--trace", str(trace), "--out", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert reason in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[[1, -2]]", '{"logical_count": [[1, "a"]]}', "a,b\n1,2,3\n"])
def test_an_unreadable_trace_ends_with_2_and_names_the_file(script, tmp_path, capsys, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    assert script.main(["--trace", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "broken.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_refused_before_the_work(script, tmp_path, trace, capsys):
    (tmp_path / "out").write_text("mine")
    assert script.main(["--trace", str(trace), "--out", str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("below", [".", "report"])
def test_the_folder_that_is_read_takes_no_report(script, tmp_path, capsys, below):
    (tmp_path / "layer_0.csv").write_text("1,2,3,4\n")
    assert script.main(["--trace", str(tmp_path), "--gpus", "2", "--out", str(tmp_path / below)]) == 2
    assert "must not be, or lie in, the folder that is read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["layer_0.csv"]


def test_the_real_script_ends_with_2_and_one_line_for_bad_arguments(tmp_path):
    result = subprocess.run(command("--gpus", "x", "--out", tmp_path / "o"), capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interruption_ends_with_130_without_traceback_or_files(tmp_path):
    process = subprocess.Popen(
        command("--gpus", "160", "--slots", "320", "--methods", "solve", "--time-limit", "60", "--out", tmp_path / "o"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())
