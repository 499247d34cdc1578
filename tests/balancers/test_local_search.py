import numpy as np
import pytest

from moeopt import PlacementProblem, metrics
from moeopt.balancers import contiguous, eplb, local_search
from tests.instances import INSTANCES


def _makespan(problem, placement):
    return metrics.makespan(metrics.gpu_load(problem.load, placement))


def test_one_swap_repairs_what_lpt_gets_wrong():
    instance = INSTANCES["LPT is 7/6 off"]
    assert _makespan(instance.problem, local_search(instance.problem)).tolist() == [instance.optimum]


@pytest.mark.parametrize("start", [eplb, contiguous])
@pytest.mark.parametrize(("gpus", "slots"), [(8, 256), (32, 288), (72, 288), (144, 288)])
def test_never_worse_than_the_start_and_a_local_optimum(recording, start, gpus, slots):
    problem = PlacementProblem(recording("deepseek-v3/prefill_in2000out100")[::8], gpus, slots)
    begin = start(problem)
    end = local_search(problem, start=begin)
    problem.check(end)
    assert (_makespan(problem, end) <= _makespan(problem, begin)).all()
    assert np.array_equal(end.replica_count, begin.replica_count)
    assert _makespan(problem, local_search(problem, start=end)) == pytest.approx(_makespan(problem, end))


def test_swaps_leave_no_better_single_swap_for_the_fullest_gpu():
    rng = np.random.default_rng(3)
    problem = PlacementProblem([rng.integers(1, 1000, 12)], 3)
    placement = local_search(problem)
    share = problem.load.values[0]
    loads = metrics.gpu_load(problem.load, placement)[0]
    full = int(loads.argmax())
    for gpu in set(range(3)) - {full}:
        for a in placement.by_gpu[0, full]:
            for b in placement.by_gpu[0, gpu]:
                shift = share[a] - share[b]
                assert max(loads[full] - shift, loads[gpu] + shift) >= loads.max() * (1 - 1e-9)


def test_no_two_copies_meet_on_a_gpu_where_that_is_forbidden():
    rng = np.random.default_rng(0)
    problem = PlacementProblem(rng.integers(1, 100, (20, 8)), 4, 12, allow_colocated=False)
    start = contiguous(problem)
    problem.check(start)
    problem.check(local_search(problem, start=start))


def test_an_empty_slot_swaps_like_a_replica_without_load():
    problem = PlacementProblem([[6, 5, 1]], 2, 4, allow_empty_slots=True)
    start = type(contiguous(problem))([[0, 1, 2, -1]], 3, 2)
    assert _makespan(problem, local_search(problem, start=start)).tolist() == [6]
