"""What a replay says in words must follow from its table."""

from itertools import pairwise

import numpy as np
import pytest

from moeopt.balancers import contiguous, eplb
from moeopt.policies import Policy, relabelled
from moeopt.replay import serve
from moeopt.report.replay_words import (
    HEADINGS,
    cells,
    envelope_words,
    headings,
    headline,
    judge,
    ranges,
    slots_words,
)
from moeopt.slots import slots_curve
from moeopt.traces import Trace, generate

ONCE = Policy(eplb, name="once")


@pytest.fixture(scope="module")
def drifting():
    """Popularity moves on by two experts every 24 steps: planning again pays."""
    base = np.array([90, 60, 30, 20, 10, 10, 5, 5])
    steps = [np.roll(base, step // 24 * 2) + np.arange(8) % 3 for step in range(148)]
    return Trace(np.array(steps)[:, None])


@pytest.fixture(scope="module")
def still():
    return Trace(np.repeat([[[9, 8, 7, 6, 5, 4, 3, 2]]], 30, axis=0))


def test_drift_is_evidence_that_rebalancing_pays(drifting):
    found = serve(drifting, [ONCE, Policy(relabelled(eplb), every=4, window=1)], 4, 12, warmup=4)
    table = found.table(0.001)
    verdict = judge(found, table)
    assert verdict.pays
    assert verdict.best == "relabelled eplb every 4, window 1"
    told = headline(found, table, 0.001)
    assert told[0].startswith("Rebalancing pays on this trace: at 0.001 balanced layer-steps per move, relabelled eplb")
    assert f"{100 * verdict.saving:.1f} %" in told[0]
    assert "held out" in told[0]
    assert told[-1] == "What to do: every 4 steps plan on the last 1, as relabelled eplb every 4, window 1 does."


def test_traffic_that_stays_is_no_evidence(still):
    found = serve(still, [ONCE, Policy(eplb, every=4)], 4, 12, warmup=4)
    told = headline(found, found.table(0.5), 0.5)
    assert told[0].startswith("No evidence that rebalancing pays on this trace")
    assert "the cheapest policy is once, which never plans again" in told[0]
    assert told[-1].startswith("What to do: plan on recorded loads and load that")


def test_moves_that_are_too_expensive_are_no_evidence(drifting):
    found = serve(drifting, [ONCE, Policy(eplb, every=4, window=1)], 4, 12, warmup=4)
    assert not judge(found, found.table(100.0)).pays


def test_the_cheapest_policy_at_every_price_is_the_lower_envelope(drifting):
    policies = [ONCE, *(Policy(method, every=n) for n in (2, 4, 8) for method in (eplb, contiguous))]
    policies.append(Policy(relabelled(eplb), every=4))
    found = serve(drifting, policies, 4, 12, warmup=4)
    parts = ranges(found)
    assert parts[0][1] == 0
    assert parts[-1][2] == np.inf
    for (_, _, end), (_, start, _) in pairwise(parts):
        assert end == start
    for name, low, high in parts:
        for price in (low, (low + min(high, low + 10)) / 2):
            table = found.table(price).set_index("policy")
            assert table.cost[name] == pytest.approx(table.cost.min())
    assert parts[0][0] in envelope_words(found)


def test_tables_have_a_cell_for_every_heading(drifting):
    found = serve(drifting, [ONCE], 4, 12, warmup=4)
    plain, scored = found.table(0.1), found.table(0.1, competition=True)
    assert headings(plain) == HEADINGS
    for table in (plain, scored):
        assert {len(row) for row in cells(table)} == {len(headings(table))}
    assert any(row[0].endswith(" *") for row in cells(plain))


def test_the_number_of_slots_that_is_enough_is_said():
    trace = generate("prefill", num_layers=2, num_experts=16, tokens=400, num_windows=10, seed=1)
    curve = slots_curve(trace, 4, [16, 20, 32], method=eplb, warmup=4)
    told = slots_words(curve, "even")
    ratios = curve.set_index("num_slots").step_ratio
    enough = int(ratios.index[ratios <= ratios.min() * 1.005][0])
    assert f"{enough} slots take {100 * (1 - ratios[enough] / ratios[16]):.1f} % less" in told
    flat = curve.assign(step_ratio=1.1)
    assert slots_words(flat, "even") == "Split `even`, redundant slots bring at most 0.00 % here."
