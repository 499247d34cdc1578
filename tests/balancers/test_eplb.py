import numpy as np
import pandas as pd
import pytest
import torch

from moeopt import InputError, PlacementProblem, metrics, rebalance_experts
from moeopt.balancers import eplb
from tests.instances import EPLB_README, INSTANCES
from tests.oracles import plain_eplb

HIERARCHICAL = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]


def test_the_example_of_eplbs_readme():
    problem = PlacementProblem(EPLB_README, 8, 16, num_nodes=2, num_groups=4)
    placement = eplb(problem)
    assert placement.phy2log.tolist() == HIERARCHICAL
    assert metrics.makespan(metrics.gpu_load(problem.load, placement)).tolist() == [156.0, 179.5]


def test_the_global_policy_on_the_same_loads():
    problem = PlacementProblem(EPLB_README, 8, 16)
    placement = eplb(problem)
    assert placement.phy2log[0].tolist() == [10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1]
    assert metrics.makespan(metrics.gpu_load(problem.load, placement)).tolist() == [138.5, 172.0]


@pytest.mark.parametrize(
    ("loads", "gpus", "ratio"), [([3, 3, 2, 2, 2, 0], 2, 7 / 6), ([5, 5, 4, 4, 3, 3, 3, 0, 0], 3, 11 / 9)]
)
def test_packing_reaches_grahams_ratio(loads, gpus, ratio):
    problem = PlacementProblem([loads], gpus)
    makespan = metrics.makespan(metrics.gpu_load(problem.load, eplb(problem)))[0]
    assert makespan == pytest.approx(ratio * sum(loads) / gpus)


SHAPES = [(256, 1, 1, 8), (288, 8, 4, 32), (288, 1, 1, 72), (320, 8, 8, 64), (288, 7, 4, 144), (256, 8, 4, 256)]


@pytest.mark.parametrize("trace", ["decode_in1000out1000", "prefill_in2000out100"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_drop_in_is_eplb_slot_by_slot_on_recorded_loads(recording, trace, shape):
    weight = torch.tensor(recording(f"deepseek-v3/{trace}").values[::12])
    for ours, plain in zip(rebalance_experts(weight, *shape), plain_eplb(weight, *shape), strict=True):
        assert torch.equal(ours, plain)
        assert ours.dtype == torch.int64


@pytest.mark.parametrize("seed", range(40))
def test_the_drop_in_is_eplb_slot_by_slot_on_random_shapes(seed):
    rng = np.random.default_rng(seed)
    nodes, groups_per_node, group_size = rng.integers(1, 4, size=3)
    gpus = int(nodes * rng.integers(1, 5))
    experts = int(nodes * groups_per_node * group_size)
    slots = -(-experts // gpus) * gpus + gpus * int(rng.integers(0, 4))
    weight = torch.tensor(rng.lognormal(12, 2, (3, experts)) + rng.permutation(experts) * 1e-3)
    shape = (slots, int(nodes * groups_per_node), int(nodes), gpus)
    for ours, plain in zip(rebalance_experts(weight, *shape), plain_eplb(weight, *shape), strict=True):
        assert torch.equal(ours, plain)


def test_float32_arithmetic_is_kept_where_it_changes_the_answer():
    big = 2**25
    problem = PlacementProblem([[big + 1, big, 1, 1]], 2)
    drop_in = rebalance_experts(torch.tensor([[big + 1, big, 1, 1]]), 4, 1, 1, 2)[0]
    assert drop_in.tolist() == eplb(problem).phy2log.tolist() == [[0, 2, 1, 3]]
    assert torch.equal(drop_in, plain_eplb([[big + 1, big, 1, 1]], 4, 1, 1, 2)[0])


def test_equal_loads_come_in_the_order_of_torchs_own_sort():
    """Copies of one expert weigh the same, and torch's sort is not stable: log2phy shows its choice."""
    weight = torch.tensor(np.random.default_rng(0).integers(1, 9, (6, 96)))
    phy2log, log2phy, _ = rebalance_experts(weight, 96, 1, 1, 8)
    falling = weight.float().sort(-1, descending=True).indices
    loads = [[0.0] * 8 for _ in range(6)]
    for layer, order in enumerate(falling.tolist()):
        filled = [0] * 8
        for expert in order:
            gpu = min((g for g in range(8) if filled[g] < 12), key=lambda g: loads[layer][g])
            assert phy2log[layer, gpu * 12 + filled[gpu]] == expert
            assert log2phy[layer, expert, 0] == gpu * 12 + filled[gpu]
            loads[layer][gpu] += float(weight[layer, expert])
            filled[gpu] += 1


def test_the_argument_forms_of_the_engines():
    weight = torch.tensor(EPLB_README)
    positional = rebalance_experts(weight, 16, 4, 2, 8)
    keywords = rebalance_experts(weight=weight, num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
    vllm = rebalance_experts(weight, 16, 4, 2, num_ranks=8)
    sglang = rebalance_experts(weight, 16, 4, 2, num_gpus=8, enable_hierarchical=True)
    for other in (keywords, vllm, sglang):
        assert all(torch.equal(a, b) for a, b in zip(positional, other, strict=True))
    without = rebalance_experts(weight, 16, 4, 2, 8, enable_hierarchical=False)
    assert torch.equal(without[0], rebalance_experts(weight, 16, 1, 1, 8)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EPLB_README, 15, 4, 2, 8), "num_replicas=15 is not a multiple of num_gpus=8"),
        ((EPLB_README, 8, 4, 2, 8), "num_replicas=8 is below num_experts=12"),
        ((EPLB_README, 16, 4, 2), "num_gpus"),
        ((EPLB_README, 16, 5, 1, 8), "num_experts=12 is not a multiple of num_groups=5"),
        ((EPLB_README, 16, 4, 4, 6), "num_replicas=16 is not a multiple of num_gpus=6"),
        ((EPLB_README, 12, 4, 2, 3), "num_gpus=3 is not a multiple of num_nodes=2"),
        ((EPLB_README, 16, 0, 2, 8), "num_groups must be >= 1, got 0"),
        (([1, 2, 3, 4], 4, 1, 1, 2), r"\[layers, experts\]"),
        (([[1, -2]], 2, 1, 1, 2), "load must be >= 0"),
        (([[1, float("nan")]], 2, 1, 1, 2), "finite"),
    ],
)
def test_what_crashes_the_original_is_named_here(arguments, message):
    with pytest.raises(InputError, match=message):
        rebalance_experts(torch.tensor(arguments[0]), *arguments[1:])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (None, "weight must hold numbers, got dtype object: None"),
        (np.array([["a", None]], dtype=object), r"weight must hold numbers, got dtype object: 'a' at \(0, 0\)"),
        ([["a", "b"]], "weight must hold numbers"),
        (pd.DataFrame({"a": [1], "b": ["x"]}), r"weight must hold numbers, got dtype object: 'x' at \(0, 1\)"),
        (torch.ones(1, 4, dtype=torch.complex64), "weight must hold real numbers"),
        (torch.ones(1, 4).to_sparse(), "weight must be a dense tensor"),
        (np.array([[1e300, 1, 1, 1]]), "finite"),
        (np.ones((0, 4)), "not empty"),
    ],
)
def test_what_is_no_matrix_of_loads_is_an_input_error(weight, message):
    with pytest.raises(InputError, match=message):
        rebalance_experts(weight, 4, 1, 1, 2)


@pytest.mark.parametrize("name", ["num_replicas", "num_groups", "num_nodes", "num_gpus"])
@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.array([2]), [2], 0, -1])
def test_what_is_no_positive_integer_is_named(name, value):
    arguments = {"num_replicas": 12, "num_groups": 2, "num_nodes": 1, "num_gpus": 2}
    message = "one of the two" if (name, value) == ("num_gpus", None) else name
    with pytest.raises(InputError, match=message):
        rebalance_experts(EPLB_README, **(arguments | {name: value}))


def test_the_policy_is_chosen_by_a_boolean_and_vllms_name_comes_back_in_messages():
    with pytest.raises(InputError, match="enable_hierarchical must be True, False or None, got 1"):
        rebalance_experts(EPLB_README, 16, 4, 2, 8, 1)
    with pytest.raises(InputError, match="num_ranks must be an integer, got '8'"):
        rebalance_experts(EPLB_README, 16, 4, 2, num_ranks="8")
    with pytest.raises(InputError, match="num_replicas=16 is not a multiple of num_ranks=7"):
        rebalance_experts(EPLB_README, 16, 4, 2, num_ranks=7)


@pytest.mark.parametrize("kind", [list, np.asarray, pd.DataFrame, np.float64, np.asfortranarray])
def test_the_drop_in_takes_loads_in_every_form_and_leaves_them_alone(kind):
    expected = rebalance_experts(torch.tensor(EPLB_README), 16, 4, 2, 8)
    weight = kind(EPLB_README)
    before = np.array(weight)
    for ours, theirs in zip(rebalance_experts(weight, np.int64(16), 4, 2, 8), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(np.array(weight), before)


def test_equal_loads_keep_the_lower_index_first():
    assert eplb(PlacementProblem([[1, 1, 1, 1]], 2)).phy2log.tolist() == [[0, 2, 1, 3]]
    assert eplb(PlacementProblem([[0, 0, 0, 0]], 2, 8)).replica_count.tolist() == [[5, 1, 1, 1]]


def test_two_slots_a_gpu_are_paired_optimally_for_given_counts():
    instance = INSTANCES["even pairs"]
    makespan = metrics.makespan(metrics.gpu_load(instance.problem.load, eplb(instance.problem)))[0]
    assert makespan == instance.optimum
