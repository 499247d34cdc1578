import json
from dataclasses import replace

import numpy as np
import pytest

from moeopt.balancers import contiguous, eplb, search
from moeopt.bounds import Bound
from moeopt.problem import PlacementProblem
from moeopt.report.certificates import certify
from moeopt.report.study import Effort, study
from moeopt.solution import Solution
from solvers import solve


@pytest.fixture(scope="module")
def done():
    rng = np.random.default_rng(2)
    problem = PlacementProblem(rng.integers(1, 1000, (3, 16)), num_gpus=4, num_slots=20, allow_empty_slots=True)
    return study(
        problem, {"contiguous": contiguous, "eplb": eplb, "search": search}, {"solve": solve}, Effort(1, time_limit=1.0)
    )


def test_a_true_study_is_accepted_and_every_placement_and_bound_counted(done):
    checked = certify([done])
    assert not checked.rejected
    assert checked.summary.startswith("verified: 12 placements, 3 bounds")
    (setting,) = json.loads(checked.content)["settings"]
    assert [layer["layer"] for layer in setting["layers"]] == [0, 1, 2]
    assert set(setting["layers"][0]["placements"]) == set(done.runs)


@pytest.mark.parametrize(
    ("column", "forge"),
    [
        ("makespan", lambda value: value * (1 - 1e-6)),
        ("moves", lambda value: value - 1),
        ("gap", lambda value: value / 2),
        ("lower_bound", lambda value: value * (1 + 1e-6)),
        ("status", lambda value: "OPTIMAL"),
    ],
)
def test_every_number_of_the_table_that_is_not_so_is_rejected(done, column, forge):
    table = done.layers.copy()
    row = table.index[(table.method == "eplb") & (table.layer == 1)][0]
    true = table.loc[row, column]
    table.loc[row, column] = forge(true)
    rejected = certify([replace(done, layers=table)]).rejected
    assert len(rejected) == 1
    assert "eplb, layer 1: REJECTED: the table says" in rejected[0]
    assert column in rejected[0]


def test_a_placement_that_is_not_shown_is_rejected_too(done):
    table = done.layers.copy()
    table.loc[(table.method == "search") & (table.layer == 2), ["makespan", "gap"]] = np.nan
    (reason,) = certify([replace(done, layers=table)]).rejected
    assert "makespan nan" in reason


def test_a_bound_with_a_certificate_that_proves_less_is_rejected_once_for_all_methods(done):
    bound = done.known.bound
    value = np.minimum(bound.value * 1.0001, done.known.makespan)
    assert (value > bound.value).any()
    raised = Bound(value, bound.source, bound.certificate)
    rejected = certify([replace(done, known=replace(done.known, bound=raised))]).rejected
    assert any("shared bound" in reason for reason in rejected)


def test_the_relaxation_of_a_policy_is_checked_as_well():
    rng = np.random.default_rng(1)
    problem = PlacementProblem(rng.integers(1, 100, (2, 16)), 4, 16, num_nodes=2, num_groups=4, allow_empty_slots=True)
    done = study(problem, {"eplb": eplb}, {}, Effort(repeats=1))
    assert certify([done]).summary.startswith("verified: 4 placements, 4 bounds")


def test_methods_without_placement_are_no_fault():
    problem = PlacementProblem([[4, 3, 2, 1]], num_gpus=2, allow_empty_slots=True)

    def nothing(problem, **options):
        return Solution(problem)

    assert not certify([study(problem, {"eplb": eplb}, {"nothing": nothing}, Effort(repeats=1))]).rejected
