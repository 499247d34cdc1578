import copy
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from moeopt import InputError, PlacementProblem, UnsupportedError, metrics
from moeopt.balancers import eplb, search
from moeopt.bounds.moves import arrivals_needed
from moeopt.verify.copy_prices import copy_prices
from moeopt.verify.layer import Rejected
from moeopt.verify.solution import exact_layer
from solvers.moves_bound import moves_bound
from tests.moves_oracle import REPLICATED, SHAPES, random_problem
from tests.oracles import outcomes

NODES = {"num_nodes": 2, "num_groups": 2}

KINDS = {
    "replicas": (REPLICATED, {}),
    "replicas on different GPUs": ([s for s in REPLICATED if s[2] <= s[0]], {"allow_colocated": False}),
    "replicas, slots may stay empty": (REPLICATED[:7], {"allow_empty_slots": True}),
    "replicas, groups on nodes": ([(4, 2, 3), (2, 2, 2), (2, 4, 1), (4, 4, 2)], NODES),
    "partition": (SHAPES, {}),
}


def is_rejected(problem, value, certificate):
    try:
        copy_prices(exact_layer(problem, 0), Fraction(value), certificate)
    except Rejected:
        return True
    return False


def check_instance(problem, rng, stop_at_truth=True):
    """The bound of one layer at one ceiling against all placements; its distance from the truth, None if unposed."""
    found = outcomes(problem)
    makespans = sorted({makespan for makespan, _ in found})
    choices = [makespans[0], makespans[len(makespans) // 4], *(m for m, moves in found if moves == 0)]
    mean = problem.load.values.sum() / problem.num_gpus
    ceiling = [*map(float, choices), float(mean), float(choices[0]) * 1.05][rng.integers(len(choices) + 2)]
    posed = replace(problem, max_makespan=ceiling)
    limit = Fraction(ceiling) * (1 + Fraction(1, 10**9))
    truth = min((moves for makespan, moves in found if makespan <= limit), default=None)
    if stop_at_truth and truth is not None:
        bound = moves_bound(posed, target=np.array([truth], dtype=float), time_limit=2)
    else:
        bound = moves_bound(posed, time_limit=0.2)
    value, certificate = bound.value[0], bound.certificate[0]
    if np.isnan(value):
        assert certificate is None
        return None
    assert truth is None or value <= truth, (posed, ceiling)
    assert not is_rejected(posed, value, json.loads(json.dumps(certificate))), (posed, ceiling)
    if truth is None:
        return None
    assert is_rejected(posed, truth + 1, certificate)
    return truth - value


@pytest.mark.parametrize("kind", KINDS)
def test_no_price_proves_more_moves_than_a_placement_has(kind):
    rng = np.random.default_rng(len(kind))
    shapes, rules = KINDS[kind]
    gaps = [check_instance(random_problem(rng, shapes, **rules), rng) for _ in range(30)]
    known = [gap for gap in gaps if gap is not None]
    assert len(known) > 15
    assert np.mean([gap == 0 for gap in known]) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_price_proves_more_moves_than_any_of_many_placements_has(kind):
    rng = np.random.default_rng(100 + len(kind))
    shapes, rules = KINDS[kind]
    for _ in range(120):
        check_instance(random_problem(rng, shapes, **rules), rng, stop_at_truth=False)


@pytest.fixture(scope="module")
def hot():
    """Two hot experts beside four others on three GPUs, with two copies to spare; the loads have changed."""
    return PlacementProblem(
        [[40, 12, 10, 30, 9, 3, 1]], 3, 9, reference=[[0, 1, 2, 0, 3, 4, 1, 5, 6]], max_makespan=37.0
    )


def test_the_bound_and_its_check_see_a_copy_that_is_missing(hot):
    found = outcomes(hot)
    truth = min(moves for makespan, moves in found if makespan <= 37)
    bound = moves_bound(hot)
    assert bound.source == ("copy_prices",)
    assert 1 <= bound.value[0] <= truth
    assert not is_rejected(hot, bound.value[0], bound.certificate[0])
    assert is_rejected(hot, bound.value[0] + 1, bound.certificate[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(unit=0), "must be above 0"),
        (lambda c: c.update(unit=1.5), "'unit' is not an integer"),
        (lambda c: c["keep"].pop(), "must have 9 rows"),
        (lambda c: c["keep"].__setitem__(0, c["keep"][1]), "does not name the copies of the reference"),
        (lambda c: c["counts"][0].pop(), "counts' end at"),
        (lambda c: c["counts"].__setitem__(6, [1, *c["counts"][6][1:]]), "must rise"),
        (lambda c: c["counts"].__setitem__(6, [1, 2, 3]), "an expert may have 1 copies"),
        (lambda c: c["bring"][2].append(0), "every class of counts needs a price"),
        (lambda c: c["bring"].__setitem__(2, "prices"), "not a list of integers"),
        (lambda c: c.update(unit=c["unit"] * 100), "the prices prove"),
    ],
)
def test_a_false_certificate_is_rejected(hot, change, message):
    bound = moves_bound(hot)
    certificate = copy.deepcopy(bound.certificate[0])
    change(certificate)
    with pytest.raises(Rejected, match=message):
        copy_prices(exact_layer(hot, 0), Fraction(bound.value[0]), certificate)


def test_any_prices_are_honest(hot):
    """Random prices prove little, and the check agrees with the bound's own arithmetic on all of them."""
    rng = np.random.default_rng(0)
    truth = min(moves for makespan, moves in outcomes(hot) if makespan <= 37)
    certificate = copy.deepcopy(moves_bound(hot).certificate[0])
    for _ in range(50):
        for row in certificate["bring"]:
            row[:] = [price + int(rng.normal(0, 3e4)) for price in row]
        for row in certificate["keep"]:
            row[2:] = [price + int(rng.normal(0, 3e4)) for price in row[2:]]
        assert is_rejected(hot, truth + 1, certificate)


def test_a_target_that_is_reached_ends_the_search(hot):
    assert moves_bound(hot, target=np.array([1.0])).value[0] >= 1


def test_no_load_and_no_ceiling_are_no_bound():
    empty = PlacementProblem([[0, 0, 0]], 2, 4, reference=[[0, 1, 2, 2]], max_makespan=0.0)
    assert np.isnan(moves_bound(empty).value[0])
    with pytest.raises(InputError, match="reference and max_makespan"):
        moves_bound(PlacementProblem([[1, 2]], 2))
    large = PlacementProblem([[1] * 130], 2, reference=[list(range(130))], max_makespan=70.0)
    with pytest.raises(UnsupportedError, match="at most 32 slots per GPU, not 65"):
        moves_bound(large)


@pytest.mark.slow
def test_recorded_layers_with_replicas_need_more_moves_than_any_cheap_bound_says(recording):
    before = PlacementProblem(recording("deepseek-v3/decode_in1000out1000"), 32, 288)
    reference = eplb(before)
    after = replace(before, load=recording("deepseek-v3/decode_in1800out100"), reference=reference)
    best = metrics.makespan(metrics.gpu_load(after.load, search(after)))
    problem = replace(after, max_makespan=best * 1.05)[20]
    bound = moves_bound(problem, target=np.array([8.0]))
    assert bound.value[0] >= 8
    assert np.isnan(arrivals_needed(problem)[0])
    assert not is_rejected(problem, bound.value[0], bound.certificate[0])
