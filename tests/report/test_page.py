"""The pages to explore, as files; what a browser makes of them is in test_page_browser.py."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest

from moeopt.balancers import contiguous, eplb, hot_replication
from moeopt.problem import PlacementProblem
from moeopt.report.page.gap import gap_data, packed
from moeopt.report.page.shell import data_of, numbers, page
from moeopt.report.page.slots import more_slots
from moeopt.report.study import Effort, study
from solvers import solve
from tests.report.facts import facts_of

HOSTILE = "</script><!--<script><img src=x onerror=alert(1)>&amp;'\"\u2028"
ONCE = Effort(repeats=1, time_limit=1.0)


@pytest.fixture
def done(problem):
    return study(problem, {"contiguous": contiguous, HOSTILE: eplb}, {}, ONCE)


def test_a_page_asks_for_nothing_runs_its_own_scripts_alone_and_is_small(done):
    content = page(gap_data([done], facts_of()))
    text = content.decode()
    assert len(content) < 1_500_000
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == allowed
    assert text.count("</script>") == len(scripts) + 1
    assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=", text[: text.index("<script")])


def test_names_from_outside_come_back_from_the_data_as_they_are(done):
    data = gap_data([done], facts_of(command=("moeopt", HOSTILE)))
    assert data_of(page(data)) == json.loads(json.dumps(data))
    assert [method["name"] for method in data["settings"][0]["methods"]] == ["contiguous", HOSTILE]


def test_the_page_says_of_every_layer_what_the_tables_say(done):
    (setting,) = gap_data([done], facts_of())["settings"]
    for method in setting["methods"]:
        rows = done.layers[done.layers.method == method["name"]]
        assert method["makespan"] == rows.makespan.tolist()
        assert method["gap"] == rows.gap.tolist()
        assert setting["bound"] == rows.lower_bound.tolist()
        assert method["summary"]["max_gap"] == rows.gap.max()


def test_packed_slots_are_the_placement_with_empty_slots_and_many_experts():
    slots = np.array([[0, -1, 255], [256, 65_533, 1]])
    planes = zlib.decompress(base64.b64decode(packed(slots)))
    low, high = np.frombuffer(planes, np.uint8).reshape(2, 2, 3).astype(int)
    assert np.array_equal(low + 256 * high - 1, slots)


def test_what_is_not_known_is_null():
    assert numbers([[1.5, np.nan]]) == [[1.5, None]]


def test_what_more_slots_bring_lies_in_its_proven_interval_and_nothing_beats_perfect_balance():
    load = np.random.default_rng(2).integers(1, 100, (3, 8))
    studies = [
        study(
            PlacementProblem(load, 4, slots, allow_empty_slots=True), {"hot": hot_replication}, {"solve": solve}, ONCE
        )
        for slots in (12, 8)
    ]
    (family,) = more_slots(studies)
    fewer, more = family["rows"]
    assert (fewer["slots"], more["slots"]) == (8, 12)
    assert fewer["reached"] > more["reached"] >= more["bound"] >= 1
    saved = 100 * (1 - more["reached"] / fewer["reached"])
    assert f"4 more slots on 4 GPUs (12 instead of 8) take {saved:.3f} % less" in family["words"][0]
    least, most = re.search(r"proven to be ([\d.]+) to ([\d.]+) %", family["words"][0]).groups()
    assert float(least) - 5e-4 <= saved <= float(most) + 5e-4
    assert f"at most {100 * (1 - 1 / more['reached']):.3f} % less" in family["words"][1]
    assert "--slots 8,12" in more_slots(studies[1:])[0]["words"][0]
