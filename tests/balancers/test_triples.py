"""The walk over partial partitions returns partitions that fit, or nothing."""

import itertools

import numpy as np

from moeopt.balancers.triples import pack_triples


def planted(gpus, seed):
    """Sizes of a hidden perfect partition: every triple adds up to exactly 1 minus a hair."""
    rng = np.random.default_rng(seed)
    first, share = rng.uniform(0.3, 0.7, gpus), rng.uniform(0.2, 0.8, gpus)
    return rng.permutation(np.concatenate([first, (1 - first) * share, (1 - first) * (1 - share)]) * (1 - 2e-3))


def test_a_partition_holds_every_replica_once_and_fits():
    for seed in range(5):
        size = planted(24, seed)
        triples = pack_triples(size, size, np.arange(72), seed=seed, temperature=(1e-2, 1e-3))
        assert triples is not None
        assert sorted(triples.ravel()) == list(range(72))
        assert size[triples].sum(axis=1).max() <= 1


def test_nothing_is_returned_where_enumeration_finds_no_partition():
    size = np.array([0.5, 0.5, 0.5, 0.5, 0.1, 0.1])
    assert all(size[list(t)].sum() > 1 or size[[i for i in range(6) if i not in t]].sum() > 1
               for t in itertools.combinations(range(6), 3))  # fmt: skip
    assert pack_triples(size, size, np.arange(6), open_gpus=2, steps=2000) is None


def test_distinct_keeps_copies_of_an_expert_apart():
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(12), 3)
    size = np.repeat(rng.uniform(0.2, 0.4, 12), 3)
    triples = pack_triples(size, size, owner, distinct=True, temperature=(1e-1, 1e-2))
    assert triples is not None
    assert all(len(set(owner[row])) == 3 for row in triples)
    assert size[triples].sum(axis=1).max() <= 1


def test_the_same_seed_gives_the_same_partition():
    size = planted(24, 3)
    first, second = (pack_triples(size, size, np.arange(72), seed=9, temperature=(1e-2, 1e-3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
