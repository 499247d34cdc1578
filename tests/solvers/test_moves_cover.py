import copy
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from moeopt import PlacementProblem, metrics
from moeopt.balancers import eplb, repair, search
from moeopt.bounds import Bound
from moeopt.methods import refusal
from moeopt.solution import Solution
from moeopt.verify.layer import Rejected, Undecided
from moeopt.verify.moves_cover import moves_cover as check
from moeopt.verify.solution import exact_layer
from solvers import moves_cover, solve
from solvers.drive import Limits
from solvers.moves_bound import moves_bound
from tests.moves_oracle import SHAPES, ceilings, random_problem
from tests.oracles import outcomes

PARTITIONS = [(experts, gpus, slots) for experts, gpus, slots in SHAPES if experts == gpus * slots]


def is_rejected(problem, value, certificate):
    try:
        check(exact_layer(problem, 0), Fraction(value), json.loads(json.dumps(certificate)))
    except Rejected:
        return True
    return False


def covered(problem, rng, noise):
    """What covers say with no bound known, from prices that are off by a share of a move; None = no prices at all."""
    certificate = moves_bound(problem, time_limit=0.1).certificate[0]
    if certificate is None:
        return None
    for row in certificate["bring"] + certificate["keep"]:
        row[-1] += int(noise * certificate["unit"] * rng.normal())
    nothing = Solution(problem, bound=Bound.of_layer(0.0, "moves_needed"))
    return moves_cover.LayerSearch(nothing, np.nan, certificate, Limits()).run()


def drifted(recording, gpus, layer, above, before="olmoe/olmoe_c4", after="olmoe/olmoe_arxiv"):
    """A recorded layer whose placement was made for other loads, with a ceiling a share above the best makespan."""
    problem = PlacementProblem(recording(before), gpus)[layer]
    reference = eplb(problem)
    problem = replace(problem, load=recording(after)[layer])
    best = metrics.makespan(metrics.gpu_load(problem.load, search(problem)))
    return replace(problem, reference=reference, max_makespan=best * (1 + above))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_whatever_the_prices_covers_find_and_prove_the_fewest_moves_of_every_tiny_partition(noise):
    rng = np.random.default_rng(int(10 * noise))
    proven = 0
    for _ in range(30):
        problem = random_problem(rng, PARTITIONS)
        found = outcomes(problem)
        choices = ceilings(problem, found, rng)
        ceiling = choices[rng.integers(len(choices))]
        posed = replace(problem, max_makespan=ceiling)
        limit = Fraction(float(posed.highest_makespan[0]))
        truth = min((moves for makespan, moves in found if makespan <= limit), default=None)
        answer = covered(posed, rng, noise)
        if answer is None or truth is None:
            assert answer is None or answer.placement is None
            continue
        if answer.placement is not None:
            assert answer.objective[0] == truth
        certificate = answer.certificate[0]
        if certificate is not None:
            proven += 1
            assert answer.lower_bound[0] <= truth
            assert not is_rejected(posed, answer.lower_bound[0], certificate)
            assert is_rejected(posed, truth + 1, {**certificate, "moves": truth + 1})
    assert proven >= 3


@pytest.fixture(scope="module")
def proven():
    """Sixteen experts on four GPUs whose prices leave a move in doubt, and what covers say."""
    rng = np.random.default_rng(4)
    before, after = rng.lognormal(0, 0.5, (2, 16)).round(3) * 1000
    problem = PlacementProblem([before], 4)
    problem = replace(problem, reference=eplb(problem), load=[after])
    best = metrics.makespan(metrics.gpu_load(problem.load, search(problem)))
    problem = replace(problem, max_makespan=best * 1.01)
    answer = covered(problem, rng, 0.05)
    assert answer.bound_source == ("moves_cover",)
    return problem, answer


def test_an_outsider_checks_the_fewest_moves_again(proven):
    problem, answer = proven
    assert answer.is_optimal
    assert not is_rejected(problem, answer.lower_bound[0], answer.certificate[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(unit=0), "must be above 0"),
        (lambda c: c.update(moves=c["moves"] - 1), "speaks of"),
        (lambda c: c.update(moves=c["moves"] + 1), "a placement has fewer moves"),
        (lambda c: c["prices"].pop(), "a price for every expert"),
        (lambda c: c["worth"].pop(), "a worth for every GPU"),
        (lambda c: c["worth"].__setitem__(1, c["worth"][1] - 1), "a content of GPU 1 is worth"),
        (lambda c: c.update(worth="much"), "not a list of integers"),
    ],
)
def test_a_false_certificate_is_rejected(proven, change, message):
    problem, answer = proven
    certificate = copy.deepcopy(answer.certificate[0])
    change(certificate)
    claim = answer.lower_bound[0] + (certificate["moves"] > answer.lower_bound[0])
    with pytest.raises(Rejected, match=message):
        check(exact_layer(problem, 0), Fraction(claim), certificate)


def test_a_certificate_that_lists_too_much_is_left_undecided(proven):
    problem, answer = proven
    certificate = {**answer.certificate[0], "moves": 1 << 41}
    with pytest.raises(Undecided, match="too large"):
        check(exact_layer(problem, 0), Fraction(1), certificate)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "is on moves"),
        ({"num_slots": 6, "reference": [[0, 1, 2, 3, 0, 1]], "max_makespan": 9.0}, "for partitions"),
        ({"reference": [[0, 1, 2, 3]], "max_makespan": 9.0, "num_nodes": 2, "num_groups": 2}, "without groups"),
    ],
)
def test_covers_say_what_they_do_not_take(rules, message):
    assert message in refusal(moves_cover.solve_layer, PlacementProblem([[4, 3, 2, 1]], 2, **rules))


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("above", [0.01, 0.05])
def test_recorded_partitions_of_64_experts_are_proven_with_the_fewest_moves(recording, layer, above):
    problem = drifted(recording, 8, layer, above)
    answer = solve(problem, time_limit=20)
    assert answer.is_optimal
    assert not answer.objective[0] > metrics.moves(problem.reference, repair(problem))[0]


def test_the_bound_alone_is_that_of_solve_where_its_moves_are_told_or_not(proven):
    problem, answer = proven
    for target in (None, answer.objective):
        bound = moves_cover.proven_moves(problem, target=target)
        assert bound.value.tolist() == answer.lower_bound.tolist()


@pytest.mark.slow
def test_256_experts_on_32_gpus_need_no_fewer_moves_than_covers_find(recording):
    problem = drifted(recording, 32, 12, 0.05, "deepseek-v3/decode_in1000out1000", "deepseek-v3/decode_in1800out100")
    answer = solve(problem, time_limit=20)
    assert answer.is_optimal
    assert answer.bound_source == ("moves_cover",)
    assert not is_rejected(problem, answer.lower_bound[0], answer.certificate[0])
