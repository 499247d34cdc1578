"""``moeopt plan``, ``convert`` and ``check``: files in, files out, one line for what cannot be."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from moeopt import cli
from moeopt.traces import Trace, read_placement, read_trace
from tests.traces import engines

LAYERS, DENSE, EXPERTS, GPUS, SLOTS = 6, 2, 16, 4, 20
TRACE = Trace(np.random.default_rng(0).permuted([[[12] * 4 + [6] * 12] * (LAYERS - DENSE)] * 2, axis=2))
"""Loads that can be shared evenly, or nearly so, in no time."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with loads as SGLang dumps them, the same of the MoE layers alone, and a plan for others."""
    folder = tmp_path_factory.mktemp("files")
    counts = np.zeros((2, LAYERS, EXPERTS), int)
    counts[:, DENSE:] = TRACE.windows
    (folder / "loads.json").write_text(json.dumps({"logical_count": counts.tolist()}))
    np.save(folder / "moe_layers.npy", TRACE.windows)
    np.save(folder / "older.npy", np.roll(counts, 3, axis=2))
    assert run(plan("older.npy", "sglang", "current.json"), folder) == 0
    return folder


@pytest.fixture
def there(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


def plan(trace, engine, out, *options):
    shape = ["--gpus", GPUS, "--slots", SLOTS, "--model-layers", LAYERS]
    return ["plan", "--trace", trace, "--engine", engine, "--out", out, *shape, *options]


def run(arguments, folder=Path()):
    paths = ("--trace", "--out", "--reference")
    whole = [
        folder / value if before in paths and folder != Path() else value
        for before, value in zip([None, *arguments], arguments, strict=False)
    ]
    return cli.main([str(value) for value in whole])


def refused(arguments, capsys):
    """The one line of an error, nothing written."""
    before = sorted(Path().iterdir())
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
    return shown.err


def test_a_plan_is_written_for_every_layer_of_the_model_and_told(there, capsys):
    assert run(plan("loads.json", "sglang", "new.json", "--reference", "current.json", "--expert-bytes", 10**9)) == 0
    told = capsys.readouterr().out
    assert "4 layers of 16 experts on 4 GPUs: 20 slots, 5 per GPU, 4 redundant" in told
    assert "with the reference" in told
    assert "moves " in told
    assert "GB in all layers together" in told
    assert "written: new.json, 4 layers, 2 to 5 of 6" in told
    rows = json.loads((there / "new.json").read_text())["physical_to_logical_map"]
    assert len(rows) == LAYERS
    assert all(set(row) == set(range(EXPERTS)) for row in rows)


def test_the_gigabytes_are_those_of_the_transfers(there, capsys):
    run(plan("loads.json", "sglang", "new.json", "--reference", "current.json", "--expert-bytes", 10**9))
    told = capsys.readouterr().out
    sent = 0
    pairs = [
        read_placement(there / name, EXPERTS, GPUS, layer_ids=range(2, 6)) for name in ("current.json", "new.json")
    ]
    for old, new in zip(pairs[0].by_gpu, pairs[1].by_gpu, strict=True):
        sent += sum(len(set(after) - set(before)) for before, after in zip(old.tolist(), new.tolist(), strict=True))
    assert f"to receive: {sent:.3f} GB in all layers together" in told


def test_fewest_moves_and_a_budget_of_moves_move_less(there, capsys):
    def moves(*options):
        assert run(plan("loads.json", "sglang", "few.json", "--reference", "current.json", *options)) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("moves ")]
        return int(line.split()[1])

    most = moves()
    assert moves("--within", 0.05) < most
    assert moves("--max-moves", 1) <= LAYERS - DENSE


@pytest.mark.parametrize("engine", ["sglang", "vllm", "vllm-jsonl", "trtllm", "ascend", "omni", "npz", "csv"])
def test_every_engine_is_planned_for_checked_and_converted(engine, there, capsys):
    assert run(plan("loads.json", engine, "planned")) == 0
    assert run(["check", "planned", "--trace", "loads.json", "--gpus", GPUS, "--engine", engine]) == 0
    assert "valid: 4 layers" in capsys.readouterr().out
    numbers = ["--layer-ids", "2-5", "--experts", EXPERTS, "--gpus", GPUS]
    assert run(["convert", "planned", "npz", "--engine", "npz", *numbers]) == 0
    assert run(["convert", "npz", "back", "--engine", engine, *numbers, "--model-layers", LAYERS]) == 0
    assert (there / "back").read_bytes() == (there / "planned").read_bytes()


def test_exact_methods_sharpen_what_is_proven(there, capsys):
    assert run(["convert", "current.json", "ours.csv", "--engine", "csv", *NUMBERS, "--layer-ids", "2-5"]) == 0
    for options in ([], ["--exact"]):
        assert run(["check", "ours.csv", "--trace", "loads.json", "--gpus", GPUS, *options]) == 0
    assert run(plan("loads.json", "vllm", "exact.json", "--method", "solve", "--time-limit", 1)) == 0
    assert "at most 0.000 % above the best possible" in capsys.readouterr().out.splitlines()[-2]


def test_tensorrt_llms_layer_numbers_survive_a_conversion(there):
    assert run(plan("loads.json", "trtllm", "a.yaml")) == 0
    numbers = ["--experts", EXPERTS, "--gpus", GPUS]
    assert run(["convert", "a.yaml", "a.json", "--engine", "sglang", *numbers]) == 0
    rows = json.loads((there / "a.json").read_text())["physical_to_logical_map"]
    assigned = yaml.safe_load((there / "a.yaml").read_text())["initial_global_assignments"]
    assert {layer: rows[layer] for layer in assigned} == assigned
    assert len(rows) == LAYERS


def test_loads_are_converted_with_their_layer_numbers(there, capsys):
    for name in ("json", "npy", "npz"):
        assert run(["convert", "loads.json", f"copy.{name}", "--loads", name]) == 0
        back = read_trace(there / f"copy.{name}")
        assert np.array_equal(back.windows, TRACE.windows)
        assert back.layer_ids == (2, 3, 4, 5)
    assert run(["convert", "moe_layers.npy", "numbered.json", "--loads", "json", "--layer-ids", "2-5"]) == 0
    assert read_trace(there / "numbered.json").layer_ids == (2, 3, 4, 5)


def test_empty_slots_are_filled_where_loads_are_given(there, capsys):
    (there / "empty.csv").write_text("\n".join([",".join(map(str, [*range(16), -1, -1, 3, -1]))] * 4))
    convert = ["convert", "empty.csv", "full.json", "--engine", "sglang", "--experts", EXPERTS, "--gpus", GPUS]
    message = refused([*convert, "--layer-ids", "2-5"], capsys)
    assert "layer 2: slot 16 (GPU 3) is empty, and SGLang knows no empty slots" in message
    assert "moeopt convert --trace" in message
    assert run([*convert, "--layer-ids", "2-5", "--trace", "loads.json"]) == 0
    full = read_placement(there / "full.json", EXPERTS, GPUS, layer_ids=range(2, 6))
    assert (full.phy2log[:, [*range(16), 18]] == [*range(16), 3]).all()
    (there / "full.json").unlink()


def test_the_share_of_one_rank_is_planned_for_only_where_somebody_insists(there, capsys):
    engines.sglang_ranks(there / "ranks")
    alone = next(iter((there / "ranks").iterdir()))
    options = ["--gpus", 2, "--engine", "vllm", "--out", "ranks.json"]
    message = refused(["plan", "--trace", alone, *options], capsys)
    assert "--single-rank" in message
    assert run(["plan", "--trace", alone, *options, "--single-rank"]) == 0
    assert run(["plan", "--trace", there / "ranks", *options]) == 0
    assert run(["check", "ranks.json", "--trace", there / "ranks", "--gpus", 2]) == 0


def test_routed_experts_are_converted_to_windows_of_loads(there, capsys):
    ids = engines.routed(tokens=10)
    np.save(there / "routed.npy", ids)
    convert = ["convert", "routed.npy", "windows.npz", "--loads", "npz"]
    assert run([*convert, "--routed-experts", "--experts", engines.EXPERTS, "--window-tokens", 4]) == 0
    trace = read_trace(there / "windows.npz")
    assert trace.num_windows == 3
    assert np.array_equal(trace.total().values, engines.counted(ids))


def test_a_method_from_a_file_plans(there, capsys):
    (there / "mine.py").write_text(
        "def backwards(weight, num_replicas, num_groups, num_nodes, num_gpus):\n"
        "    import torch\n"
        "    return (torch.arange(num_replicas).flip(0) % weight.shape[1]).repeat(len(weight), 1)\n"
    )
    assert run(plan("loads.json", "csv", "mine.csv", "--method", "mine.py:backwards")) == 0
    assert (there / "mine.csv").read_text().startswith("3,2,1,0,15,14,")


def test_a_shape_that_does_not_divide_is_planned(there, capsys):
    assert run(["plan", "--trace", "loads.json", "--gpus", 3, "--engine", "vllm", "--out", "three.json"]) == 0
    assert "16 experts do not divide by 3 GPUs: 18 is the least" in capsys.readouterr().out
    assert np.array(json.loads((there / "three.json").read_text())).shape == (4, 18)


@pytest.mark.parametrize(("engine", "suffix"), [("sglang", ".json"), ("ascend", ".json"), ("trtllm", ""), ("npz", "")])
def test_a_name_that_its_engine_does_not_take_is_told(engine, suffix, there, capsys):
    for name in ("named", "named.json"):
        assert run(plan("loads.json", engine, name)) == 0
        assert ("must end with" in capsys.readouterr().out) == bool(suffix and not name.endswith(suffix))


NUMBERS = ["--experts", EXPERTS, "--gpus", GPUS]
REFUSED = {
    "no such trace": (plan("none.json", "sglang", "x"), "none.json: cannot be read"),
    "no such reference": (plan("loads.json", "sglang", "x", "--reference", "none"), "none: cannot be read"),
    "a reference of other experts": (
        plan("loads.json", "sglang", "x", "--reference", "loads.json"),
        "loads.json: no physical_to_logical_map",
    ),
    "an unknown engine": (plan("loads.json", "magic", "x"), "--engine 'magic' is unknown; there are sglang"),
    "an unknown method": (plan("loads.json", "vllm", "x", "--method", "magic"), "--method 'magic' is unknown"),
    "a folder to write": (plan("loads.json", "vllm", "."), "cannot write ."),
    "nodes alone": (plan("loads.json", "vllm", "x", "--nodes", 2), "--nodes and --groups belong together"),
    "moves from nowhere": (plan("loads.json", "vllm", "x", "--max-moves", 2), "--max-moves needs a reference"),
    "bytes from nowhere": (plan("loads.json", "vllm", "x", "--expert-bytes", 2), "--expert-bytes needs a reference"),
    "loads of other layers": (
        ["convert", "current.json", "x", "--engine", "npz", *NUMBERS, "--trace", "loads.json"],
        "--trace loads.json has no loads of layer 0",
    ),
    "layers that are only counted": (
        plan("moe_layers.npy", "sglang", "x"),
        "--layer-ids must say which of the model's 6 layers the 4 of moe_layers.npy are, .* such as 2-5",
    ),
    "too many layer numbers": (
        plan("moe_layers.npy", "sglang", "x", "--layer-ids", "2-6"),
        "--layer-ids names 5 layers, and moe_layers has 4",
    ),
    "layer numbers in words": (plan("loads.json", "sglang", "x", "--layer-ids", "3-"), "--layer-ids must be integers"),
    "falling layer numbers": (plan("loads.json", "sglang", "x", "--layer-ids", "5-2"), "--layer-ids must be .*rising"),
    "a model of fewer layers": (
        ["plan", "--trace", "loads.json", "--gpus", 4, "--engine", "trtllm", "--out", "x", "--model-layers", 4],
        "--model-layers=4, and loads.json has layer 5",
    ),
    "rows that cannot be told apart": (
        ["check", "current.json", "--trace", "moe_layers.npy", "--gpus", GPUS],
        "--layer-ids must say which of the 6 rows of current.json the 4 layers of moe_layers are",
    ),
    "no kind to convert to": (["convert", "current.json", "x"], "convert needs engine, for a placement, or loads"),
    "two kinds": (["convert", "current.json", "x", "--engine", "npz", "--loads", "npy"], "one of the two"),
    "no experts": (["convert", "current.json", "x", "--engine", "npz"], "--experts and --gpus are needed"),
    "a layer that is not there": (
        ["convert", "current.json", "x", "--engine", "npz", *NUMBERS, "--layer-ids", "4-6"],
        "current.json: has 6 rows and none for layer 6; 3 layers are wanted",
    ),
    "an unknown format": (["convert", "loads.json", "x", "--loads", "pt"], "unknown; there are json, npy, npz"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(case, there, capsys):
    arguments, rule = REFUSED[case]
    message = refused(arguments, capsys)
    assert re.search(rule, message), message


def test_rows_of_the_moe_layers_alone_are_not_taken_for_a_file_of_sglang(there, capsys):
    """The old mistake: with these, SGLang would give layers other layers' rows without a word."""
    rows = json.loads((there / "current.json").read_text())["physical_to_logical_map"]
    (there / "short.json").write_text(json.dumps({"physical_to_logical_map": rows[2:]}))
    message = refused(["check", "short.json", "--trace", "loads.json", "--gpus", GPUS, "--engine", "sglang"], capsys)
    assert "has 4 rows, and SGLang finds layer 5 by its number" in message
    assert run(["check", "short.json", "--trace", "loads.json", "--gpus", GPUS]) == 0


def test_an_invalid_placement_is_one_line_with_layer_and_rule(there, capsys):
    rows = [[*range(16), 0, 1, 2, 3] for _ in range(4)]
    rows[1][5] = 4
    (there / "lacking.json").write_text(json.dumps(rows))
    message = refused(["check", "lacking.json", "--trace", "loads.json", "--gpus", GPUS], capsys)
    assert message == "error: lacking.json: layer 3: expert 5 has no slot\n"


def test_the_script_is_the_same_command(there, capsys):
    sys_path = str(Path(cli.BENCHMARK).parent)
    assert sys_path in sys.path
    from plan import main

    assert main([str(value) for value in plan("loads.json", "vllm", "script.json")[1:]]) == 0
    assert "written: script.json, 4 layers" in capsys.readouterr().out


@pytest.mark.slow
def test_reports_and_replays_read_what_engines_record_too(there, capsys):
    ids = engines.routed(tokens=40, layers=2)
    np.save(there / "routed.npy", ids)
    tokens = ["--trace", "routed.npy", "--routed-experts", "--experts", engines.EXPERTS, "--gpus", 2, "--quiet"]
    assert run(["gap-report", *tokens, "--slots", 8, "--methods", "eplb", "--out", "report"]) == 0
    assert (there / "report" / "run.json").is_file()
    assert run(["replay", *tokens, "--window-tokens", 2, "--policy", "eplb every=4", "--out", "replay"]) == 0
    assert list((there / "replay").iterdir())
