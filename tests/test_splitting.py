from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_array

from moeopt import InputError, Placement, PlacementProblem, balancers, metrics
from tests.conftest import recorded
from tests.oracles import plain_split
from tests.strategies import loads


@st.composite
def placed_loads(draw):
    """Loads of one layer and any map at all: copies on one GPU, empty slots, experts without a slot."""
    experts, gpus, size = draw(st.integers(1, 7)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    slots = draw(st.lists(st.integers(-1, experts - 1), min_size=gpus * size, max_size=gpus * size))
    return draw(loads(experts)), Placement([slots], experts, gpus)


def by_linear_program(loads, placement):
    """Least makespan of a layer as HiGHS finds it: tokens from experts to their hosts, none above T."""
    hosts = np.argwhere(placement.copies[0].T > 0)
    experts, gpus, edges = placement.num_experts, placement.num_gpus, np.arange(len(hosts))
    one, top = np.ones(len(hosts)), np.full(gpus, len(hosts))
    given_out = coo_array((one, (hosts[:, 0], edges)), (experts, len(hosts) + 1))
    taken = coo_array((np.r_[one, -np.ones(gpus)], (np.r_[hosts[:, 1], np.arange(gpus)], np.r_[edges, top])))
    placed = np.where(placement.replica_count[0] > 0, loads, 0)
    scale = max(placed.max(), 1)
    solved = linprog(
        np.r_[np.zeros(len(hosts)), 1], A_ub=taken, b_ub=np.zeros(gpus), A_eq=given_out, b_eq=placed / scale
    )
    return solved.fun * scale


@settings(deadline=None)
@given(placed_loads())
def test_the_split_is_the_best_of_all_subsets_of_experts_and_of_the_linear_program(drawn):
    row, placement = drawn
    exact = plain_split([Fraction(value) for value in row], placement.by_gpu[0].tolist())
    found = metrics.split_makespan([row], placement)[0]
    if all(isinstance(value, int) for value in row):
        assert found == float(exact)
    assert found == pytest.approx(float(exact), rel=1e-13, abs=0)
    assert found == pytest.approx(by_linear_program(np.array(row), placement), rel=1e-6)
    assert found <= metrics.makespan(metrics.gpu_load([row], placement))[0] * (1 + 1e-12)


@settings(deadline=None)
@given(st.data())
def test_the_split_of_counts_is_correctly_rounded_up_to_the_most_tokens_there_may_be(data):
    gpus = data.draw(st.integers(2, 6))
    row = data.draw(st.lists(st.integers(0, 2**53 // 5), min_size=5, max_size=5))
    slots = data.draw(st.lists(st.integers(0, 4), min_size=3 * gpus, max_size=3 * gpus))
    placement = Placement([slots], 5, gpus)
    assert metrics.split_makespan([row], placement)[0] == float(plain_split(row, placement.by_gpu[0].tolist()))


def test_more_gpus_than_exact_flows_allow_cost_roundings_only():
    row, gpus = [2**53 - 7, 3, 4], 1500
    slots = np.zeros(gpus, dtype=int)
    slots[:2] = [1, 2]
    assert metrics.split_makespan([row], Placement([slots], 3, gpus))[0] == pytest.approx(row[0] / 1498, rel=1e-12)


def test_tokens_reach_a_free_gpu_over_others():
    # 0 -> GPUs 0 and 1, 1 -> GPUs 1 and 2, 2 -> GPUs 2 and 3: GPU 3 relieves GPU 0 through both others
    placement = Placement([[0, 3, 0, 1, 1, 2, 2, -1]], 4, 4)
    assert metrics.split_makespan([[4, 4, 4, 4]], placement).tolist() == [4]
    assert metrics.makespan(metrics.gpu_load([[4, 4, 4, 4]], placement)).tolist() == [6]


def test_two_copies_on_one_gpu_are_one_host():
    assert metrics.split_makespan([[9, 1]], Placement([[0, 0, 1, -1]], 2, 2)).tolist() == [9]
    assert metrics.split_makespan([[9, 1]], Placement([[0, 1, 0, -1]], 2, 2)).tolist() == [5]


@settings(deadline=None)
@given(placed_loads(), st.integers(1, 50))
def test_scaling_loads_scales_the_split_and_renaming_gpus_changes_nothing(drawn, factor):
    row, placement = [np.floor(value) for value in drawn[0]], drawn[1]
    once = metrics.split_makespan([row], placement)[0]
    assert metrics.split_makespan([[value * factor for value in row]], placement)[0] == pytest.approx(once * factor)
    back = Placement(placement.by_gpu[:, ::-1].reshape(1, -1), placement.num_experts, placement.num_gpus)
    assert metrics.split_makespan([row], back)[0] == pytest.approx(once, rel=1e-13)


@pytest.mark.parametrize("slots", [(32, 288), (72, 288), (144, 288)], ids=str)
def test_recorded_layers_split_as_the_linear_program_splits_them(slots):
    problem = PlacementProblem(recorded("deepseek-v3/decode_in1000out1000")[::12], *slots)
    placement = balancers.eplb(problem)
    found = metrics.split_makespan(problem.load, placement)
    for layer in range(problem.num_layers):
        solved = by_linear_program(problem.load.values[layer], placement[layer])
        assert found[layer] == pytest.approx(solved, rel=1e-9)
        quotient = Fraction(found[layer]).limit_denominator(slots[0])
        assert found[layer] == float(quotient)


def test_every_layer_and_step_has_its_own_split():
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 50, (3, 2, 6))
    placement = Placement(rng.permuted(np.tile([0, 1, 2, 3, 4, 5, 0, 1], (2, 1)), axis=1), 6, 4)
    together = metrics.step_makespans(steps, placement, "optimal")
    alone = [[metrics.split_makespan(steps[t, [i]], placement[i])[0] for i in range(2)] for t in range(3)]
    assert together.tolist() == alone


def test_loads_and_placement_must_match():
    with pytest.raises(InputError, match="1 layers x 3 experts, placement is 1 x 2"):
        metrics.split_makespan([[1, 2, 3]], Placement([[0, 1]], 2, 2))
