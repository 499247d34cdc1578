"""``moeopt replay`` as its user meets it."""

import json

import numpy as np
import pandas as pd
import pytest

from moeopt.cli import main
from moeopt.report.files import is_whole
from moeopt.report.page.shell import data_of
from moeopt.traces import generate

POLICIES = ["--policy", "eplb every=4", "--policy", "repair every=4 moves=1"]


@pytest.fixture
def recorded(tmp_path):
    windows = generate("decode", num_layers=2, num_experts=8, tokens=40, num_windows=14, seed=2).windows
    np.save(tmp_path / "steps.npy", windows)
    return tmp_path / "steps.npy"


def test_a_trace_becomes_an_answer_a_page_and_its_pictures(recorded, tmp_path, capsys):
    out = tmp_path / "worth"
    prices = ["--expert-bytes", "1e6", "--bandwidth", "1e9", "--layer-step-seconds", "0.01"]
    assert main(["replay", "--trace", str(recorded), "--gpus", "4", "--out", str(out), *POLICIES, *prices]) == 0
    shown = capsys.readouterr().out
    assert "at 0.1 balanced layer-steps per move" in " ".join(shown.split())
    assert is_whole(out)
    page = (out / "replay.md").read_text()
    assert page.startswith("# Is rebalancing worth it?")
    assert "moeopt replay --trace" in page
    for name in ("cost", "slots", "slot_budget"):
        assert f"](figures/{name}.png)" in page
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(out / "replay.csv")
    explored = data_of((out / "replay.html").read_bytes())
    assert [policy["name"] for policy in explored["policies"]] == table.policy.tolist()
    assert [policy["cost"] for policy in explored["policies"]] == table.cost.tolist()
    assert table.policy.tolist() == ["never", "once", "eplb every 4", "repair every 4, 1 move"]
    record = json.loads((out / "run.json").read_text())
    assert record["move_price"] == pytest.approx(0.1)
    assert record["trace"]["layers"] == 2


def test_the_price_taken_where_none_is_given_is_said(recorded, tmp_path, capsys):
    assert main(["replay", "--trace", str(recorded), "--gpus", "4", "--out", str(tmp_path / "out"), *POLICIES]) == 0
    assert "No price of a move was given; 0.3 is about that of the published" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_placement_in_force_is_kept_by_never_and_left_for_a_price(recorded, tmp_path, capsys):
    placement = tmp_path / "now.csv"
    placement.write_text("0,1,2,3,4,5,6,7\n7,6,5,4,3,2,1,0\n")
    out = tmp_path / "out"
    options = ["--gpus", "4", "--reference", str(placement), "--policy", "eplb", "--move-price", "1", "--quiet"]
    assert main(["replay", "--trace", str(recorded), "--out", str(out), *options]) == 0
    rows = pd.read_csv(out / "replay.csv").set_index("policy")
    assert rows.moves["never"] == 0 < rows.moves["eplb once"]
    assert "First plans are paid for like all others" in (out / "replay.md").read_text()
    assert main(["replay", "--trace", str(recorded), "--out", str(out), *options, "--slots", "12"]) == 2
    assert "reference has num_slots=8, and num_slots=12 are asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "magic"], "policy 'magic': methods 'magic' is unknown"),
        (["--warmup", "14"], "--warmup=14 leaves none of 14 steps to serve"),
        (["--gpus", "3", "--slots", "8"], "num_slots=8 is not a multiple of num_gpus=3"),
        (["--bandwidth", "1e9"], "belong together; expert_bytes is missing"),
        (["--nodes", "2"], "--nodes and --groups belong together"),
        (["--dispatch", "magic"], "dispatch"),
        (["--charge-planning"], "needs layer_step_seconds"),
        (["--trace", "none.npy"], "none.npy"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_and_nothing_is_written(recorded, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert main(["replay", "--trace", str(recorded), "--gpus", "4", "--out", str(out), "--quiet", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
