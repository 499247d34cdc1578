"""Published balancers are held against the proven optimum, whatever they do."""

import itertools
import json
import math
import operator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from published.command import for_each, main, shapes
from published.measure import FLASHLB_EXAMPLE, OURS, contest, example
from published.page import ADVERTISED, faults, summary
from published.projects import read_projects
from published.tables import best, matrix, setting

from moeopt import Placement, PlacementProblem
from moeopt.balancers import BALANCERS
from moeopt.errors import InputError
from solvers import solve

SCRIPTS = Path(__file__).parents[2] / "scripts"
MINE = {name: BALANCERS[name] for name in OURS}

FILE = """
from moeopt import rebalance_experts

def ignoring_groups(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, 1, 1, num_gpus)

def without_groups(current_expert_table, expert_workload):
    return 0, [], current_expert_table
"""


def facts(function):
    named = {
        "project": "someone/balancer",
        "version": "1.2",
        "file": "b.py",
        "licence": "MIT",
        "source": "https://b.org",
    }
    return "".join(f'{key} = "{value}"\n' for key, value in {"function": function, **named}.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    loads = np.random.default_rng(3).integers(1, 10**6, (2, 3, 16))
    for name, values in zip(("new", "old"), loads, strict=True):
        (folder / f"{name}.json").write_text(json.dumps({"logical_count": values.tolist()}))
    (folder / "theirs.py").write_text(FILE)
    names = {"published": "rebalance_experts", "ignorant": "ignoring_groups", "sitting": "without_groups"}
    tables = [f"[{name}]\n{facts(f'{folder}/theirs.py:{function}')}" for name, function in names.items()]
    (folder / "peers.toml").write_text("\n".join([*tables, f"[absent]\n{facts('nowhere.py:balance')}"]))
    return folder


def test_one_run_writes_a_page_that_says_what_each_method_reaches_and_gets_wrong(folder, tmp_path, capsys):
    options = ["--projects", "peers.toml", "--trace", "new.json", "--reference-trace", "old.json"]
    options = [str(folder / text) if text.endswith(("toml", "json")) else text for text in options]
    out = str(tmp_path / "out")
    assert main([*options, "--settings", "4/20,4/20/2/4", "--rounds", "1", "--time-limit", "0.1", "--out", out]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["peers.md"]
    page = (tmp_path / "out" / "peers.md").read_text()
    rows = {
        line.split(" | ")[0].strip("| "): line for line in page.split("### new: 20 slots on 4 GPUs, ")[1].splitlines()
    }
    assert rows["published"].split(" | ")[1:8] == rows["eplb"].split(" | ")[1:8]
    assert rows["ignorant"].count(" - ") == rows["sitting"].count(" - ") == rows["absent"].count(" - ") == 10
    for told in (
        "* absent: ERROR: projects nowhere.py: no such file (new 4/20; new 4/20, 2 nodes)",
        "group 0 is spread over several nodes (new 4/20, 2 nodes)",
        "* sitting: SKIPPED: theirs.without_groups takes no nodes and groups (new 4/20, 2 nodes)",
        "| published | someone/balancer | 1.2 | `b.py` | MIT | <https://b.org> |",
        "EPLB's on old.json",
        "python scripts/peers.py --projects",
    ):
        assert told in page
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "new: 20 slots on 4 GPUs" in captured.err


def test_flashlbs_example_is_proven_and_what_was_advertised_for_it_is_not_the_best():
    found = example(MINE, partial(solve, time_limit=10))
    reached = {row.method: found.known.lower_bound[0] * (1 + row.quality.mean_gap) for row in found.rows}
    assert reached["eplb"] == pytest.approx(ADVERTISED["eplb"])
    assert reached["search"] == reached["solve"] == pytest.approx(590 / 3)
    assert found.known.is_optimal
    assert 590 / 3 < ADVERTISED["flashlb"] < ADVERTISED["eplb"]
    assert best_with_two_slots(FLASHLB_EXAMPLE.values[0].tolist(), 8) == Fraction(590, 3)


def best_with_two_slots(loads, num_gpus):
    """The optimum by trying all numbers of copies; with these fixed, pairing the largest with the smallest is best."""
    unit = math.lcm(*range(1, 2 * num_gpus + 1))  # so that all shares are integers
    spare, best = 2 * num_gpus - len(loads), math.inf
    for bars in itertools.combinations(range(spare + len(loads)), len(loads)):  # bars cut a row of spare slots
        counts = [after - before for before, after in itertools.pairwise((-1, *bars))]
        shares = [load * unit // count for load, count in zip(loads, counts, strict=True) for _ in range(count)]
        shares = sorted(shares + [0] * (2 * num_gpus - len(shares)))
        best = min(best, max(map(operator.add, shares[:num_gpus], reversed(shares))))
    return Fraction(best, unit)


def test_a_row_tells_what_a_placement_is_worth_beside_ours():
    problem = PlacementProblem([[8, 4, 2, 2], [4, 4, 4, 4]], 2, 6, allow_empty_slots=True)

    def doubling(problem):
        return Placement([[0, 0, 1, 1, 2, 3]] * 2, 4, 2)

    rows = {row.method: row for row in contest(problem, {**MINE, "theirs": doubling}, solve, rounds=1).rows}
    theirs = rows["theirs"].quality  # GPU loads 10 and 6 in both layers, the optimum is 8 and 8
    assert (theirs.mean_gap, theirs.worst_gap, theirs.step_gap) == pytest.approx((0.25, 0.25, 0.25))
    assert (theirs.worst_layer, theirs.doubled, theirs.ahead) == (0, 2, 0)
    assert theirs.moves == 2 * 2  # the contiguous layout has 0, 1, 2 on one GPU and 3, 0, 1 on the other
    assert rows["search"].quality.times_search == rows["eplb"].quality.times_eplb == 1


def test_a_published_balancer_that_comes_closer_than_ours_is_named():
    problem = PlacementProblem([[5, 4, 3, 3, 2, 1]], 2, allow_empty_slots=True)
    worse = {"eplb": BALANCERS["contiguous"], "local_search": BALANCERS["eplb"], "search": BALANCERS["contiguous"]}
    found = [contest(problem, {**worse, "theirs": BALANCERS["search"]}, solve, rounds=1)]
    told = " ".join(summary(found).split())
    assert "in the mean of a setting: theirs on loads: 6 slots on 2 GPUs." in told
    assert told.endswith("ahead of it: theirs on 1.")
    assert faults(found) == []
    assert "| theirs | 0.000 |" in matrix(found, lambda quality: f"{quality.mean_gap:.3f}")
    assert "| loads | 2/6 | theirs | 0.000 |" in best(found)
    assert setting(found[0]).count("\n") == 6


def test_the_committed_facts_are_complete():
    listed = read_projects(SCRIPTS / "published" / "peers.toml")
    assert len(listed) > 10
    assert all(project.function.startswith("peers/") for project in listed.values())
    assert all(project.source.startswith("https://github.com/") for project in listed.values())


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[a]\nproject = 'x'\n", "a lacks function, version, file, licence, source; facts are function, project"),
        (f"[a]\n{facts('f.py:f')}colour = 'red'\n", "a has colour; facts are"),
        ("[search]\n", "search must have no comma and be no method of ours"),
        ("a = 1\n", "a must be a table of texts"),
        ("[a\n", "projects .*peers.toml: "),
    ],
)
def test_facts_that_are_wrong_are_named(text, rule, tmp_path):
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(InputError, match=rule):
        read_projects(tmp_path / "peers.toml")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--settings", "8/256/4"], "--settings must be GPUs/slots or GPUs/slots/nodes/groups"),
        (["--settings", "8/0"], "--settings must be GPUs/slots"),
        (["--settings", "8/256", "--settings", "8/256"], "--settings must be given once, or once per trace: 1, got 2"),
        (["--methods", "magic"], "--methods 'magic' is unknown"),
        (["--projects", "missing.toml"], "--projects missing.toml: "),
        (["--rounds", "0"], "--rounds must be"),
        (["--time-limit", "0"], "--time-limit must be"),
        (["--reference-trace", "missing.json"], "missing.json"),
    ],
)
def test_bad_arguments_end_with_2_one_line_and_no_file(tmp_path, capsys, arguments, reason):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_settings_and_reference_traces_are_given_for_all_traces_or_for_each():
    assert shapes("8/256, 32/288/4/8,8/256") == [(8, 256, 1, 1), (32, 288, 4, 8)]
    assert for_each("settings", [5], 3) == [5, 5, 5]
    assert for_each("settings", [5, 6], 2) == [5, 6]
    assert for_each("settings", [], 2) == []
