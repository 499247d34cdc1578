"""What every balancer must do on every named instance and on recorded loads."""

import numpy as np
import pytest
import torch

from moeopt import PlacementError, PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import BALANCERS
from tests.instances import EPLB_README, INSTANCES

RELATIVE = 1e-9


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
@pytest.mark.parametrize("name", INSTANCES)
def test_a_balancer_answers_feasibly_or_says_why_not(balancer, name):
    problem, optimum = INSTANCES[name].problem, INSTANCES[name].optimum
    try:
        placement = balancer(problem)
        problem.check(placement)
    except (UnsupportedError, PlacementError):
        return
    assert optimum is not None
    makespan = metrics.makespan(metrics.gpu_load(problem.load, placement))[0]
    if problem.objective == "makespan":
        assert makespan >= optimum * (1 - RELATIVE)
    else:
        assert metrics.moves(problem.reference, placement)[0] >= optimum


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
