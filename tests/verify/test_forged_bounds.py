"""Forged bounds and certificates are rejected by the independent check, with a reason and without a crash."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from moeopt import Bound, PlacementProblem, verify, verify_bound
from moeopt.verify import bounds as checks
from moeopt.verify import configuration as trees
from moeopt.verify import walks
from moeopt.verify import window_cover as covers
from tests.verify.claims import accepts, branched, branched_pairs, claim, forged, largest_proven, pairs, triples

PARTITION = PlacementProblem([[40, 39, 38, 20, 11, 10, 9, 5, 4, 3, 2, 1]], 3)
REPLICATED = PlacementProblem([[0.1, 0.7, 1.3, 5.9]], 3, 6)
HIERARCHICAL = PlacementProblem([[9, 8, 7, 1, 5, 1, 1, 1]], 4, 12, num_nodes=2, num_groups=4)
BOUNDS = [
    (PARTITION, {"method": "mean_load"}),
    (PARTITION, {"method": "hottest_replica"}),
    (PARTITION, {"method": "hottest_with_companions"}),
    (PARTITION, {"method": "hot_on_few_gpus", "hottest": [0, 1, 2, 3]}),
    (PARTITION, {"method": "hottest_gpus", "hottest": [0, 1, 2]}),
    (REPLICATED, {"method": "mean_load"}),
    (REPLICATED, {"method": "hottest_replica"}),
    (REPLICATED, {"method": "hottest_with_companions"}),
    (HIERARCHICAL, {"method": "hottest_replica", "group": 0}),
    (HIERARCHICAL, {"method": "node_load"}),
    (replace(REPLICATED, split="optimal"), {"method": "hottest_with_companions"}),
    (replace(HIERARCHICAL, split="optimal"), {"method": "node_load"}),
]


@pytest.mark.parametrize(("problem", "certificate"), BOUNDS)
def test_a_bound_one_ulp_above_what_its_certificate_proves_is_rejected(problem, certificate):
    highest = largest_proven(problem, certificate, 0.0, 1000.0)
    assert highest > 0
    assert not accepts(problem, math.nextafter(highest, math.inf), certificate)


@pytest.mark.parametrize(
    "proven",
    [pairs, branched_pairs, triples, branched],
    ids=["pairing_lp", "pairing_tree", "configuration_lp", "configuration_tree"],
)
def test_a_proof_for_equal_shares_proves_nothing_where_tokens_go_to_any_copy(proven):
    problem, known = proven()
    certificate = known if isinstance(known, dict) else known.certificate[0]
    value = certificate["threshold"]
    assert accepts(problem, value, certificate)
    other = replace(problem, split="optimal")
    verdict = verify(other, claim(other, value, certificate)).layers[0]
    assert "proves nothing where tokens may go to any copy" in verdict.reason


def test_the_largest_value_proven_is_the_formulas_own():
    load = [Fraction(value) for value in REPLICATED.load.values[0].tolist()]
    mean = largest_proven(REPLICATED, {"method": "mean_load"}, 0.0, 1000.0)
    assert Fraction(mean) <= sum(load) / 3 < Fraction(math.nextafter(mean, math.inf))
    hottest = largest_proven(REPLICATED, {"method": "hottest_replica"}, 0.0, 1000.0)
    assert Fraction(hottest) <= load[3] / 3 < Fraction(math.nextafter(hottest, math.inf))
    assert largest_proven(PARTITION, {"method": "mean_load"}, 0.0, 1000.0) == math.ceil(182 / 3)
    assert largest_proven(PARTITION, {"method": "hottest_with_companions"}, 0.0, 1000.0) == 40 + 1 + 2 + 3


@pytest.mark.parametrize(
    "hottest",
    [
        [0, 1, 2, 4],
        [0, 0, 1, 2],
        [0, 1, 2, 12],
        [0, 1, 2, -1],
        [],
        [0.0, 1, 2, 3],
        "0123",
        None,
        [[0]],
    ],
)
@pytest.mark.parametrize("method", ["hot_on_few_gpus", "hottest_gpus"])
def test_a_wrong_list_of_hottest_experts_is_rejected(method, hottest):
    value = largest_proven(PARTITION, {"method": method, "hottest": [0, 1, 2, 3]}, 0.0, 1000.0)
    assert not accepts(PARTITION, value, {"method": method, "hottest": hottest})


def test_partition_certificates_prove_nothing_where_there_are_replicas():
    problem = PlacementProblem([[40, 39, 38, 20, 11, 10]], 4, 8)
    assert not accepts(problem, 1.0, {"method": "hot_on_few_gpus", "hottest": [0]})
    assert not accepts(problem, 1.0, {"method": "hottest_gpus", "hottest": [0, 1]})
    assert not accepts(problem, 1.0, {"method": "node_load"})


def test_hottest_gpus_too_large_to_search_is_left_undecided(monkeypatch):
    problem, certificate = (
        PlacementProblem([[26, 26, 26, 11, 10, 8, 6, 5, 1]], 3),
        {"method": "hottest_gpus", "hottest": [0, 1, 2]},
    )
    assert not accepts(problem, 41.0, certificate | {"method": "hot_on_few_gpus"})
    assert accepts(problem, 41.0, certificate)
    monkeypatch.setattr(checks, "MAX_DEALS", 3)
    verdict = verify(problem, claim(problem, 41.0, certificate)).layers[0]
    assert (verdict.ok, verdict.bound) == (True, "unknown")
    assert "takes too long" in verdict.reason


COVERED = PlacementProblem([[41, 37, 29, 23, 19, 17, 13, 11, 7, 5, 3, 2]], 4)
"""The mean load is 51.75; no placement stays below 53."""


@pytest.mark.parametrize("threshold", [53.5, 54, 100, 52.5, math.inf, math.nan, True, None, "53", [53], 10**400])
def test_forged_cover_certificates_are_rejected(threshold):
    assert accepts(COVERED, 53.0, {"method": "window_cover", "threshold": 53.0})
    assert not accepts(COVERED, 53.0, {"method": "window_cover", "threshold": threshold})


def test_a_cover_certificate_proves_nothing_beyond_its_threshold_or_with_replicas():
    assert accepts(COVERED, 52.5, {"method": "window_cover", "threshold": 53})
    assert not accepts(COVERED, 53.5, {"method": "window_cover", "threshold": 53})
    assert not accepts(PlacementProblem([[40, 20, 11]], 2, 4), 1.0, {"method": "window_cover", "threshold": 1.0})


@pytest.mark.parametrize("limit", ["MAX_EXPERTS", "MAX_SETS", "MAX_STEPS", "MAX_WORK"])
def test_covers_too_many_to_search_are_left_undecided(monkeypatch, limit):
    monkeypatch.setattr(covers, limit, 3)
    verdict = verify(COVERED, claim(COVERED, 53.0, {"method": "window_cover", "threshold": 53.0})).layers[0]
    assert (verdict.ok, verdict.bound) == (True, "unknown")
    assert "take" in verdict.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"threshold": c["threshold"] * 1.01},
        lambda c: {"needed": c["needed"] + 1},
        lambda c: {"needed": round(c["needed"] * 0.99)},
        lambda c: {"prices": [-1, *c["prices"][1:]]},
        lambda c: {"prices": c["prices"][1:]},
        lambda c: {"prices": [0] * len(c["prices"])},
        lambda c: {"prices": c["prices"][::-1]},
        lambda c: {"prices": [float(price) for price in c["prices"]]},
        lambda c: {"threshold": c["threshold"] * 0.99},
        lambda c: {"threshold": math.inf},
        lambda c: {"threshold": math.nan},
        lambda c: {"threshold": True},
        lambda c: {"needed": None},
    ],
)
def test_forged_configuration_certificates_are_rejected(change):
    problem, certificate = triples()
    changed = certificate | change(certificate)
    value = max(certificate["threshold"], changed["threshold"])
    assert not accepts(problem, value if math.isfinite(value) else certificate["threshold"], changed)


def changed_leaves(node, change):
    """The tree with every leaf changed."""
    if "expert" not in node:
        return change(node)
    return node | {part: changed_leaves(node[part], change) for part in ("fewer", "more")}


def with_leaves(change):
    return lambda tree: changed_leaves(tree, change)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree | {"fewer": tree["more"], "more": tree["fewer"]},
        lambda tree: tree | {"fewer": tree["more"]},
        lambda tree: tree | {"more": tree["fewer"]},
        lambda tree: tree | {"split": tree["split"] + 1},
        lambda tree: tree | {"split": 0},
        lambda tree: tree | {"split": 99},
        lambda tree: tree | {"split": float(tree["split"])},
        lambda tree: tree | {"expert": (tree["expert"] + 1) % 12},
        lambda tree: tree | {"expert": -1},
        lambda tree: tree | {"expert": 12},
        lambda tree: tree | {"expert": True},
        lambda tree: tree["fewer"],
        lambda tree: tree["more"],
        lambda tree: {key: tree[key] for key in ("expert", "split", "fewer")},
        lambda tree: [tree],
        lambda tree: None,
        with_leaves(lambda leaf: leaf | {"needed": leaf["needed"] + 1}),
        with_leaves(lambda leaf: leaf | {"needed": round(leaf["needed"] * 0.99)}),
        with_leaves(lambda leaf: leaf | {"prices": leaf["prices"][1:]}),
        with_leaves(lambda leaf: leaf | {"prices": [-1, *leaf["prices"][1:]]}),
        with_leaves(lambda leaf: leaf | {"prices": leaf["prices"][::-1]}),
        with_leaves(lambda leaf: {}),
    ],
)
def test_forged_trees_of_counts_are_rejected(change):
    problem, certificate = branched()
    assert accepts(problem, certificate["threshold"], certificate)
    assert not accepts(problem, certificate["threshold"], certificate | {"tree": change(certificate["tree"])})


def test_a_tree_proves_nothing_beyond_its_threshold():
    problem, certificate = branched()
    higher = certificate["threshold"] * (1 + 1e-6)
    assert not accepts(problem, higher, certificate)
    assert not accepts(problem, higher, certificate | {"threshold": higher})


def test_trees_too_large_to_search_are_left_undecided(monkeypatch):
    problem, certificate = branched()
    endless = certificate["tree"] | {}
    endless["fewer"] = endless["more"] = endless
    verdict = verify(problem, claim(problem, 1.0, certificate | {"tree": endless})).layers[0]
    assert (verdict.ok, verdict.bound) == (True, "unknown")
    monkeypatch.setattr(trees, "MAX_NODES", 3)
    verdict = verify(problem, claim(problem, 1.0, certificate)).layers[0]
    assert (verdict.ok, verdict.bound) == (True, "unknown")
    assert "takes too long" in verdict.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda c, high: {"threshold": high},
        lambda c, high: {"rounds": []},
        lambda c, high: {"rounds": None},
        lambda c, high: {"rounds": [7]},
        lambda c, high: {"rounds": [{}]},
        lambda c, high: {"rounds": [step | {"weights": [-w for w in step["weights"]]} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"weights": step["weights"][1:]} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"points": ["x"] * len(step["points"])} for step in c["rounds"]]},
        lambda c, high: {"rounds": [step | {"points": [math.nan] * len(step["points"])} for step in c["rounds"]]},
        lambda c, high: {"threshold": c["threshold"] * 0.999},
    ],
)
def test_forged_pairing_certificates_are_rejected(change):
    problem, solution = pairs()
    certificate = solution.certificate[0]
    high = float(solution.makespan[0])
    changed = certificate | change(certificate, high)
    assert not accepts(problem, max(certificate["threshold"], changed["threshold"]), changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda c, high: {"threshold": high},
        lambda c, high: {"threshold": c["threshold"] * 0.999},
        lambda c, high: {"threshold": 0.0},
        lambda c, high: {"method": "pairing_lp"},
        lambda c, high: {"slot": None},
        lambda c, high: {"slot": -c["slot"]},
        lambda c, high: {"slot": True},
        lambda c, high: {"prices": None},
        lambda c, high: {"prices": []},
        lambda c, high: {"prices": c["prices"][:-1]},
        lambda c, high: {"prices": [7]},
        lambda c, high: {"prices": [prices[1:] for prices in c["prices"]]},
        lambda c, high: {"prices": [[0.5] * len(prices) for prices in c["prices"]]},
        lambda c, high: {"prices": [[0] * len(prices) for prices in c["prices"]]},
        lambda c, high: {"prices": [[10**9 * price for price in prices] for prices in c["prices"]]},
        lambda c, high: {"nodes": []},
        lambda c, high: {"nodes": None},
        lambda c, high: {"nodes": [[0]]},
        lambda c, high: {"nodes": c["nodes"][:-1]},
        lambda c, high: {"nodes": c["nodes"][1:]},
        lambda c, high: {"nodes": [*c["nodes"], [0]]},
        lambda c, high: {"nodes": [[0, *node[1:]] for node in c["nodes"]]},
        lambda c, high: {"nodes": [[True, *node[1:]] for node in c["nodes"]]},
        lambda c, high: {"nodes": [[node[0], 99, node[2]] if len(node) == 3 else node for node in c["nodes"]]},
    ],
)
def test_forged_trees_are_rejected(change):
    problem, certificate = branched_pairs()
    assert accepts(problem, certificate["threshold"], certificate)
    high = certificate["threshold"] * (1 + 3e-6)  # the optimum is a millionth above the threshold
    changed = certificate | change(certificate, high)
    assert not accepts(problem, max(certificate["threshold"], changed["threshold"]), changed)


def test_a_tree_too_large_to_check_is_left_undecided(monkeypatch):
    problem, certificate = branched_pairs()
    monkeypatch.setattr(walks, "MAX_WORK", 100)
    verdict = verify_bound(problem, Bound.of_layer(certificate["threshold"], "pairing_tree", certificate)).layers[0]
    assert verdict.bound == "unknown"
    assert "takes too long" in verdict.reason


def test_a_pair_that_just_fits_is_a_walk():
    """Sizes 3 and 2 make 5: whatever the prices, they are collected where the threshold is 5, and not below."""
    problem = PlacementProblem([[3, 2]], 1)
    certificate = {"method": "pairing_walks", "slot": 1, "prices": [[5, 5]], "nodes": [[1]]}
    assert not accepts(problem, 5.0, certificate | {"threshold": 5.0})
    assert accepts(problem, 4.9, certificate | {"threshold": 4.9})


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_pair_that_just_fits_is_not_refuted(rounds):
    """Sizes 3 and 2 make 5: at the point 3 they cost exactly what a GPU may cost."""
    problem = PlacementProblem([[3, 2]], 1)
    step = {"points": [3.0], "weights": [1]}
    assert not accepts(problem, 5.0, {"method": "pairing_lp", "threshold": 5.0, "rounds": [step] * rounds})
    assert accepts(problem, 4.5, {"method": "pairing_lp", "threshold": 4.5, "rounds": [step] * rounds})


def test_a_pairing_search_relabelled_as_a_linear_proof_is_rejected():
    problem, solution = pairs()
    searched = solution.certificate[0] | {"method": "pairing_cpsat", "rounds": []}
    claimed = forged(solution, bound_source=("pairing_cpsat",), certificate=(searched,))
    assert verify(problem, claimed).layers[0].bound == "solver's claim"
    assert not accepts(problem, solution.lower_bound[0], searched | {"method": "pairing_lp"})


def test_the_certificate_of_another_layer_is_rejected():
    first, second = [40, 39, 38, 20, 11, 10, 9, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 9, 10, 11, 20, 38, 39, 40]
    problem = PlacementProblem([first, second], 3)
    solution = claim(problem, 1.0, None)
    own = ({"method": "hot_on_few_gpus", "hottest": [0, 1, 2]}, {"method": "hot_on_few_gpus", "hottest": [11, 10, 9]})
    assert verify(problem, forged(solution, certificate=own)).proven
    assert not verify(problem, forged(solution, certificate=own[::-1])).ok


@pytest.mark.parametrize(
    "certificate",
    [
        {}, [], "mean_load", 7, {"method": None}, {"method": ["mean_load"]}, {"method": "trust_me"},
        {"Method": "mean_load"}, {"method": "cpsat"}, {"method": "moves_needed"}, {"method": "hottest_gpus"},
        {"method": "hottest_replica", "group": 99}, {"method": "hottest_replica", "group": -1},
        {"method": "hottest_replica", "group": 10**5000}, {"method": "hottest_replica", "group": "0"},
        {"method": "pairing_lp"}, {"method": "pairing_lp", "threshold": 10**400, "rounds": []},
        {"method": "pairing_walks"}, {"method": "pairing_tree", "threshold": 60.0, "slot": 1, "prices": [[1]]},
        {"method": "pairing_cpsat", "threshold": 60.0}, {"method": "configuration_lp"},
        {"method": "configuration_lp", "threshold": 1e308}, {"method": "configuration_tree"},
        {"method": "configuration_tree", "threshold": 1e308, "tree": {}},
    ],
)  # fmt: skip
def test_malformed_and_unknown_certificates_are_rejected_without_a_crash(certificate):
    assert not accepts(PARTITION, 60.0, certificate)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_bound_is_rejected(value):
    assert not accepts(PARTITION, value, {"method": "mean_load"})
