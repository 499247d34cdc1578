"""`search`: feasible on every variant, never worse than its start, often optimal, deterministic, anytime."""

import time
from functools import partial

import numpy as np
import pytest

from moeopt import PlacementProblem, bounds, metrics
from moeopt.balancers.bldm import bldm
from moeopt.balancers.eplb import eplb
from moeopt.balancers.local_search import local_search
from moeopt.balancers.search import quick_search, search
from moeopt.errors import InputError, PlacementError, UnsupportedError
from moeopt.methods import refusal
from moeopt.placement import Placement


def makespan(problem, placement):
    problem.check(placement)
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def loads(seed, layers=3, experts=16, top=1000):
    rng = np.random.default_rng(seed)
    return np.floor(top * rng.pareto(1.5, (layers, experts))).astype(np.int64)


VARIANTS = {
    "partition": partial(PlacementProblem, num_gpus=4),
    "two a GPU": partial(PlacementProblem, num_gpus=8),
    "one a GPU": partial(PlacementProblem, num_gpus=16),
    "one GPU": partial(PlacementProblem, num_gpus=1),
    "replicated": partial(PlacementProblem, num_gpus=4, num_slots=20),
    "three a GPU": partial(PlacementProblem, num_gpus=8, num_slots=24),
    "all redundant": partial(PlacementProblem, num_gpus=4, num_slots=64, allow_empty_slots=True),
    "empty slots": partial(PlacementProblem, num_gpus=4, num_slots=20, allow_empty_slots=True),
    "not colocated": partial(PlacementProblem, num_gpus=4, num_slots=32, allow_colocated=False),
    "neither": partial(PlacementProblem, num_gpus=4, num_slots=24, allow_colocated=False, allow_empty_slots=True),
    "hierarchical": partial(PlacementProblem, num_gpus=4, num_slots=24, num_nodes=2, num_groups=4),
    "hierarchical, not colocated": partial(
        PlacementProblem, num_gpus=4, num_slots=24, num_nodes=2, num_groups=4, allow_colocated=False
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_is_feasible_and_never_worse_than_other_balancers(variant, seed):
    problem = VARIANTS[variant](loads(seed))
    reached = makespan(problem, search(problem, seed=seed))
    assert np.all(reached >= bounds.lower_bound(problem).value * (1 - 1e-12))
    for balancer in (eplb, bldm, local_search):
        if not refusal(balancer, problem):
            assert np.all(reached <= makespan(problem, balancer(problem)) * (1 + 1e-12))


@pytest.mark.parametrize(("gpus", "slots"), [(8, 256), (8, 288), (16, 256)])
def test_is_never_worse_than_simpler_balancers_below_its_target(recording, gpus, slots):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024")[::3], gpus, slots)
    reached = makespan(problem, search(problem))
    assert np.all(reached <= makespan(problem, local_search(problem)))
    assert np.all(reached <= makespan(problem, bldm(problem)))


@pytest.mark.parametrize("variant", ["partition", "replicated", "hierarchical"])
def test_takes_float_loads_with_zeros_and_ties(variant):
    values = np.round(loads(3) / 700.0, 0) / 3
    problem = VARIANTS[variant](values)
    assert np.all(makespan(problem, search(problem)) <= makespan(problem, eplb(problem)) * (1 + 1e-12))


def optimum(weights, gpus, per_gpu):
    """Least makespan of a partition by plain enumeration."""
    best = [sum(weights)]

    def place(i, load, free):
        if max(load) >= best[0]:
            return
        if i == len(weights):
            best[0] = max(load)
            return
        for g in {(load[g], free[g]): g for g in range(gpus) if free[g]}.values():
            load[g] += weights[i]
            free[g] -= 1
            place(i + 1, load, free)
            load[g] -= weights[i]
            free[g] += 1

    place(0, [0] * gpus, [per_gpu] * gpus)
    return best[0]


def test_reaches_the_optimum_of_small_partitions():
    values = loads(7, layers=40, experts=12, top=100)
    problem = PlacementProblem(values, num_gpus=3)
    best = [optimum(sorted(row.tolist(), reverse=True), 3, 4) for row in values]
    reached = makespan(problem, search(problem, target=best))
    assert reached.tolist() == best


def test_splits_what_greedy_replication_would_not():
    """Loads 6 6 3 3 on 3 GPUs of 2: the best has 6 tokens on every GPU, and copies of the 6s only."""
    problem = PlacementProblem([[6, 6, 3, 3]], num_gpus=3, num_slots=6)
    assert makespan(problem, search(problem)) == [6]


@pytest.mark.parametrize(
    ("experts", "gpus", "top"),
    [(10_000, 1000, 10**3), (10_000, 1000, 10**6), (1000, 10, 10**6), (4000, 2, 2**20), (100_000, 10_000, 10**6)],
)
def test_meets_the_mean_load_exactly_in_large_partitions(experts, gpus, top):
    values = np.random.default_rng(5).integers(1, top + 1, (1, experts))
    problem = PlacementProblem(values, num_gpus=gpus)
    mean = -(-values.sum(axis=1) // gpus)
    assert np.array_equal(makespan(problem, search(problem, target=mean)), mean)


def test_levels_large_layers_without_colocation():
    """So many copies of the hot experts that an exchange blind to them would put two on a GPU."""
    problem = PlacementProblem(loads(9, layers=1, experts=96), 64, 640, allow_colocated=False)
    start = makespan(problem, search(problem, budget=0.0))
    assert makespan(problem, search(problem)) < start


def test_same_seed_same_placement_alone_or_in_a_batch():
    problem = PlacementProblem(loads(5, layers=4, experts=96), num_gpus=24)
    whole = search(problem, seed=3)
    assert whole == search(problem, seed=3)
    assert search(problem[2], seed=3) == whole[2]


def test_more_budget_is_never_worse():
    problem = PlacementProblem(loads(11, layers=2, experts=64), num_gpus=16, num_slots=80)
    start = makespan(problem, eplb(problem))
    previous = start * (1 + 1e-12)
    for budget in (0.0, 0.01, 0.1, 0.4):
        reached = makespan(problem, search(problem, budget=budget))
        assert np.all(reached <= previous)
        previous = reached
    assert np.all(previous < start)


@pytest.mark.parametrize(
    ("gpus", "slots", "gap"), [(8, 256, 1e-4), (32, 288, 5e-4), (64, 256, 1e-3), (72, 288, 2e-3), (96, 288, 2e-2)]
)
def test_is_near_the_bound_at_full_scale(recording, gpus, slots, gap):
    problem = PlacementProblem(recording("deepseek-v3/decode_in1000out1000")[::6], gpus, slots)
    reached = makespan(problem, search(problem))
    assert np.mean(reached / bounds.lower_bound(problem).value - 1) < gap


@pytest.mark.parametrize(("gpus", "slots"), [(144, 288), (160, 320)])
def test_annealed_counts_beat_greedy_ones_at_full_scale(recording, gpus, slots):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in1024")[::6], gpus, slots)
    ours, theirs = makespan(problem, search(problem)), makespan(problem, eplb(problem))
    assert np.all(ours <= theirs)
    assert ours.sum() < 0.997 * theirs.sum()


SHAPES = {
    "two slots": (128, 96, 192),
    "three slots": (128, 50, 150),
    "four slots": (128, 40, 160),
    "levelled": (64, 64, 320),
}
"""Experts, GPUs and slots."""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_deadline_cuts_the_fixed_stages_off_and_keeps_the_best(shape):
    experts, *shape = shape
    problem = PlacementProblem(loads(13, layers=1, experts=experts), *shape)
    start, whole = eplb(problem), search(problem)
    assert quick_search(problem) == whole
    assert quick_search(problem, deadline=time.perf_counter() + 1e6) == whole
    assert np.all(makespan(problem, quick_search(problem, deadline=0.0)) <= makespan(problem, start))
    for seconds in (0.0005, 0.002, 0.01):
        cut = makespan(problem, quick_search(problem, deadline=time.perf_counter() + seconds))
        assert np.all(cut <= makespan(problem, start) * (1 + 1e-12))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seconds", [0.0, 0.0003, 0.003])
def test_whatever_a_budget_cuts_off_is_feasible(variant, seconds):
    problem = VARIANTS[variant](loads(14))
    makespan(problem, search(problem, budget=seconds, target=0))
    makespan(problem, quick_search(problem, deadline=time.perf_counter() + seconds, target=0))


def test_stops_at_the_target():
    problem = PlacementProblem(loads(2), num_gpus=4)
    start = eplb(problem)
    assert search(problem, target=makespan(problem, start)) == start


def test_improves_a_given_start():
    problem = PlacementProblem(loads(4), num_gpus=4)
    contiguous = np.tile(np.arange(16), (3, 1))
    reached = makespan(problem, search(problem, start=contiguous))
    assert np.all(reached < makespan(problem, Placement(contiguous, 16, 4)))


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("max_moves", [0, 1, 2, 5, 100])
def test_keeps_the_limit_of_moves(max_moves, nodes):
    values = loads(6)
    reference = eplb(PlacementProblem(loads(8), 4, 24, nodes, 2 * nodes if nodes > 1 else 1))
    groups = 2 * nodes if nodes > 1 else 1
    problem = PlacementProblem(values, 4, 24, nodes, groups, reference=reference, max_moves=max_moves)
    found = search(problem)
    assert np.all(makespan(problem, found) <= metrics.makespan(metrics.gpu_load(values, reference)) * (1 + 1e-12))
    if max_moves == 0:
        assert np.all(metrics.moves(reference, found) == 0)


def test_more_moves_are_never_worse():
    values = loads(6)
    reference = eplb(PlacementProblem(loads(8), 4, 24))
    reached = [
        makespan(problem, search(problem)).sum()
        for problem in (PlacementProblem(values, 4, 24, reference=reference, max_moves=m) for m in (0, 2, 8, 40))
    ]
    assert reached[0] > reached[1] >= reached[-1]


def test_refuses_what_it_cannot_do():
    reference = eplb(PlacementProblem(loads(1), 4))
    with pytest.raises(UnsupportedError, match="max_makespan"):
        search(PlacementProblem(loads(1), 4, reference=reference, max_makespan=1e9))
    broken = np.zeros((3, 16), dtype=int)
    with pytest.raises(UnsupportedError, match="starts from the reference, which breaks"):
        search(PlacementProblem(loads(1), 4, reference=Placement(broken, 16, 4), max_moves=3))
    problem = PlacementProblem(loads(1), 4)
    with pytest.raises(PlacementError):
        search(problem, start=broken)
    for bad in ({"budget": -1.0}, {"budget": float("nan")}, {"seed": -1}, {"target": [1.0, 2.0]}):
        with pytest.raises(InputError, match=next(iter(bad))):
            search(problem, **bad)
