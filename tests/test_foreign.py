"""Balancers from elsewhere join a comparison: every signature in use, and every fault named."""

import functools

import numpy as np
import pytest
import torch

from moeopt import PlacementProblem, balancers, compare, from_rebalance_experts
from moeopt.errors import InputError
from moeopt.methods import refusal
from moeopt.traces import generate
from tests.oracles import plain_eplb

LOADS = generate(num_layers=3, num_experts=16, seed=1).total()
PROBLEM = PlacementProblem(LOADS, 4, 20)
GROUPED = PlacementProblem(LOADS, 4, 20, num_nodes=2, num_groups=4)


def eplb_of_deepseek(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return plain_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus)


def by_keyword(*, weight, num_replicas, num_groups, num_nodes, num_gpus):
    return plain_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus)


def by_position(weight, replicas, groups, nodes, gpus, /):
    return plain_eplb(weight, replicas, groups, nodes, gpus)


def of_vllm(weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None):
    return plain_eplb(weight, num_replicas, num_groups, num_nodes, num_ranks)[0]


def of_sglang(weight, num_replicas, num_groups, num_nodes, num_gpus, enable_hierarchical):
    nodes = num_nodes if enable_hierarchical else 1
    return plain_eplb(weight, num_replicas, num_groups, nodes, num_gpus)


def of_sglang_with_steps(
    tokens_per_expert, num_physical_experts, num_local_physical_experts, num_groups, num_nodes, enable_hierarchical
):
    gpus = num_physical_experts // num_local_physical_experts
    return plain_eplb(tokens_per_expert.sum(dim=0), num_physical_experts, num_groups, num_nodes, gpus)


def of_atom(weight, *, num_physical, num_groups, num_nodes, num_gpus, enable_hierarchical, policy=None, old_p2l=None):
    assert policy is old_p2l is None
    return plain_eplb(weight, num_physical, num_groups, num_nodes if enable_hierarchical else 1, num_gpus)


def in_numpy(expert_load, num_replicas, num_groups, num_nodes, num_gpus, **options):
    assert not options
    return plain_eplb(expert_load.numpy(), num_replicas, num_groups, num_nodes, num_gpus)[0].tolist()


def starred(*arguments):
    return plain_eplb(*arguments)


VARIANTS = [
    eplb_of_deepseek,
    by_keyword,
    by_position,
    of_vllm,
    of_sglang,
    of_sglang_with_steps,
    of_atom,
    in_numpy,
    starred,
    functools.partial(of_sglang, enable_hierarchical=True),
]


@pytest.mark.parametrize("problem", [PROBLEM, GROUPED], ids=["global", "hierarchical"])
@pytest.mark.parametrize("function", VARIANTS, ids=str)
def test_every_signature_of_eplb_is_called_as_it_wants(function, problem):
    nodes, groups = (2, 4) if problem.hierarchical else (1, 1)
    expected = plain_eplb(LOADS.values.copy(), 20, groups, nodes, 4)[0]
    assert np.array_equal(from_rebalance_experts(function)(problem).phy2log, expected)


def test_vllms_policy_is_told_the_placement_in_force():
    seen = []

    def policy(weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None):
        seen.append(old_global_expert_indices)
        return of_vllm(weight, num_replicas, num_groups, num_nodes, num_ranks)

    reference = balancers.contiguous(PROBLEM)
    from_rebalance_experts(policy)(PlacementProblem(LOADS, 4, 20, reference=reference))
    from_rebalance_experts(policy)(PROBLEM)
    assert np.array_equal(seen[0].numpy(), reference.phy2log)
    assert seen[1] is None


@pytest.mark.parametrize("start", [None, balancers.eplb(PROBLEM)], ids=["contiguous", "reference"])
def test_a_policy_of_vllm_ascend_is_told_where_experts_are_and_what_each_slot_serves(start):
    def policy(current_expert_table, expert_workload):
        table, work = current_expert_table.numpy(), expert_workload.numpy()
        assert np.array_equal(table.reshape(3, 20), (start or balancers.contiguous(PROBLEM)).phy2log)
        load = [np.bincount(table[i].ravel(), work[i].ravel()) for i in range(3)]
        assert np.allclose(load, LOADS.values, rtol=1e-12)
        changed = plain_eplb(np.rint(load), 20, 1, 1, 4)[0].reshape(3, 4, 5)
        return 1, np.arange(3), changed.tolist()

    expected = plain_eplb(LOADS.values.copy(), 20, 1, 1, 4)[0]
    method = from_rebalance_experts(policy)
    assert np.array_equal(method(PlacementProblem(LOADS, 4, 20, reference=start)).phy2log, expected)
    assert refusal(method, GROUPED) == "policy takes no nodes and groups"


def test_what_else_a_function_returns_is_its_own_business():
    def with_ranks(weight, num_physical_experts, num_groups, num_nodes, num_gpus):
        phy2log = eplb_of_deepseek(weight, num_physical_experts, num_groups, num_nodes, num_gpus)[0]
        return phy2log, torch.zeros_like(phy2log), None, {"seconds": 1}

    problem = PlacementProblem(LOADS, 4)
    assert from_rebalance_experts(with_ranks)(problem).num_slots == 16


def test_what_is_passed_is_a_copy():
    def greedy(weight, num_replicas, num_groups, num_nodes, num_gpus):
        answer = eplb_of_deepseek(weight, num_replicas, num_groups, num_nodes, num_gpus)
        weight.zero_()
        return answer

    from_rebalance_experts(greedy)(PROBLEM)
    assert PROBLEM.load.values.any()


def answering(change):
    """EPLB, its answer changed."""

    def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
        return change(*(table.clone() for table in plain_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus)))

    return rebalance_experts


def without_expert_5(phy2log, log2phy, logcnt):
    phy2log[1][phy2log[1] == 5] = 6
    return phy2log


def one_copy_more(phy2log, log2phy, logcnt):
    logcnt[2, 7] += 1
    return phy2log, log2phy, logcnt


def another_slot(phy2log, log2phy, logcnt):
    log2phy[1, 3, 0] = (log2phy[1, 3, 0] + 1) % 20
    return phy2log, log2phy, logcnt


def failing(phy2log, log2phy, logcnt):
    raise KeyError("no such node")


FAULTS = {
    "a missing expert": (without_expert_5, "layer 1: expert 5 has no slot"),
    "other counts": (one_copy_more, r"layer 2: logcnt has \d copies of expert 7, phy2log has \d"),
    "other slots": (another_slot, r"layer 1: log2phy says that slot \d+ holds expert 3, phy2log does not"),
    "too few slots": (lambda phy2log, *rest: phy2log[:, :16], r"phy2log of shape \[3, 16\], not \[3, 20\]"),
    "too few layers": (lambda phy2log, *rest: phy2log[1:], r"phy2log of shape \[2, 20\]"),
    "an unknown expert": (lambda phy2log, *rest: phy2log + 1, r"expert ids in \[-1, 16\), got 16"),
    "an empty slot": (
        lambda phy2log, *rest: torch.where(torch.arange(20) == 9, -1, phy2log),
        r"layer \d: expert \d+ has no slot|layer 0: slot 9 is empty",
    ),
    "counts of other layers": (lambda a, b, c: (a, b, c[1:]), r"logcnt is for \[2, 16\] .layers, experts., not"),
    "halves": (lambda phy2log, *rest: phy2log + 0.5, "must hold integers"),
    "nothing": (lambda *tables: None, "phy2log must hold numbers"),
    "an exception": (failing, "KeyError: 'no such node'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_a_balancer_does_wrong_is_named_beside_the_others(case):
    change, rule = FAULTS[case]
    table = compare(PROBLEM, {"eplb": balancers.eplb, "theirs": from_rebalance_experts(answering(change))})
    theirs = table[table.method == "theirs"]
    assert set(theirs.status) == {"ERROR"}
    assert theirs.note.str.contains(rule).all(), theirs.note.iloc[0]
    assert set(table[table.method == "eplb"].status) <= {"OPTIMAL", "FEASIBLE"}


def test_a_group_on_two_nodes_is_named():
    def ignoring_groups(weight, num_replicas, num_groups, num_nodes, num_gpus):
        return plain_eplb(weight, num_replicas, 1, 1, num_gpus)

    table = compare(GROUPED, {"theirs": from_rebalance_experts(ignoring_groups)})
    assert table.note[0].startswith("layer 0: group 0 is spread over several nodes")


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda weight, num_replicas, num_groups, num_nodes, num_gpus, fabric: None, "needs fabric, which a problem"),
        (lambda a, b: None, "function takes 2 arguments; EPLB's are weight, num_replicas"),
        (lambda a, b, c, d, e, f: None, "function needs a, b, c, d, e, f; EPLB's are"),
        (lambda *, a, b: None, "function needs a, b; EPLB's are"),
        (7, "function must be callable, got 7"),
    ],
)
def test_a_function_that_needs_something_else_is_refused_when_it_is_given(function, rule):
    with pytest.raises(InputError, match=rule):
        from_rebalance_experts(function)
