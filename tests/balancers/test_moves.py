"""Balancers that care where experts are now: minimize_moves and relabel."""

from itertools import permutations

import numpy as np
import pytest

from moeopt import InputError, Placement, PlacementProblem, metrics
from moeopt.balancers import contiguous, eplb, local_search, minimize_moves, relabel


def _makespan(problem, placement):
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def test_experts_of_equal_load_go_home():
    problem = PlacementProblem([[5, 5, 3, 3]], 2)
    away = Placement([[1, 2, 0, 3]], 4, 2)
    assert metrics.moves(contiguous(problem), minimize_moves(problem, start=away)).tolist() == [2]
    swapped = Placement([[2, 1, 0, 3]], 4, 2)
    home = PlacementProblem([[5, 5, 5, 3]], 2)
    assert metrics.moves(contiguous(home), minimize_moves(home, start=swapped)).tolist() == [0]


@pytest.mark.parametrize("scale", [1, 10**9, 1e-6])
def test_the_ceiling_is_relative_to_the_makespan_of_the_start(scale):
    """Home are 199 and 161, the start has 200 and 160: one swap brings all home, and a GPU to 199."""
    loads = np.array([[100, 99, 60, 101]], dtype=float) * scale
    problem = PlacementProblem(loads, 2)
    start = Placement([[3, 1, 2, 0]], 4, 2)
    assert metrics.moves(contiguous(problem), minimize_moves(problem, start=start)).tolist() == [0]
    balanced = Placement([[3, 2, 1, 0]], 4, 2)
    assert metrics.moves(contiguous(problem), minimize_moves(problem, start=balanced)).tolist() == [0]
    away = PlacementProblem(np.array([[100, 50, 60, 101]], dtype=float) * scale, 2)
    start = Placement([[0, 2, 1, 3]], 4, 2)
    assert metrics.moves(contiguous(away), minimize_moves(away, start=start, tolerance=0.0)).tolist() == [2]
    assert metrics.moves(contiguous(away), minimize_moves(away, start=start, tolerance=0.01)).tolist() == [0]


def test_a_negative_tolerance_is_refused():
    with pytest.raises(InputError, match="tolerance must be >= 0, got -1"):
        minimize_moves(PlacementProblem([[1, 2]], 2), tolerance=-1)


@pytest.mark.parametrize("rules", [{}, {"num_nodes": 4, "num_groups": 8}])
def test_bringing_experts_home_saves_moves_at_little_cost(recording, rules):
    problem = PlacementProblem(recording("deepseek-v3/decode_in1000out1000"), 32, 288, **rules)
    before, after = eplb(problem), minimize_moves(problem)
    problem.check(after)
    home = contiguous(problem)
    assert (metrics.moves(home, after) <= metrics.moves(home, before)).all()
    assert metrics.moves(home, after).sum() < metrics.moves(home, before).sum()
    assert (_makespan(problem, after) <= 1.001 * _makespan(problem, before) * (1 + 1e-9)).all()
    looser = minimize_moves(problem, tolerance=0.05)
    assert metrics.moves(home, looser).sum() < metrics.moves(home, after).sum()


@pytest.mark.parametrize("seed", range(20))
def test_relabelling_is_optimal_over_all_permutations(seed):
    rng = np.random.default_rng(seed)
    problem = PlacementProblem([rng.integers(1, 50, 8)], 4, 12)
    home, start = contiguous(problem), eplb(problem)
    rows = start.by_gpu[0]
    best = min(
        metrics.moves(home, Placement(rows[list(order)].reshape(1, -1), 8, 4))[0] for order in permutations(range(4))
    )
    assert metrics.moves(home, relabel(problem)).tolist() == [best]


@pytest.mark.parametrize("seed", range(20))
def test_relabelling_keeps_nodes_together_and_is_optimal_among_such(seed):
    rng = np.random.default_rng(seed)
    problem = PlacementProblem([rng.integers(1, 50, 8)], 4, 12, num_nodes=2, num_groups=4)
    home, start = contiguous(problem), eplb(problem)
    rows = start.by_gpu[0]
    together = [order for order in permutations(range(4)) if {*order[:2]} in ({0, 1}, {2, 3})]
    best = min(metrics.moves(home, Placement(rows[list(o)].reshape(1, -1), 8, 4))[0] for o in together)
    relabelled = relabel(problem)
    problem.check(relabelled)
    assert metrics.moves(home, relabelled).tolist() == [best]


def test_relabelling_changes_no_gpu_load(recording):
    problem = PlacementProblem(recording("olmoe/olmoe_c4"), 8)
    before, after = eplb(problem), relabel(problem)
    loads = [np.sort(metrics.gpu_load(problem.load, placement), axis=1) for placement in (before, after)]
    assert loads[0] == pytest.approx(loads[1])


def test_swaps_from_the_old_placement_move_less_than_half_of_what_eplb_does(recording):
    """Re-planning from scratch moves most slots."""
    old = PlacementProblem(recording("deepseek-v3/decode_in1000out1000"), 32, 288)
    new = PlacementProblem(recording("deepseek-v3/decode_in1800out100"), 32, 288, reference=eplb(old))
    fresh, repaired = eplb(new), local_search(new, start=new.reference)
    assert metrics.moves(new.reference, repaired).sum() * 2 < metrics.moves(new.reference, fresh).sum()
    assert _makespan(new, repaired).mean() <= 1.05 * _makespan(new, fresh).mean()
