import pickle
from dataclasses import replace

import numpy as np
import pytest

from moeopt import InputError, LoadMatrix, Placement, PlacementError, PlacementProblem

LOADS = [[9, 5, 4, 2], [1, 2, 3, 4]]
HOME = [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_slots_default_to_one_per_expert():
    problem = PlacementProblem(LOADS, 2)
    assert (problem.slots, problem.slots_per_gpu, problem.num_redundant) == (4, 2, 0)
    assert problem.objective == "makespan"
    assert not problem.hierarchical


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_gpus": 0}, "num_gpus must be >= 1, got 0"),
        ({"num_gpus": -2}, "num_gpus must be >= 1"),
        ({"num_gpus": 2.0}, "num_gpus must be an integer, got 2.0"),
        ({"num_gpus": True}, "num_gpus must be an integer"),
        ({"num_gpus": 3}, "num_slots=4 is not a multiple of num_gpus=3"),
        ({"num_gpus": 2, "num_slots": 5}, "num_slots=5 is not a multiple of num_gpus=2"),
        ({"num_gpus": 2, "num_slots": 2}, "num_slots=2 is below num_experts=4.*smallest that fits is 4"),
        ({"num_gpus": 2, "num_nodes": 3}, "num_gpus=2 is not a multiple of num_nodes=3"),
        ({"num_gpus": 2, "num_groups": 3}, "num_experts=4 is not a multiple of num_groups=3"),
        ({"num_gpus": 4, "num_nodes": 4, "num_groups": 2}, "num_groups=2 is not a multiple of num_nodes=4"),
        ({"num_gpus": 1, "num_slots": 6, "allow_colocated": False}, "allow_colocated=False with 6 slots"),
        ({"num_gpus": 2, "max_moves": 1}, "max_moves needs a reference"),
        ({"num_gpus": 2, "max_makespan": 1.0}, "max_makespan needs a reference"),
        ({"num_gpus": 2, "reference": HOME, "max_moves": -1}, "max_moves must be >= 0"),
        ({"num_gpus": 2, "reference": HOME, "max_makespan": -1.0}, "max_makespan must be finite and >= 0"),
        ({"num_gpus": 2, "reference": HOME, "max_makespan": [1.0] * 3}, "max_makespan must be a number or"),
        ({"num_gpus": 2, "reference": HOME, "max_makespan": 9.0, "max_moves": 1}, "exclude each other"),
        ({"num_gpus": 2, "split": "best"}, "split must be one of even, optimal, got 'best'"),
        ({"num_gpus": 2, "split": "optimal", "reference": HOME, "max_moves": 1}, "neither limits nor minimises moves"),
        (
            {"num_gpus": 2, "split": "optimal", "reference": HOME, "max_makespan": 9.0},
            "leave max_moves and max_makespan",
        ),
        ({"num_gpus": 2, "reference": HOME[:1]}, "reference has num_layers=1, the problem has 2"),
        ({"num_gpus": 2, "reference": Placement(HOME, 4, 4)}, "reference has num_gpus=4"),
        ({"num_gpus": 2, "reference": [[0, 1, 2, 9]] * 2}, "expert ids"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(rules, message):
    with pytest.raises(InputError, match=message):
        PlacementProblem(LOADS, **rules)


def test_layers_can_be_selected_with_everything_that_belongs_to_them():
    problem = PlacementProblem(LOADS, 2, reference=HOME, max_makespan=[7.0, 8.0])
    assert problem[1].load.layer_ids == (1,)
    assert problem[1].max_makespan.tolist() == [8.0]
    assert problem[1].reference.num_layers == 1
    assert problem[0:2] == problem


def test_the_split_stays_with_a_problem_and_scores_its_placements():
    problem = PlacementProblem(LOADS, 2, 6, split="optimal")
    placement = Placement([[0, 1, 2, 0, 3, 3], [3, 0, 1, 3, 2, 2]], 4, 2)
    for same in (problem[0:2], replace(problem, num_gpus=2), pickle.loads(pickle.dumps(problem))):
        assert same == problem
    assert problem != replace(problem, split="even")
    assert "tokens split among copies at best" in str(problem)
    assert problem.gpu_load(placement).tolist() == [[10, 10], [5, 5]]
    assert replace(problem, split="even").gpu_load(placement).tolist() == [[13.5, 6.5], [5, 5]]


def test_without_redundant_slots_there_is_nothing_to_split():
    assert not PlacementProblem(LOADS, 2, split="optimal").splits
    assert PlacementProblem(LOADS, 2, 6, split="optimal").splits
    assert not PlacementProblem(LOADS, 2, 6).splits


def test_problems_survive_pickling_and_replacing():
    problem = PlacementProblem(LOADS, 2, reference=HOME, max_moves=2)
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert hash(pickle.loads(pickle.dumps(problem))) == hash(problem)
    assert replace(problem, max_moves=3).max_moves == 3
    with pytest.raises(InputError, match="num_gpus=3"):
        replace(problem, num_gpus=3, num_slots=4)


@pytest.mark.parametrize(
    ("rules", "phy2log", "message"),
    [
        ({}, [[0, 1, 2, 2], [0, 1, 2, 3]], "layer 0: expert 3 has no slot"),
        ({"num_slots": 6}, [[0, 1, 2, 3, -1, 0], [0, 1, 2, 3, 0, 0]], "layer 0: slot 4 is empty"),
        (
            {"num_slots": 6, "allow_colocated": False},
            [[0, 1, 2, 3, 0, 1], [0, 0, 1, 2, 3, 1]],
            "layer 1: GPU 0 holds expert 0 twice",
        ),
        ({"num_nodes": 2, "num_groups": 2}, [[0, 1, 2, 3], [0, 2, 1, 3]], "layer 1: group 0 is spread"),
        ({"reference": HOME, "max_moves": 1}, [[0, 1, 2, 3], [0, 2, 1, 3]], r"layer 1: moves exceed max_moves=1 \(2\)"),
        ({"reference": HOME, "max_makespan": [14.0, 6.9]}, HOME, r"layer 1: makespan exceeds max_makespan \(7.0\)"),
        ({"num_slots": 6}, HOME, "placement has num_slots=4, not 6"),
    ],
)
def test_check_names_layer_rule_and_numbers(rules, phy2log, message):
    problem = PlacementProblem(LOADS, 2, **rules)
    with pytest.raises(PlacementError, match=message):
        problem.check(Placement(phy2log, 4, 2))


def test_check_speaks_of_the_traces_own_layer_ids():
    problem = PlacementProblem(LoadMatrix(LOADS, layer_ids=(3, 60)), 2)
    with pytest.raises(PlacementError, match="layer 60"):
        problem.check(Placement([[0, 1, 2, 3], [0, 0, 1, 2]], 4, 2))


def test_a_node_must_host_its_share_of_groups():
    problem = PlacementProblem([[1] * 8], 4, num_slots=16, num_nodes=2, num_groups=4)
    crowded = [[0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 6, 7, 6, 7, 6, 7]]
    with pytest.raises(PlacementError, match="node 0 does not host exactly 2 groups"):
        problem.check(Placement(crowded, 8, 4))


def test_no_feasible_count_exceeds_max_replicas():
    assert PlacementProblem(LOADS, 2, num_slots=8).max_replicas == 5
    assert PlacementProblem(LOADS, 2, num_slots=8, allow_colocated=False).max_replicas == 2
    assert PlacementProblem(LOADS, 2, num_slots=8, num_nodes=2, num_groups=2).max_replicas == 3


def test_groups_and_nodes_number_experts_and_gpus_in_order():
    problem = PlacementProblem([[1] * 8], 4, num_nodes=2, num_groups=4)
    assert problem.group_of_expert.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(problem.node_of_gpu, [0, 0, 1, 1])
