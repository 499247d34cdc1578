import io
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from moeopt import metrics
from moeopt.balancers import contiguous, eplb, local_search
from moeopt.cluster import Cluster
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.report.document import agreement, dispatch_price, document, headline, price
from moeopt.report.figures import pictures
from moeopt.report.study import Effort, study
from moeopt.report.tables import HEADINGS, SummaryRow, cells, percent, summarise, summary_table, terminal
from moeopt.solution import Solution
from solvers import solve_cpsat
from tests.report.facts import facts_of

HEURISTICS = {"contiguous": contiguous, "eplb": eplb, "local_search": local_search}
ONCE = Effort(repeats=1, time_limit=2.0)


def reversed_layout(problem):
    return Placement(contiguous(problem).phy2log[:, ::-1], problem.num_experts, problem.num_gpus)


def only_some(problem, **options):
    """Has placements on the last two layers."""
    rows = contiguous(problem).phy2log.copy()
    rows[:-2] = -1
    return Solution(problem, rows)


def test_summary_numbers_are_those_of_the_layer_rows(problem):
    done = study(problem, HEURISTICS, {}, Effort(repeats=3))
    summary = summary_table([done])
    assert list(summary.columns) == [field.name for field in fields(SummaryRow)]
    row, rows = summary.set_index("method").loc["eplb"], done.layers[done.layers.method == "eplb"]
    assert row.mean_gap == pytest.approx(rows.gap.mean())
    assert row.max_gap == rows.gap.max()
    assert row.step_gap == pytest.approx(rows.makespan.sum() / rows.lower_bound.sum() - 1)
    assert row.moves == rows.moves.sum()
    assert row.sigma == metrics.sigma(metrics.gpu_load(problem.load, eplb(problem)))
    assert row.runtime_ms_min <= row.runtime_ms_median <= row.runtime_ms_max
    assert len(done.runs["eplb"].seconds) == 3


def test_a_method_with_placements_on_some_layers_only_is_shown_with_their_number(problem):
    done = study(problem, HEURISTICS, {"some": only_some}, ONCE)
    row = summarise(done)[-1]
    rows = done.layers[(done.layers.method == "some") & done.layers.makespan.notna()]
    assert (row.layers_solved, row.layers) == (2, 5)
    assert cells(row)[0] == "some (2/5)"
    assert row.mean_gap == pytest.approx(rows.gap.mean())
    assert row.moves == 0
    assert "| some (2/5) |" in document([done], [], facts_of())
    assert len(pictures(done)) == 4


def test_a_study_without_any_placement_has_dashes_and_words(problem):
    def broken(problem):
        raise RuntimeError("broken")

    done = study(problem, {"broken": broken}, {}, ONCE)
    text = document([done], [], facts_of())
    assert "| broken | - |" in text
    assert "Optimum proven on 0 of 5 layers; 5 have no placement." in text
    assert "broken: RuntimeError: broken" in text


def test_the_price_of_groups_speaks_of_the_layers_that_have_placements_both_ways():
    rng = np.random.default_rng(1)
    problem = PlacementProblem(rng.integers(1, 100, (3, 16)), 4, 16, num_nodes=2, num_groups=4, allow_empty_slots=True)
    whole = study(problem, {"contiguous": contiguous}, {}, ONCE)
    assert price(whole, whole.without_groups).endswith("% of the step.")
    part = study(problem, {}, {"some": only_some}, ONCE)
    ours, free = part.known[[1, 2]], part.without_groups.known[[1, 2]]
    most = ours.makespan.sum() / free.lower_bound.sum() - 1
    assert f"and {percent(most)} % of the step (of the 2 layers with placements)" in price(part, part.without_groups)
    none = study(problem, {}, {}, ONCE)
    assert "not known" in price(none, none.without_groups)


def test_the_price_of_equal_shares_is_the_ratio_of_bounds_and_an_interval():
    problem = PlacementProblem([[10, 8, 7]], 2, 4)  # 13 with equal shares, 12.5 with any

    def best(problem):
        return Placement([[0, 1, 0, 2]], problem.num_experts, problem.num_gpus)

    cheap, exact = (
        study(problem, {"best": best}, {}, ONCE),
        study(problem, {"best": best}, {"cpsat": solve_cpsat}, ONCE),
    )
    assert "0.000 % as the ratio of the two bounds; proven to lie between 0.000 and 4.000 %" in dispatch_price(cheap)
    assert "4.000 % as the ratio of the two bounds; proven to lie between 4.000 and 4.000 %" in dispatch_price(exact)
    assert dispatch_price(exact) in headline(exact)


def test_without_redundant_slots_equal_shares_have_no_price(problem):
    assert not any("dispatch" in sentence for sentence in headline(study(problem, HEURISTICS, {}, ONCE)))


def test_the_headline_names_the_best_heuristic_and_no_exact_method(problem):
    done = study(problem, HEURISTICS, {"cpsat": solve_cpsat}, ONCE)
    sentences = headline(done)
    assert sentences[0] == "Optimum proven on 5 of 5 layers."
    best = min((r for r in summarise(done) if r.method in HEURISTICS), key=lambda r: r.step_gap)
    assert sentences[1].startswith(f"Best heuristic: {best.method}, step gap {percent(best.step_gap)} %")


def test_agreement_counts_a_failing_method_as_unfinished_and_a_refusing_one_not_at_all(problem):
    def failing(problem, **options):
        raise RuntimeError("broken")

    from solvers import solve_pairing

    exact = {"cpsat": solve_cpsat, "failing": failing, "pairing": solve_pairing}
    text = agreement([study(problem, HEURISTICS, exact, Effort(repeats=1, time_limit=2.0, warm=False))])
    assert "each on its own: cpsat." in text
    assert "Not on every layer: failing." in text
    assert "pairing" not in text


def test_tables_fit_100_columns_even_with_long_cells(problem):
    from rich.console import Console

    row = summarise(study(problem, {"a_method_with_a_name": eplb}, {}, ONCE))[0]
    row = replace(row, max_gap=12.34567, moves=123456, runtime_ms_median=123456.0, sigma=1.2e-6)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal("title", HEADINGS, [cells(row)]))
    text = console.export_text()
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_percent_never_shows_a_real_gap_as_zero():
    assert [percent(v) for v in (0.0, 1e-9, 1e-5, 0.25)] == ["0.000", "<0.001", "0.001", "25.000"]


def test_every_setting_has_four_pictures_of_modest_size(problem):
    drawn = pictures(study(problem, HEURISTICS, {}, ONCE))
    assert sorted(drawn) == ["boxplot", "gap_by_layer", "gap_runtime", "heatmap"]
    for png in drawn.values():
        assert min(Image.open(io.BytesIO(png)).size) > 250
        assert len(png) < 400_000


def test_pictures_stand_layers_without_load_and_methods_without_placement():
    problem = PlacementProblem([[0, 0, 0, 0], [1, 2, 3, 4]], num_gpus=2, allow_empty_slots=True)

    def broken(problem):
        raise RuntimeError("broken")

    done = study(problem, {"contiguous": contiguous, "broken": broken}, {}, ONCE)
    assert len(pictures(done)) == 4
    assert pictures(study(problem, {"broken": broken}, {}, ONCE)) == {}


def test_open_layers_show_the_interval_that_holds_their_optimum(problem):
    done = study(problem, {"poor": reversed_layout}, {}, ONCE)
    facts = facts_of(command=("python", "scripts/gap_report.py", "--trace", "a b"), impossible=("t, 3 GPUs: no",))
    text = document([done], [], facts)
    worst = done.layers.loc[done.layers.gap.idxmax()]
    assert f"| {worst.layer} | {worst.lower_bound:.10g} | {worst.makespan:.10g} |" in text
    assert "python scripts/gap_report.py --trace 'a b'" in text
    assert "t, 3 GPUs: no" in text


def test_a_report_with_a_cluster_says_where_exact_methods_ran(problem):
    done = study(problem, HEURISTICS, {}, ONCE)
    text = document([done], [], facts_of(cluster=Cluster("tcp://h:1", 3, 6)))
    assert "an exact method runs once, on 3 workers with 6 threads together at tcp://h:1" in text
    assert "tcp://h:1" not in document([done], [], facts_of())
