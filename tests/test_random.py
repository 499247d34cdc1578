"""Random numbers of compiled functions: in range, repeatable, different for every seed and stream."""

import numpy as np

from moeopt._random import below, random_state, uniform


def draws(seed, stream, count=2000):
    state = random_state(seed, stream)
    return np.array([below(state, 10) for _ in range(count)]), np.array([uniform(state) for _ in range(count)])


def test_numbers_are_in_range_and_spread_evenly():
    integers, reals = draws(0, 0)
    assert np.bincount(integers, minlength=10).min() > 130
    assert integers.max() == 9
    assert reals.min() >= 0
    assert reals.max() < 1
    assert abs(reals.mean() - 0.5) < 0.03


def test_the_same_seed_and_stream_give_the_same_numbers_and_others_do_not():
    first = draws(3, 1, 50)[0]
    assert np.array_equal(first, draws(3, 1, 50)[0])
    for seed, stream in ((3, 2), (4, 1), (2**31 - 1, 1), (1, 3)):
        assert np.mean(first == draws(seed, stream, 50)[0]) < 0.5
