"""Replica counts: EPLB's greedy and the other divisor methods."""

import numpy as np
import pytest

from moeopt.replication import divisor_counts, replicate


def loads(seed):
    return np.random.default_rng(seed).lognormal(0, 1.5, 20)


@pytest.mark.parametrize("seed", range(5))
def test_without_a_lean_the_counts_are_eplbs(seed):
    expected = np.bincount(replicate(loads(seed)[None], 33)[0][0], minlength=20)
    np.testing.assert_array_equal(divisor_counts(loads(seed), 33, 0.0), expected)


@pytest.mark.parametrize("lean", [0.0, 0.25, 0.5, 1.0])
def test_no_copy_would_have_been_better_elsewhere(lean):
    """What the last copy of every expert was given for is at least what any other would be given one more for."""
    weight = loads(7)
    counts = divisor_counts(weight, 45, lean)
    assert counts.sum() == 45
    assert counts.min() >= 1
    earned = [w / ((c - 1) ** (1 - lean) * c**lean) for w, c in zip(weight, counts, strict=True) if c > 1]
    assert min(earned) >= (weight / (counts ** (1 - lean) * (counts + 1.0) ** lean)).max() * (1 - 1e-12)


def test_a_lean_changes_who_gets_a_copy():
    """Of 18 and 10 with two copies and one: 9 is below 10, but 18 / 3 is above 10 / 2."""
    assert divisor_counts(np.array([18.0, 10.0]), 4, 0.0).tolist() == [2, 2]
    assert divisor_counts(np.array([18.0, 10.0]), 4, 1.0).tolist() == [3, 1]
