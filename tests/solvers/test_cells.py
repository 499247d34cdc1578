import itertools
import math

import numpy as np
import pytest

from moeopt.balancers.pairing import paired_makespan
from solvers.pairing.cells import cells_at
from solvers.pairing.compose import compose


def skewed(seed, experts):
    load = np.random.default_rng(seed).lognormal(0, 1, experts)
    return load * experts / load.sum()  # with as many GPUs as experts, the mean GPU load is 1


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_fits_its_gpus_with_no_more_room_than_asked(seed):
    load, threshold, spare = skewed(seed, 24), 1.01, 0.3
    cells = cells_at(load, threshold, spare, plenty=2.0)
    sizes = set()
    for expert, count, gpus in zip(cells.expert, cells.count, cells.gpus, strict=True):
        inside = expert >= 0
        members = load[expert[inside]]
        sizes.add(len(members))
        assert len(set(expert[inside])) == len(members)
        assert paired_makespan(members, count[inside], 2 * gpus) <= threshold * (1 + 1e-12)
        assert len(members) == 1 or gpus * threshold - members.sum() <= spare * (1 + 1e-9)
    assert sizes == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("seed", range(5))
def test_all_pairs_of_few_large_copies_with_little_room_are_cells(seed):
    load, threshold, spare = skewed(seed, 24), 1.01, 0.1
    cells = cells_at(load, threshold, spare)
    listed = {
        (*sorted(expert[:2]), gpus)
        for expert, gpus in zip(cells.expert.tolist(), cells.gpus, strict=True)
        if expert[1] >= 0 > expert[2] and gpus <= 8
    }
    expected = set()
    for one, other in itertools.combinations(range(24), 2):
        gpus = math.ceil((load[one] + load[other]) / threshold)
        larger = max(load[one], load[other]) / gpus
        if gpus <= 8 and threshold / 2 <= larger and gpus * threshold - load[one] - load[other] <= spare:
            expected.add((one, other, gpus))
    assert listed == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_placement_of_full_gpus_is_found_again(seed):
    rng = np.random.default_rng(seed)
    gpus = rng.integers(1, 4, 20)
    first = gpus * rng.uniform(0.1, 0.9, 20)
    load = rng.permutation(np.concatenate([first, gpus - first]))
    counts = compose(load, 1 + 1e-9, int(gpus.sum()))
    assert counts is not None
    assert counts.sum() <= 2 * gpus.sum()
    assert paired_makespan(load, counts, 2 * gpus.sum()) <= 1 + 1e-8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_composed_counts_reach_the_threshold(seed):
    load = skewed(seed, 128)
    counts = compose(load, 1.006, 128)
    assert counts is not None
    assert counts.min() >= 1
    assert paired_makespan(load, counts, 256) <= 1.006


def test_nothing_is_composed_below_the_mean_or_once_time_is_over():
    load = skewed(0, 40)
    assert compose(load, 0.999, 40) is None
    assert compose(load, 1.05, 40, deadline=0.0) is None


def test_experts_without_load_get_a_copy_too():
    load = np.concatenate([np.zeros(4), np.full(12, 1.0)])
    counts = compose(load, 1.0 + 1e-9, 16)
    assert counts is not None
    assert counts.min() == 1
