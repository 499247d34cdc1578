import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt import InputError, Placement, metrics
from moeopt.dispatch import RULES

PLACEMENT = Placement([[0, 1, 0, 2, 3, 0]], 4, 3)
"""Expert 0 on every GPU, the others once; one slot pair per GPU."""


def test_every_rule_on_a_small_layer():
    load = [[12, 6, 0, 0]]
    assert metrics.dispatch_makespan(load, PLACEMENT).tolist() == [10]  # 4 of expert 0 and all of expert 1
    assert metrics.dispatch_makespan(load, PLACEMENT, "local").tolist() == [10]  # all GPUs have expert 0: as even
    assert metrics.dispatch_makespan(load, PLACEMENT, "optimal").tolist() == [6]  # expert 0 avoids GPU 0
    assert 10 < metrics.dispatch_makespan(load, PLACEMENT, "random")[0] < 14


def test_local_tokens_stay_and_the_others_are_split_evenly():
    placement = Placement([[0, 1, 0, -1, 2, -1]], 3, 3)
    # two of the three GPUs keep their third of expert 0, and share the last third
    assert metrics.dispatch_makespan([[6, 1, 0]], placement, "local").tolist() == [4]
    # two copies on one GPU serve two thirds of what comes from GPUs without one
    twice = Placement([[0, 0, 0, 1, 1, -1]], 2, 3)
    assert metrics.dispatch_makespan([[9, 0]], twice, "local").tolist() == [3 + 2]


def test_random_is_the_expectation_of_the_fullest_gpu():
    # one expert of two copies: the larger part of n fair coins, n/2 plus the mean distance from it
    placement = Placement([[0, 0]], 1, 2)
    expected = np.mean([max(k, 10 - k) for k in np.random.default_rng(1).binomial(10, 0.5, 200_000)])
    found = metrics.dispatch_makespan([[10]], placement, "random", draws=20_000)[0]
    assert found == pytest.approx(expected, rel=0.01)


def test_random_draws_in_proportion_to_the_copies_on_a_gpu():
    placement = Placement([[0, 0, 0, 1]], 2, 2)
    found = metrics.dispatch_makespan([[3_000_000, 0]], placement, "random")
    assert found[0] == pytest.approx(2_000_000, rel=1e-3)


def test_random_repeats_itself_and_does_not_depend_on_other_layers():
    rng = np.random.default_rng(0)
    steps, slots = rng.integers(0, 30, (4, 3, 4)), rng.permuted(np.tile([0, 1, 2, 3, 0, 1], (3, 1)), axis=1)
    placement = Placement(slots, 4, 3)
    found = metrics.step_makespans(steps, placement, "random")
    assert (metrics.step_makespans(steps, placement, "random") == found).all()
    assert (metrics.step_makespans(steps[:, 1:2], placement[1], "random")[:, 0] == found[:, 1]).all()
    assert (metrics.step_makespans(steps, placement, "random", seed=1) != found).any()


@pytest.mark.parametrize("rule", RULES)
def test_without_replicas_all_rules_agree(rule):
    steps = np.random.default_rng(0).integers(0, 30, (5, 1, 6))
    placement = Placement([[0, 3, 1, 4, 2, 5]], 6, 3)
    assert (metrics.step_makespans(steps, placement, rule) == metrics.step_makespans(steps, placement)).all()


@settings(deadline=None)
@given(st.data())
def test_no_rule_beats_the_optimal_split_and_none_loses_a_token(data):
    experts, gpus = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    slots = data.draw(st.lists(st.integers(-1, experts - 1), min_size=2 * gpus, max_size=2 * gpus))
    load = data.draw(st.lists(st.integers(0, 99), min_size=experts, max_size=experts))
    placement = Placement([slots], experts, gpus)
    tokens = sum(load[e] for e in set(slots) - {-1})
    found = {rule: metrics.dispatch_makespan([load], placement, rule)[0] for rule in RULES}
    assert min(found.values()) >= found["optimal"] * (1 - 1e-12)
    assert found["optimal"] >= tokens / gpus * (1 - 1e-12)
    assert max(found.values()) <= tokens * (1 + 1e-12)


def test_scores_of_steps_are_those_of_their_loads():
    steps = np.random.default_rng(0).integers(0, 30, (4, 1, 4))
    for rule in ("even", "local", "optimal"):
        alone = [metrics.dispatch_makespan(step, PLACEMENT, rule)[0] for step in steps]
        assert metrics.step_makespans(steps, PLACEMENT, rule)[:, 0] == pytest.approx(alone)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(InputError, match="dispatch must be one of even, random, local, optimal, got 'lp'"):
        metrics.dispatch_makespan([[1, 2, 3, 4]], PLACEMENT, "lp")
    with pytest.raises(InputError, match=r"loads of dispatch=random must hold integers .* got 0.5 at \(0, 0, 1\)"):
        metrics.dispatch_makespan([[1, 0.5, 3, 4]], PLACEMENT, "random")
    with pytest.raises(InputError, match="draws must be >= 1, got 0"):
        metrics.dispatch_makespan([[1, 2, 3, 4]], PLACEMENT, "random", draws=0)
    for bad in (-1, np.nan, np.inf, 1e300):
        with pytest.raises(InputError, match=r"steps must be loads from 0 to 2\*\*53"):
            metrics.step_makespans([[[1, 2, 3, bad]]], PLACEMENT, "optimal")
