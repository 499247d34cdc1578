from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt import InputError, Placement, PlacementProblem, metrics
from moeopt.balancers import eplb, relabel, search
from moeopt.migration import migration_rounds, migration_senders


@st.composite
def two_placements(draw):
    """Two placements of the same experts on the same GPUs, full or with empty slots, several layers."""
    experts, gpus, size = draw(st.integers(1, 7)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    slots = gpus * size
    experts = min(experts, slots)
    empty = draw(st.booleans())

    def layer():
        extra = st.integers(-1 if empty else 0, experts - 1)
        rest = draw(st.lists(extra, min_size=slots - experts, max_size=slots - experts))
        return draw(st.permutations([*range(experts), *rest]))

    rows = [[layer(), layer()] for _ in range(draw(st.integers(1, 3)))]
    return tuple(Placement([row[i] for row in rows], experts, gpus) for i in range(2))


def held(placement, layer):
    return [Counter(e for e in gpu if e >= 0) for gpu in placement.by_gpu[layer].tolist()]


def most_arrivals(before, after, layer):
    pairs = zip(held(before, layer), held(after, layer), strict=True)
    return max(sum((new - old).values()) for old, new in pairs)


@settings(max_examples=200, deadline=None)
@given(two_placements(), st.integers(1, 3))
def test_replayed_step_by_step_every_round_keeps_its_limits(placements, per_round):
    reference, target = placements
    rounds = migration_rounds(reference, target, per_round)
    full = (reference.phy2log >= 0).all(axis=1) & (target.phy2log >= 0).all(axis=1)
    before = reference
    for after in rounds:
        assert (after.replica_count >= 1).all()
        assert (after.phy2log[full] >= 0).all()
        for layer in range(len(after)):
            assert most_arrivals(before, after, layer) <= per_round
        before = after
    needed = 0
    for layer in range(len(reference)):
        assert held(before, layer) == held(target, layer)
        most = most_arrivals(reference, target, layer)
        needed = max(needed, -(-most // per_round), int(held(reference, layer) != held(target, layer)))
    assert len(rounds) == needed


@settings(max_examples=100, deadline=None)
@given(two_placements())
def test_no_copy_travels_twice_and_what_stays_keeps_its_slot(placements):
    reference, target = placements
    states = [reference, *migration_rounds(reference, target)]
    moved = sum(metrics.moves(a, b) for a, b in pairwise(states))
    assert (moved == metrics.moves(reference, target)).all()
    written = sum(((b.phy2log != a.phy2log) & (b.phy2log >= 0)) for a, b in pairwise(states))
    assert (np.sum(written, axis=-1) == metrics.moves(reference, target)).all()


@settings(max_examples=100, deadline=None)
@given(two_placements())
def test_senders_hold_what_they_send_and_every_transfer_has_one(placements):
    reference, target = placements
    senders = migration_senders(reference, target)
    assert ((senders >= 0).sum(axis=1) == metrics.transfers(reference, target)).all()
    for layer, slot in np.argwhere(senders >= 0):
        assert reference.copies[layer, senders[layer, slot], target.phy2log[layer, slot]] > 0


def test_a_rotation_of_whole_gpus_takes_a_round_per_slot():
    reference = Placement([[0, 1, 2, 3, 4, 5]], 6, 3)
    target = Placement([[4, 5, 0, 1, 2, 3]], 6, 3)
    assert len(migration_rounds(reference, target)) == 2
    assert len(migration_rounds(reference, target, per_round=2)) == 1
    assert migration_rounds(reference, reference) == []


def test_a_swap_inside_a_gpu_is_no_migration():
    assert migration_rounds(Placement([[0, 1, 2, 3]], 4, 2), Placement([[1, 0, 2, 3]], 4, 2)) == []


def test_a_copy_that_is_only_dropped_goes_in_one_round():
    reference, target = Placement([[0, 1, 1, 0]], 2, 2), Placement([[0, -1, 1, -1]], 2, 2)
    (after,) = migration_rounds(reference, target)
    assert after.phy2log.tolist() == [[0, -1, 1, -1]]


def test_without_replicas_each_gpu_sends_once_per_round():
    rng = np.random.default_rng(0)
    states = [Placement([rng.permutation(24)], 24, 6) for _ in range(2)]
    states = [states[0], *migration_rounds(*states)]
    for before, after in pairwise(states):
        senders = migration_senders(before, after)
        assert np.bincount(senders[senders >= 0]).max() == 1


def test_the_least_busy_holder_sends():
    reference = Placement([[0, 1, 0, 2, 3, 3, 3, 3]], 4, 4)
    target = Placement([[0, 1, 0, 2, 0, 1, 0, 3]], 4, 4)
    assert migration_senders(reference, target).tolist() == [[-1, -1, -1, -1, 1, 0, 0, -1]]


def test_wrong_arguments_are_named():
    reference = Placement([[0, 1]], 2, 2)
    with pytest.raises(InputError, match="per_round must be >= 1, got 0"):
        migration_rounds(reference, reference, 0)
    with pytest.raises(InputError, match="must agree in layers, GPUs, slots and experts"):
        migration_rounds(reference, Placement([[0, 1, 1, 0]], 2, 2))
    with pytest.raises(InputError, match="has expert 1 in layer 0, reference has not"):
        migration_senders(Placement([[0, 0]], 2, 2), reference)


def test_recorded_layers_migrate_in_as_many_rounds_as_their_busiest_gpu_has_arrivals(recording):
    before = PlacementProblem(recording("deepseek-v3/decode_in1000out1000"), 32, 288)
    problem = replace(before, load=recording("deepseek-v3/decode_in1800out100"), reference=eplb(before))
    target = relabel(problem, start=search(problem))
    rounds = migration_rounds(problem.reference, target)
    arrivals = np.maximum(target.copies - problem.reference.copies, 0).sum(axis=2).max()
    assert len(rounds) == arrivals
    for after in rounds:
        problem.check(after)
    assert (rounds[-1].copies == target.copies).all()
