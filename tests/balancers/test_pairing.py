import numpy as np
import pytest

from moeopt import metrics
from moeopt._stop import never
from moeopt.balancers import eplb, search
from moeopt.balancers.pairing import anneal_layer, pair_up, paired_makespan, pairing
from moeopt.errors import UnsupportedError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem


def random_problem(seed, **rules):
    rng = np.random.default_rng(seed)
    gpus = int(rng.integers(2, 20))
    experts = int(rng.integers(2, 2 * gpus + 1))
    load = rng.choice([0, 1, 5, 5, 17, 90, 300], experts) + rng.integers(0, 3, experts)
    return PlacementProblem(load, gpus, 2 * gpus, **rules)


def random_counts(seed, problem):
    rng = np.random.default_rng(seed)
    counts = np.ones(problem.num_experts, dtype=np.int64)
    for _ in range(int(rng.integers(0, problem.num_redundant + 1))):
        room = np.flatnonzero(counts < problem.max_replicas)
        if len(room):
            counts[rng.choice(room)] += 1
    return counts


def makespan_of(problem, counts):
    return metrics.makespan(metrics.gpu_load(problem.load, as_placement(problem, counts)))[0]


def as_placement(problem, counts):
    load = problem.load.values[0].astype(float)
    return Placement(pair_up(load, counts, problem), problem.num_experts, problem.num_gpus)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("allow_colocated", [True, False])
@pytest.mark.parametrize("allow_empty_slots", [True, False])
def test_any_counts_become_a_placement_that_keeps_the_rules(seed, allow_colocated, allow_empty_slots):
    problem = random_problem(seed, allow_colocated=allow_colocated, allow_empty_slots=allow_empty_slots)
    problem.check(as_placement(problem, random_counts(seed, problem)))


@pytest.mark.parametrize("seed", range(100))
def test_filling_empty_slots_never_raises_the_makespan(seed):
    sparse = random_problem(seed, allow_empty_slots=True)
    full = random_problem(seed, allow_empty_slots=False)
    counts = random_counts(seed, sparse)
    assert makespan_of(full, counts) <= makespan_of(sparse, counts) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_the_makespan_of_counts_is_that_of_their_placement(seed):
    problem = random_problem(seed, allow_empty_slots=True)
    counts = random_counts(seed, problem)
    predicted = paired_makespan(problem.load.values[0].astype(float), counts, problem.slots)
    assert makespan_of(problem, counts) == pytest.approx(predicted, rel=1e-12)


@pytest.mark.parametrize("allow_colocated", [True, False])
def test_never_worse_than_eplb_and_better_where_counts_matter(allow_colocated):
    load = np.ceil(np.random.default_rng(1).lognormal(6, 0.8, (4, 64))).astype(int)
    problem = PlacementProblem(load, 40, 80, allow_colocated=allow_colocated)
    found = pairing(problem)
    problem.check(found)
    greedy = eplb(PlacementProblem(load, 40, 80))
    ours, theirs = (metrics.makespan(metrics.gpu_load(load, placement)) for placement in (found, greedy))
    assert (ours <= theirs * (1 + 1e-12)).all()
    assert (ours < theirs).any()


def test_annealing_begins_at_a_start_that_is_better_than_eplb():
    for seed in range(5):
        problem = PlacementProblem(np.ceil(np.random.default_rng(seed).lognormal(6, 0.8, 64)).astype(int), 40, 80)
        start = pairing(problem)
        after_a_step = anneal_layer(problem, 0, start.phy2log[0], 0.0, 1, 0, 0, never())
        made = Placement(after_a_step[None], 64, 40)
        reached, begun, greedy = (
            metrics.makespan(metrics.gpu_load(problem.load, placement))[0] for placement in (made, start, eplb(problem))
        )
        assert reached <= begun * (1 + 1e-12) < greedy


@pytest.mark.parametrize(("experts", "gpus"), [(256, 144), (1024, 576)])
def test_the_first_annealing_of_search_lowers_what_eplb_reaches_whatever_the_size(experts, gpus):
    load = np.ceil(np.random.default_rng(0).lognormal(9, 0.3, experts)).astype(int)
    problem = PlacementProblem(load, gpus, 2 * gpus)
    ours, theirs = (metrics.makespan(metrics.gpu_load(load, balancer(problem)))[0] for balancer in (search, eplb))
    assert ours < 0.97 * theirs


def test_same_seed_same_placement():
    problem = PlacementProblem(np.random.default_rng(2).integers(1, 999, 30), 20, 40)
    assert pairing(problem, seed=7) == pairing(problem, seed=7)


def test_slots_that_no_copy_may_take_stay_empty():
    problem = PlacementProblem([870], 1, 2, allow_colocated=False, allow_empty_slots=True)
    assert pairing(problem).phy2log.tolist() == [[0, -1]]


def test_other_seeds_and_more_steps_are_used():
    problem = PlacementProblem(np.random.default_rng(2).integers(1, 999, (20, 30)), 20, 40)
    makespan = [
        metrics.makespan(metrics.gpu_load(problem.load, pairing(problem, steps=steps, seed=seed))).sum()
        for steps, seed in ((10, 0), (10, 1), (5000, 0))
    ]
    assert makespan[0] != makespan[1]
    assert makespan[2] < makespan[0]


def test_pairs_only():
    with pytest.raises(UnsupportedError, match="needs slots_per_gpu=2, got 3"):
        pairing(PlacementProblem([3, 2, 1], 1))
