import io
import time

import numpy as np
import pytest
from PIL import Image

from moeopt import metrics
from moeopt.balancers import contiguous, eplb, local_search
from moeopt.errors import UnsupportedError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.document import document
from moeopt.report.figures import pictures
from moeopt.report.study import Effort, best_makespan, best_placement, layer_bound, study
from moeopt.report.tables import HEADINGS, SUMMARY_COLUMNS, cells, percent, summary_table, terminal
from moeopt.solution import LayerOutcome, conclude

HEURISTICS = {"contiguous": contiguous, "eplb": eplb, "local_search": local_search}


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return PlacementProblem(rng.integers(1, 100, (5, 8)), num_gpus=2, num_slots=8, allow_empty_slots=True)


def from_hint(problem, hint):
    return conclude(problem, [LayerOutcome(row, runtime=0.001) for row in hint.phy2log])


def test_exact_methods_start_from_the_best_heuristic_row_of_every_layer(problem):
    done = study(problem, HEURISTICS, {"exact": from_hint}, Effort(repeats=1))
    exact = done.layers[done.layers.method == "exact"].makespan.to_numpy()
    assert np.array_equal(exact, best_makespan(done))


def test_without_hint_they_start_from_nothing(problem):
    seen = []

    def solver(problem, hint):
        seen.append(hint)
        return from_hint(problem, contiguous(problem))

    study(problem, HEURISTICS, {"exact": solver}, Effort(repeats=1, hint=False))
    assert set(seen) == {None}


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_after_a_warm_up_every_layer_is_solved_once_as_many_at_first_as_jobs(problem, jobs):
    seen = []

    def solver(problem, hint):
        seen.append(problem.load.layer_ids)
        return from_hint(problem, hint)

    study(problem, HEURISTICS, {"exact": solver}, Effort(repeats=1, jobs=jobs))
    warm_up, first, *rest = seen
    assert warm_up == problem.load.layer_ids[:1]
    assert first == problem.load.layer_ids[:jobs]
    assert sum(rest, first) == problem.load.layer_ids


def test_layers_beyond_the_budget_are_skipped_with_the_reason(problem):
    def slow(problem, hint):
        time.sleep(0.06)
        return from_hint(problem, hint)

    done = study(problem, HEURISTICS, {"slow": slow}, Effort(repeats=1, budget=0.05))
    rows = done.layers[done.layers.method == "slow"]
    assert rows.status.tolist()[1:] == ["SKIPPED"] * 4
    assert rows.note.iloc[-1] == "not tried: slow had used its 0.05 s for this setting"


def test_a_solver_that_cannot_take_one_layer_still_gets_the_others(problem):
    def picky(problem, hint):
        if 2 in problem.load.layer_ids:
            raise UnsupportedError("not this one")
        return from_hint(problem, hint)

    rows = study(problem, HEURISTICS, {"picky": picky}, Effort(repeats=1)).layers.query("method == 'picky'")
    assert rows.status.eq("SKIPPED").tolist() == [False, False, True, False, False]


def test_the_best_placement_is_the_best_row_of_each(problem):
    done = study(problem, HEURISTICS, {}, Effort(repeats=1))
    best = best_placement(problem, done.runs)
    assert np.array_equal(metrics.makespan(metrics.gpu_load(problem.load, best)), best_makespan(done))


def test_hierarchical_bounds_are_at_least_the_global_ones_and_the_price_is_their_ratio():
    rng = np.random.default_rng(1)
    problem = PlacementProblem(rng.integers(1, 100, (3, 16)), 4, 16, num_nodes=2, num_groups=4, allow_empty_slots=True)
    done = study(problem, HEURISTICS, {}, Effort(repeats=1))
    assert (done.layers.lower_bound >= done.layers.global_bound).all()
    assert np.allclose(done.layers.policy_price, done.layers.lower_bound / done.layers.global_bound)
    assert np.array_equal(layer_bound(done.without_groups).value, done.layers.global_bound[:3])
    assert not done.without_groups.problem.hierarchical


def test_summary_numbers_are_those_of_the_layer_rows(problem):
    done = study(problem, HEURISTICS, {}, Effort(repeats=3))
    summary = summary_table([done])
    assert tuple(summary.columns) == SUMMARY_COLUMNS
    row, rows = summary.set_index("method").loc["eplb"], done.layers[done.layers.method == "eplb"]
    assert row.mean_gap == pytest.approx(rows.gap.mean())
    assert row.max_gap == rows.gap.max()
    assert row.step_gap == pytest.approx(rows.makespan.sum() / rows.lower_bound.sum() - 1)
    assert row.moves == rows.moves.sum()
    assert row.sigma == metrics.sigma(metrics.gpu_load(problem.load, eplb(problem)))
    assert row.runtime_ms_min <= row.runtime_ms_median <= row.runtime_ms_max
    assert len(done.runs["eplb"].seconds) == 3


def test_tables_fit_100_columns_even_with_long_cells(problem):
    from rich.console import Console

    summary = summary_table([study(problem, {"a_method_with_a_name": eplb}, {}, Effort(repeats=1))])
    row = summary.iloc[0].copy()
    row["max_gap"], row["moves"], row["runtime_ms_median"], row["sigma"] = 12.34567, 123456, 123456.0, 1.2e-6
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal("title", HEADINGS, [cells(row)]))
    text = console.export_text()
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_percent_never_shows_a_real_gap_as_zero():
    assert [percent(v) for v in (0.0, 1e-9, 1e-5, 0.25)] == ["0.000", "<0.001", "0.001", "25.000"]


def test_every_setting_has_four_pictures_of_modest_size(problem):
    done = study(problem, HEURISTICS, {}, Effort(repeats=1))
    drawn = pictures(done)
    assert sorted(drawn) == ["boxplot", "gap_by_layer", "gap_runtime", "heatmap"]
    for png in drawn.values():
        assert min(Image.open(io.BytesIO(png)).size) > 250
        assert len(png) < 400_000


def test_pictures_stand_layers_without_load_and_methods_without_placement():
    problem = PlacementProblem([[0, 0, 0, 0], [1, 2, 3, 4]], num_gpus=2, allow_empty_slots=True)

    def broken(problem):
        raise RuntimeError("broken")

    done = study(problem, {"contiguous": contiguous, "broken": broken}, {}, Effort(repeats=1))
    assert len(pictures(done)) == 4
    assert pictures(study(problem, {"broken": broken}, {}, Effort(repeats=1))) == {}


def test_open_layers_show_the_interval_that_holds_their_optimum(problem):
    def poor(problem):
        return Placement(contiguous(problem).phy2log[:, ::-1], problem.num_experts, problem.num_gpus)

    done = study(problem, {"poor": poor}, {}, Effort(repeats=1))
    facts = {
        "arguments": {"reference": None}, "traces": [], "impossible": ["t, 3 GPUs: no"], "small": [], "seed": 0,
        "effort": {"gap": 1e-4, "hint": True}, "command": ["--trace", "a b"], "versions": {}, "machine": {},
        "verification": None,
    }  # fmt: skip
    text = document([done], summary_table([done]), [], facts)
    worst = done.layers.loc[done.layers.gap.idxmax()]
    assert f"| {worst.layer} | {worst.lower_bound:.10g} | {worst.makespan:.10g} |" in text
    assert "python scripts/gap_report.py --trace 'a b'" in text
    assert "t, 3 GPUs: no" in text
