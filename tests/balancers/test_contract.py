"""What every balancer must do: on named instances, on random problems of every variant, on loads of full scale."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from moeopt import InputError, Placement, PlacementError, PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import (
    BALANCERS,
    contiguous,
    local_search,
    minimize_moves,
    relabel,
    scenario_search,
    search,
)
from moeopt.balancers.pairing import pairing
from moeopt.errors import NoPlacementError
from moeopt.methods import refusal
from moeopt.traces import Trace
from tests.balancers.problems import random_problem
from tests.instances import EPLB_README, INSTANCES

RELATIVE = 1e-9

EVERY = BALANCERS | {"pairing": pairing, "scenario_search": scenario_search}
STARTING = {
    "local_search": local_search,
    "minimize_moves": minimize_moves,
    "relabel": relabel,
    "search": search,
    "scenario_search": scenario_search,
}


def answer(balancer, problem):
    """The placement, checked; None if it is refused beforehand, with that reason, or a ceiling is not reached."""
    why = refusal(balancer, problem)
    if why:
        with pytest.raises(UnsupportedError, match=re.escape(why)):
            balancer(problem)
        return None
    try:
        placement = balancer(problem)
    except NoPlacementError:
        assert problem.max_makespan is not None
        assert (metrics.makespan(metrics.gpu_load(problem.load, problem.reference)) > problem.max_makespan).any()
        return None
    problem.check(placement)
    return placement


@pytest.mark.parametrize("balancer", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("name", INSTANCES)
def test_a_balancer_answers_feasibly_or_says_why_not(balancer, name):
    problem, optimum = INSTANCES[name].problem, INSTANCES[name].optimum
    placement = answer(balancer, problem)
    if placement is None:
        return
    assert optimum is not None
    makespan = metrics.makespan(metrics.gpu_load(problem.load, placement))[0]
    if problem.objective == "makespan":
        assert makespan >= optimum * (1 - RELATIVE)
    else:
        assert metrics.moves(problem.reference, placement)[0] >= optimum


def posed(balancer, seed):
    """A random problem, in steps for the balancer to which they make a difference."""
    problem = random_problem(seed)
    if balancer is not scenario_search:
        return problem
    loads = problem.load.values
    return replace(problem, load=Trace(np.random.default_rng(seed).poisson(loads, (4, *loads.shape))))


@pytest.mark.parametrize("balancer", EVERY.values(), ids=EVERY)
def test_random_problems_of_every_variant_are_refused_beforehand_or_placed_feasibly(balancer):
    """Until thirty are placed, or three hundred have been seen."""
    placed = seed = 0
    while placed < 30 and seed < 300:
        placed += answer(balancer, posed(balancer, seed)) is not None
        seed += 1
    assert placed >= 10


@pytest.mark.slow
@pytest.mark.parametrize("balancer", EVERY.values(), ids=EVERY)
def test_hundreds_of_random_problems_are_refused_beforehand_or_placed_feasibly(balancer):
    for seed in range(300, 900):
        answer(balancer, posed(balancer, seed))


@pytest.mark.parametrize("balancer", STARTING.values(), ids=STARTING)
def test_what_improves_a_start_takes_every_problem_that_does_not_care_about_moves(balancer):
    problems = [random_problem(seed) for seed in range(300)]
    for problem in problems:
        if problem.max_moves is None and problem.max_makespan is None:
            assert refusal(balancer, problem) == ""


@pytest.mark.parametrize("balancer", STARTING.values(), ids=STARTING)
def test_a_start_may_come_in_any_form_and_is_checked_before_it_is_used(balancer):
    problem = PlacementProblem(EPLB_README, 4, 16)
    start = contiguous(problem)
    expected = balancer(problem, start=start)
    for form in (start.phy2log.tolist(), start.phy2log.astype(np.int32), torch.tensor(start.phy2log)):
        assert balancer(problem, start=form) == expected
    lost = start.phy2log.copy()
    lost[lost == 11] = 0
    bad = [
        Placement(np.arange(12), 12, 2),  # other layers, GPUs and slots
        contiguous(PlacementProblem(EPLB_README, 4)),
        contiguous(PlacementProblem(EPLB_README, 8, 16)),
        contiguous(PlacementProblem([[*row, 1, 1] for row in EPLB_README], 4, 16)),
        start[0],
        lost,
        start.phy2log - 1,
    ]
    for other in bad:
        with pytest.raises(PlacementError):
            balancer(problem, start=other)
    for other in ("x", [[0.5] * 16] * 2, [[99] * 16] * 2, [[0, 1], [2]], 7, object()):
        with pytest.raises(InputError):
            balancer(problem, start=other)


BAD = {
    minimize_moves: [{"tolerance": value} for value in ("x", -1, None, float("nan"), True, [0.1])],
    pairing: [{"steps": value} for value in (0, -1, 1.5, "x", True)]
    + [{"seed": value} for value in (-1, 2**63, None, "x", 0.5, [1])],
    search: [{"budget": value} for value in (-1.0, float("nan"), "1", [1], True)]
    + [{"seed": value} for value in (-1, 2**63, None, "x", 0.5, [1])]
    + [{"target": value} for value in ("x", [1.0, 2.0, 3.0], float("nan"), object())],
}


@pytest.mark.parametrize(("balancer", "argument"), [(balancer, bad) for balancer in BAD for bad in BAD[balancer]])
def test_bad_arguments_are_named(balancer, argument):
    problem = PlacementProblem(EPLB_README, 8, 16)
    with pytest.raises(InputError, match=next(iter(argument))):
        balancer(problem, **argument)


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
@pytest.mark.parametrize("kind", [list, np.array, np.float64, torch.tensor])
def test_loads_may_come_as_list_array_or_tensor(balancer, kind):
    loads = np.array(EPLB_README, dtype=float) if kind is np.float64 else kind(EPLB_README)
    problem = PlacementProblem(loads, 3)
    assert balancer(problem) == balancer(PlacementProblem(EPLB_README, 3))


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_layers_are_independent(balancer):
    problem = PlacementProblem(EPLB_README, 4, 16, allow_empty_slots=True)
    together = balancer(problem)
    for layer in range(2):
        assert together[layer] == balancer(problem[layer])


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
@pytest.mark.parametrize("factor", [3, 1000])
def test_scaling_the_loads_scales_the_makespan(balancer, factor):
    loads = np.array(EPLB_README)
    small = PlacementProblem(loads, 4, 16, allow_empty_slots=True)
    large = PlacementProblem(loads * factor, 4, 16, allow_empty_slots=True)
    one = metrics.makespan(metrics.gpu_load(small.load, balancer(small)))
    many = metrics.makespan(metrics.gpu_load(large.load, balancer(large)))
    assert many == pytest.approx(one * factor)


SETTINGS = [(8, 256), (32, 288), (64, 320), (144, 288), (256, 256), (1, 256), (288, 288)]


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
@pytest.mark.parametrize(("gpus", "slots"), SETTINGS)
def test_recorded_layers_are_placed_feasibly(recording, balancer, gpus, slots):
    load = recording("deepseek-v3/decode_in1000out1000")[:6]
    problem = PlacementProblem(load, gpus, slots, allow_empty_slots=True)
    if balancer is BALANCERS["hot_replication"] and 256 % gpus:
        with pytest.raises(UnsupportedError, match=f"multiple of num_gpus={gpus}"):
            balancer(problem)
        return
    problem.check(balancer(problem))


@pytest.mark.parametrize("name", ["contiguous", "eplb", "bldm", "local_search", "minimize_moves", "relabel"])
def test_groups_stay_on_their_node(recording, name):
    load = recording("deepseek-v3/prefill_in1024")[:6]
    problem = PlacementProblem(load, 32, 288, num_nodes=4, num_groups=8)
    problem.check(BALANCERS[name](problem))


@pytest.mark.parametrize("name", ["eplb", "bldm", "local_search", "minimize_moves", "relabel", "contiguous"])
def test_a_layer_of_ties_and_zeros_is_no_trouble(recording, name):
    problem = PlacementProblem(recording("deepseek-v3/ten_token_smoke"), 32, 288)
    problem.check(BALANCERS[name](problem))
