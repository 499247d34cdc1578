"""Methods by name and by file."""

import numpy as np
import pytest

from moeopt import Placement, PlacementProblem, balancers
from moeopt.errors import InputError
from moeopt.picking import method_from_file, pick_methods

PROBLEM = PlacementProblem(np.arange(48).reshape(3, 16), 4, 20)

FILE = """
import torch
from moeopt import Placement
from .neighbour import in_order


def method(problem):
    slots = in_order(problem.num_layers, problem.slots, problem.num_experts)
    return Placement(slots, problem.num_experts, problem.num_gpus)


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return in_order(len(weight), num_replicas, weight.shape[1])


class Policy:
    @classmethod
    def rebalance_experts(cls, weight, num_replicas, num_groups, num_nodes, num_ranks):
        return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_ranks)

    def with_object(self, weight, num_replicas, num_groups, num_nodes, num_ranks):
        return self.rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_ranks)


class Mindful:
    def __init__(self):
        self.asked = 0

    def plan(self, weight, num_replicas, num_groups, num_nodes, num_ranks):
        self.asked += 1
        return in_order(len(weight), num_replicas, weight.shape[1]).roll(self.asked, dims=1)


class Needy:
    def __init__(self, config):
        pass

    def plan(self, weight, num_replicas, num_groups, num_nodes, num_ranks):
        pass


def wants_more(weight, num_replicas, num_groups, num_nodes, num_gpus, fabric):
    pass


number = 3
"""
NEIGHBOUR = """
import torch


def in_order(layers, slots, experts):
    return torch.arange(slots).repeat(layers, 1) % experts
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "theirs.py").write_text(FILE)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "broken.py").write_text("import moeopt_has_no_such_package\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)\n")
    return tmp_path / "theirs.py"


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("method", "theirs.method"),
        ("rebalance_experts", "theirs.py"),
        ("Policy.rebalance_experts", "theirs.py"),
        ("Policy.with_object", "theirs.with_object"),
    ],
)
def test_a_function_in_a_file_is_a_method(name, called, file):
    method = method_from_file(f"{file}:{name}")
    assert method(PROBLEM) == Placement(np.tile(np.arange(20) % 16, (3, 1)), 16, 4)
    assert method.__name__ == called


def test_an_answer_does_not_depend_on_what_was_asked_before(file):
    method = method_from_file(f"{file}:Mindful.plan")
    assert method(PROBLEM) == method(PROBLEM)


def test_what_fails_in_a_file_is_named_by_it(file):
    file.write_text("def plan(problem):\n    assert problem.num_gpus == 7, 'seven, please'\n")
    with pytest.raises(InputError, match=r"theirs.plan failed: AssertionError: seven, please"):
        method_from_file(f"{file}:plan")(PROBLEM)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{folder}/theirs.py", "must be path/to/file.py:function"),
        ("{folder}/theirs.py:", "must be path/to/file.py:function"),
        ("{folder}/none.py:method", "none.py: no such file"),
        ("{folder}/theirs.py:other", "no other there; there are .*method, rebalance_experts"),
        ("{folder}/theirs.py:Policy.other", "no other there; there are "),
        ("{folder}/theirs.py:number", "is a int, not a function"),
        ("{folder}/theirs.py:Policy", "is a type, not a function"),
        ("{folder}/theirs.py:Needy.plan", "TypeError: .*config"),
        ("{folder}/theirs.py:wants_more", "needs fabric, which a problem has no answer to"),
        ("{folder}/broken.py:method", "ModuleNotFoundError: No module named 'moeopt_has_no_such_package'"),
        ("{folder}/leaving.py:method", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_line(text, rule, file):
    with pytest.raises(InputError, match=rule) as caught:
        method_from_file(text.format(folder=file.parent))
    assert str(caught.value).startswith("methods ")
    assert "\n" not in str(caught.value)


def test_methods_are_picked_from_tables_and_files(file):
    solvers = {"exact": lambda problem: None}
    names = ["eplb", f"{file}:method", "exact", f"{file}:method"]
    heuristics, exact = pick_methods(names, balancers.BALANCERS, solvers)
    assert list(heuristics) == ["eplb", "theirs.method", "theirs.method-2"]
    assert exact == solvers
    with pytest.raises(InputError, match=r"methods 'magic' is unknown; there are .*eplb.*exact, and path/to/file.py"):
        pick_methods(["magic"], balancers.BALANCERS, solvers)
