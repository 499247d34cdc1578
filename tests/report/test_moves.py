"""The Moves section: its numbers are those of the written placements, its bounds hold, its input is checked."""

import io
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moeopt.balancers import BALANCERS, contiguous, eplb
from moeopt.bounds import Bound
from moeopt.cli import main
from moeopt.errors import ContradictionError, UnsupportedError, VerificationError
from moeopt.problem import PlacementProblem
from moeopt.report.build import gap_report
from moeopt.report.moves import PROVEN_AT, Migration, study_moves
from moeopt.report.moves_figure import moves_picture
from moeopt.report.moves_tables import FULL, NOT_FULL, front_cells, section, stay
from moeopt.report.study import Effort, study

GPUS, SLOTS, EXPERTS = 4, 20, 16
CEILINGS = (0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2)
STEM = f"new_{GPUS}gpus_{SLOTS}slots"
NEVER = Effort(repeats=1, time_limit=0.2, budget=1.0)


def written(folder, name, values):
    """A trace whose first layer is dense, so that the others have the ids 1, 2, 3, .."""
    path = folder / name
    path.write_text(json.dumps({"logical_count": [[0] * values.shape[1], *values.tolist()]}))
    return path


@pytest.fixture(scope="module")
def loads():
    rng = np.random.default_rng(3)
    old = rng.integers(1, 1000, (3, EXPERTS))
    return old, (0.6 * old + 0.4 * rng.integers(1, 1000, old.shape)).round().astype(int)


@pytest.fixture(scope="module")
def traces(tmp_path_factory, loads):
    folder = tmp_path_factory.mktemp("traces")
    return written(folder, "old.json", loads[0]), written(folder, "new.json", loads[1])


def asked(new, *more):
    shape = ("--gpus", GPUS, "--slots", SLOTS)
    arguments = ("gap-report", "--trace", new, *shape, "--methods", "eplb,search", "--repeats", "1", *more)
    return [str(argument) for argument in arguments]


@pytest.fixture(scope="module")
def report(tmp_path_factory, traces):
    old, new = traces
    out = tmp_path_factory.mktemp("report") / "out"
    assert main(asked(new, "--reference-trace", old, "--expert-bytes", "1000", "--out", out, "--quiet")) == 0
    return out


def placement(out, name):
    lines = (out / "placements" / f"{STEM}_moves_{name}.csv").read_text().splitlines()
    return [[int(cell) for cell in line.split(",")] for line in lines]


def on_gpus(row):
    size = len(row) // GPUS
    return [Counter(row[g * size : (g + 1) * size]) for g in range(GPUS)]


def recounted(before, after, load):
    """Moves, transfers, most arrivals on a GPU and makespan, in plain Python."""
    copies = Counter(after)
    arrivals = [sum((new - old).values()) for old, new in zip(on_gpus(before), on_gpus(after), strict=True)]
    transfers = sum(len(set(new) - set(old)) for old, new in zip(on_gpus(before), on_gpus(after), strict=True))
    makespan = max(sum(load[e] / copies[e] * n for e, n in gpu.items()) for gpu in on_gpus(after))
    return sum(arrivals), transfers, max(arrivals), makespan


def test_every_number_is_that_of_the_written_placements(report, loads):
    table = pd.read_csv(report / "moves.csv")
    reference, seen = placement(report, "reference"), 0
    for (method, layer), rows in table.groupby(["method", "layer"]):
        for row in rows.itertuples():
            name = f"repair_{row.above_best:g}" if method == "repair" else method
            after = placement(report, name)[layer - 1]
            assert set(after) == set(range(EXPERTS)), "a slot is empty, or an expert has none"
            moves, transfers, rounds, makespan = recounted(reference[layer - 1], after, loads[1][layer - 1])
            assert (row.moves, row.transfers, row.bytes) == (moves, transfers, 1000 * transfers)
            assert row.rounds == max(rounds, int(on_gpus(after) != on_gpus(reference[layer - 1])))
            assert row.makespan == pytest.approx(makespan, rel=1e-12)
            seen += 1
    assert seen == 3 * (3 + len(CEILINGS))


def test_the_reference_is_eplbs_placement_on_the_older_loads_and_the_report_says_so(report, loads):
    assert placement(report, "reference") == eplb(PlacementProblem(loads[0], GPUS, SLOTS)).phy2log.tolist()
    text = (report / "report.md").read_text()
    assert "Moves count from EPLB's placement on the older loads of old.json" in text
    record = json.loads((report / "run.json").read_text())
    assert record["reference"]["layer_ids"] == [1, 2, 3]
    assert record["reference"]["origin"] == "old.json"


def test_repair_keeps_its_ceiling_and_needs_at_least_the_bound(report):
    table = pd.read_csv(report / "moves.csv")
    best = table[(table.method == "relabel")].set_index("layer").makespan
    repaired = table[table.method == "repair"]
    assert (repaired.makespan <= best[repaired.layer].to_numpy() * (1 + repaired.above_best) * (1 + 1e-8)).all()
    assert (table.lower_bound <= table.moves).sum() == table.lower_bound.notna().sum() > 24
    for _, rows in repaired.groupby("layer"):
        assert rows.above_best.tolist() == list(CEILINGS)
        assert (np.diff(rows.moves) <= 0).all()
        assert (np.diff(rows.lower_bound) <= 0).all()
    assert set(table.bound_source.dropna()) <= {"copy_prices", "copies_needed", "moves_needed", "arrivals_needed"}


def test_methods_without_a_ceiling_are_where_their_makespan_puts_them(report):
    table = pd.read_csv(report / "moves.csv")
    best = table[(table.method == "relabel")].set_index("layer").makespan
    for name in ("eplb", "minimize_moves"):
        rows = table[table.method == name]
        assert np.allclose(rows.above_best, rows.makespan / best[rows.layer].to_numpy() - 1, atol=1e-9)
    assert (table[table.method == "relabel"].above_best == 0).all()


def cells_of(text, first):
    rows = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in rows[-1].strip("|").split("|")]


def test_the_tables_of_the_text_are_means_of_the_table(report):
    text = (report / "report.md").read_text()
    table = pd.read_csv(report / "moves.csv")
    shown = table[(table.method == "repair") & table.above_best.isin([0.0, 0.001, 0.01, 0.05])]
    by_ceiling = shown.groupby("above_best")
    assert cells_of(text, "repair")[1:] == [f"{mean:.1f}" for mean in by_ceiling.moves.mean()]
    assert cells_of(text, "proven minimum")[1:] == [f"{mean:.1f}" for mean in by_ceiling.lower_bound.mean()]
    proven = (shown.moves == shown.lower_bound).groupby(shown.above_best).mean()
    assert cells_of(text, "layers proven %")[1:] == [f"{100 * share:.0f}" for share in proven]
    rows = table[table.method == "eplb"]
    cost = next(line for line in text.splitlines() if line.startswith("| eplb |") and line.endswith("| 3/3 |"))
    assert [cell.strip() for cell in cost.strip("|").split("|")][1:5] == [
        f"{rows.moves.mean():.1f}",
        f"{rows.transfers.mean():.1f}",
        f"{rows.bytes.sum() / 1e9:.3g}",
        f"{rows.rounds.max()}",
    ]


def test_the_picture_is_there_and_named_in_the_text(report):
    name = f"{STEM}_moves.png"
    assert f"](figures/{name})" in (report / "report.md").read_text()
    assert min(Image.open(report / "figures" / name).size) > 400


def test_a_placement_from_a_file_gives_the_same_section(tmp_path, traces, report, capsys):
    path = tmp_path / "in_force.json"
    path.write_text(json.dumps({"physical_to_logical_map": placement(report, "reference")}))
    out = tmp_path / "out"
    assert main(asked(traces[1], "--reference", path, "--layers", "2-3", "--out", out)) == 0
    ours, theirs = pd.read_csv(out / "moves.csv"), pd.read_csv(report / "moves.csv")
    columns = ["layer", "method", "above_best", "moves", "transfers", "rounds", "makespan"]
    expected = theirs[theirs.layer > 1][columns].reset_index(drop=True)
    assert "bytes" not in ours
    pd.testing.assert_frame_equal(ours[columns], expected)
    shown = capsys.readouterr().out
    assert "Moves per layer, by distance from the best" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_without_a_placement_in_force_there_is_no_section(tmp_path, traces):
    assert main(asked(traces[1], "--quiet", "--out", tmp_path / "out")) == 0
    assert not (tmp_path / "out" / "moves.csv").exists()
    assert "#### Moves" not in (tmp_path / "out" / "report.md").read_text()
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 4


def test_verify_checks_the_placements_and_bounds_of_the_section_too(tmp_path, traces, capsys):
    old, new = traces
    more = ("--reference-trace", old, "--nodes", "2", "--groups", "4", "--verify")
    assert main(asked(new, *more, "--out", tmp_path / "out")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"moves: {3 * (3 + len(CEILINGS))} placements, {3 * len(CEILINGS)} bounds proven exactly" in shown


def test_verify_rejects_a_bound_on_moves_that_its_certificate_does_not_prove(tmp_path, traces):
    old, new = traces

    def liar(problem, *, time_limit, target):
        layers = problem.num_layers
        return Bound(target, ("copies_needed",) * layers, ({"method": "copies_needed"},) * layers)

    with pytest.raises(VerificationError, match=r"moves of repair, .* above, layer 1: REJECTED"):
        gap_report(
            {"eplb": eplb}, {}, trace=[new], gpus=[GPUS], slots=[SLOTS], reference_trace=old, out=tmp_path / "a",
            quiet=True, verify=True, moves_bound=liar,
        )  # fmt: skip


def few_experts(folder, loads):
    return "--reference-trace", written(folder, "few.json", loads[0][:, :12])


def other_layers(folder, loads):
    path = folder / "dense.json"
    path.write_text(json.dumps({"logical_count": [[0] * EXPERTS] * 4 + loads[0].tolist()}))
    return "--reference-trace", path


def some_layers(folder, loads):
    return "--reference-trace", written(folder, "short.json", loads[0][:2])


def both(folder, loads):
    path = written(folder, "old.json", loads[0])
    return "--reference-trace", path, "--reference", path


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (few_experts, "--reference-trace few.json has 12 experts per layer, new has 16"),
        (other_layers, "--reference-trace dense.json has no layers in common with new, whose layers are 1 to 3"),
        (some_layers, "--reference-trace short.json lacks layers 3 of new"),
        (both, "--reference and --reference-trace exclude each other"),
        (lambda *_: ("--reference-trace", "missing.json"), "missing.json"),
        (lambda *_: ("--expert-bytes", "5"), "--expert-bytes needs reference or reference_trace"),
        (lambda *_: ("--expert-bytes", "0"), "--expert-bytes must be >= 1"),
    ],
)
def test_bad_input_ends_with_2_one_line_and_no_report(tmp_path, traces, loads, capsys, more, reason):
    out = tmp_path / "out"
    assert main(asked(traces[1], *more(tmp_path, loads), "--out", out)) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.fixture(scope="module")
def done(loads):
    reference = eplb(PlacementProblem(loads[0], GPUS, SLOTS))
    problem = PlacementProblem(loads[1], GPUS, SLOTS, allow_empty_slots=True, reference=reference)
    return study(problem, {"eplb": eplb}, {}, NEVER)


@pytest.fixture(scope="module")
def cheap(done):
    """The moves of that study with the cheap bounds alone."""
    return study_moves(done, NEVER)


class Prover:
    """A bound that remembers what it was asked and says ``value`` about every layer."""

    def __init__(self, value):
        self.value, self.asked = value, []

    def __call__(self, problem, *, time_limit, target):
        assert problem.num_layers == len(target)
        self.asked.append((problem, time_limit, target))
        return Bound(np.full(problem.num_layers, self.value), ("prover",) * problem.num_layers)


def test_expensive_bounds_are_asked_for_open_layers_with_the_time_limit(done, cheap):
    prover = Prover(0.0)
    found = study_moves(done, NEVER, prover)
    assert 0 < len(prover.asked) <= len(PROVEN_AT)
    for problem, limit, target in prover.asked:
        assert limit <= 0.2
        assert not problem.allow_empty_slots
        assert (target > 0).all()
    assert found.proven[0].source == cheap.proven[0].source, "0 is no news"


def test_no_expensive_bound_is_asked_for_once_the_budget_is_spent(done):
    class Slow(Prover):
        def __call__(self, problem, **options):
            time.sleep(0.1)
            return super().__call__(problem, **options)

    prover = Slow(0.0)
    study_moves(done, Effort(time_limit=5.0, budget=0.05), prover)
    assert len(prover.asked) == 1
    assert prover.asked[0][1] <= 0.05


def test_what_a_loose_ceiling_needs_a_tight_one_needs_too(done, cheap):
    class Loose(Prover):
        def __call__(self, problem, *, time_limit, target):
            bound = super().__call__(problem, time_limit=time_limit, target=target)
            return bound if len(self.asked) == 1 else Bound.unknown(problem.num_layers)

    raised = study_moves(done, NEVER, Loose(1.0))
    for point in range(len(CEILINGS)):
        assert (raised.needed(point).value >= cheap.needed(point).value).all()
    loose = next(i for i in reversed(PROVEN_AT) if "prover" in raised.proven[i].source)
    layer = raised.proven[loose].source.index("prover")
    assert raised.needed(0).value[layer] >= 1


def test_a_bound_above_a_placement_is_a_contradiction_that_names_the_layer(done):
    with pytest.raises(ContradictionError, match=r"prover: layer 0 needs at least 99 moves .* has"):
        study_moves(done, NEVER, Prover(99.0))


def test_a_bound_that_refuses_leaves_what_is_cheap(done, cheap):
    def refuses(problem, **options):
        raise UnsupportedError("too many slots")

    found = study_moves(done, NEVER, refuses)
    assert [bound.value.tolist() for bound in found.proven] == [bound.value.tolist() for bound in cheap.proven]


def test_a_better_placement_of_the_study_becomes_the_best(done, monkeypatch):
    monkeypatch.setattr("moeopt.report.moves.search", lambda problem, seed: contiguous(problem))
    found = study_moves(done, NEVER)
    assert np.array_equal(found.best, done.runs["eplb"].found.makespan)


def test_slots_may_stay_empty_where_they_do_in_force(loads):
    rows = contiguous(PlacementProblem(loads[0], GPUS, SLOTS)).phy2log.copy()
    rows[:, -1] = -1
    problem = PlacementProblem(loads[1], GPUS, SLOTS, allow_empty_slots=True, reference=rows)
    found = study_moves(study(problem, {"eplb": eplb}, {}, NEVER), NEVER)
    assert found.problem.allow_empty_slots
    text = "\n".join(section(found, "it", None))
    assert NOT_FULL in text
    assert FULL not in text


def test_a_reference_with_other_slots_has_no_rounds(loads):
    reference = contiguous(PlacementProblem(loads[0], GPUS, EXPERTS))
    problem = PlacementProblem(loads[1], GPUS, SLOTS, allow_empty_slots=True, reference=reference)
    found = study_moves(study(problem, {"eplb": eplb}, {}, NEVER), NEVER)
    assert np.isnan(found.fixed["eplb"].rounds).all()
    assert (found.repaired[0].moves >= SLOTS - EXPERTS).all()
    assert "| - |" in "\n".join(section(found, "it", None))


def test_a_placement_in_force_that_is_already_best_needs_no_move(loads):
    free = PlacementProblem(loads[1], GPUS, SLOTS, allow_empty_slots=True)
    problem = PlacementProblem(loads[1], GPUS, SLOTS, allow_empty_slots=True, reference=BALANCERS["search"](free))
    found = study_moves(study(problem, {"eplb": eplb}, {}, NEVER), NEVER)
    assert (stay(found) < 1e-3).all()
    assert front_cells(found)[-3][2:] == ["0.0"] * 3
    assert front_cells(found)[-1][2:] == ["100"] * 3
    assert Image.open(io.BytesIO(moves_picture(found, "title"))).size[0] > 400


def test_layers_without_a_placement_are_not_counted(cheap):
    found = cheap
    rows = found.repaired[0].placement.phy2log.copy()
    rows[1] = -1
    partly = Migration.of(found.problem, type(found.repaired[0].placement)(rows, EXPERTS, GPUS))
    assert np.isnan(partly.moves).tolist() == [False, True, False]
    assert np.isnan(partly.makespan).tolist() == [False, True, False]
    assert found.within(partly, 0.2).tolist() == [True, False, True]


def test_a_report_from_python_needs_no_expensive_bound(tmp_path, traces):
    old, new = traces
    gap_report(
        {"eplb": eplb}, {}, trace=[new], gpus=[GPUS], slots=[SLOTS], reference_trace=old, out=tmp_path / "a", quiet=True
    )  # fmt: skip
    table = pd.read_csv(Path(tmp_path / "a" / "moves.csv"))
    assert "copy_prices" not in set(table.bound_source)
