"""The checks as one script: Python's standard library alone, and the same verdicts."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from standalone_verify import TARGET, standalone

from moeopt import Bound, InputError, PlacementProblem, Solution, bounds, verify
from moeopt.balancers import contiguous, eplb
from moeopt.bounds.steps import pair_lp
from moeopt.certificates import certificates_json, write_certificates
from moeopt.traces import Trace
from moeopt.verify.check import CHECKS
from moeopt.verify.document import main
from solvers.moves_bound import moves_bound
from tests.solvers.problems import random_problem
from tests.verify.claims import branched, branched_pairs, certified, claim, pairs, triples

PARTITION = PlacementProblem([[40, 39, 38, 20, 11, 10, 9, 5, 4, 3, 2, 1]], 3)
REFERENCE = {"reference": [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]}
NODES = {"num_nodes": 3, "num_groups": 6}
SMALL = PlacementProblem([[40, 12, 10, 30, 9, 3, 1]], 3, 9, reference=[[0, 1, 2, 0, 3, 4, 1, 5, 6]], max_makespan=37.0)


SPLIT = PlacementProblem([[9, 5, 4, 2, 8, 1]], 4, 8, split="optimal")


def plain(method, problem, value, **rest):
    return claim(problem, value, {"method": method} | rest, method)


@cache
def genuine():
    """A bound of every kind that can be proven, by its method, with the problem that it belongs to."""
    few = {"hottest": [0, 1, 2, 3]}
    covers = {"moves": 2, "unit": 1, "prices": [0] * 12, "worth": [0] * 3}
    found = [
        plain("mean_load", PARTITION, 61.0),
        plain("hottest_replica", PARTITION, 40.0),
        plain("hottest_with_companions", PARTITION, 46.0),
        plain("hot_on_few_gpus", PARTITION, 61.0, **few),
        plain("hottest_gpus", PARTITION, 61.0, **few),
        plain("node_load", replace(PARTITION, **NODES), 81.0),
        plain("window_cover", PARTITION, 61.0, threshold=61.0),
        plain("makespan_within_moves", replace(PARTITION, **REFERENCE, max_moves=1), 129.0),
        plain("moves_needed", replace(SMALL, reference=[[0, 1, 2, 0, 3, 4, 1, 5, 5]]), 1.0),
        plain("arrivals_needed", replace(PARTITION, **REFERENCE, max_makespan=70.0), 2.0),
        plain("moves_cover", replace(PARTITION, **REFERENCE, max_makespan=70.0), 2.0, **covers),
        plain("copies_needed", replace(SMALL, max_makespan=19.0), 2.0),
        plain("regrouping_needed", replace(PARTITION, **REFERENCE, **NODES, max_makespan=100.0), 4.0),
    ]
    for method in ("pairing_lp", "pairing_walks"):
        problem, paired = pairs(method)
        found.append(Solution(problem, paired.placement, paired.bound))
    for bound in (triples, branched, branched_pairs):
        problem, certificate = bound()
        found.append(claim(problem, certificate["threshold"], certificate, certificate["method"]))
    found.append(Solution(SMALL, bound=moves_bound(SMALL, target=np.array([1.0]))))
    return {solution.bound_source[0]: solution for solution in found}


STEPWISE = PlacementProblem(Trace([[[12, 1, 1, 1]], [[1, 12, 1, 1]], [[2, 1, 9, 4]]]), 2)


def stepwise(bound, value=None):
    """What ``solve_steps`` returns, with a bound on what steps cost."""
    bound = bound if value is None else Bound([value], bound.source, bound.certificate)
    return SimpleNamespace(problem=STEPWISE, placement=contiguous(STEPWISE), bound=bound)


def raised(solution):
    """The same certificate for a higher bound."""
    bound = solution.bound
    return Solution(solution.problem, bound=Bound(bound.value * 1.5 + 1, bound.source, bound.certificate))


def run(*files):
    command = [sys.executable, "-I", "-S", str(TARGET), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_script_is_what_the_modules_say():
    assert TARGET.read_text() == standalone(), "run python scripts/standalone_verify.py"


def test_there_is_a_genuine_claim_of_every_kind():
    assert set(genuine()) == set(CHECKS["makespan"]) | set(CHECKS["moves"])
    for method, solution in genuine().items():
        assert verify(solution.problem, solution).layers[0].bound == "proven", method


def test_the_script_says_what_verify_says_of_true_and_of_false_claims(tmp_path):
    claims = [*genuine().values(), *map(raised, genuine().values())]
    for seed in range(60):
        problem = random_problem(seed)
        solution = certified(problem)
        claims += [solution, raised(solution)]
    claims += [certified(PARTITION, contiguous(PARTITION)), certified(SPLIT, eplb(SPLIT))]
    claims += [Solution(PARTITION), claim(PARTITION, 61.0, None, "cpsat")]
    files = [write_certificates(tmp_path / f"{i}.json", solution) for i, solution in enumerate(claims)]
    done = run(*files)
    assert done.returncode == 1
    assert not done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("  layer 0: ")]
    verdicts = [verify(solution.problem, solution).layers[0] for solution in claims]
    assert len(lines) == len(verdicts)
    for line, verdict in zip(lines, verdicts, strict=True):
        assert ("proven by" in line) == (verdict.bound == "proven"), (line, verdict)
        assert verdict.bound == "proven" or line.endswith(f", {verdict.reason}"), (line, verdict)
    assert {verdict.bound for verdict in verdicts} >= {"proven", "rejected", "unknown", "solver's claim"}
    assert sum("valid, " in line for line in done.stdout.splitlines()) == 4


def test_the_script_knows_what_steps_cost(tmp_path):
    """All four experts on their GPUs: 13 + 13 + 13 tokens, 39 in all."""
    blocks, pairs = bounds.steps_bound(STEPWISE), pair_lp(STEPWISE)
    assert {blocks.certificate[0]["method"], pairs.certificate[0]["method"]} == set(CHECKS["steps"])
    claims = [stepwise(blocks), stepwise(pairs), stepwise(blocks, 37.0), stepwise(pairs, 37.0), stepwise(pairs, 40.0)]
    for name in ("prices", "degrees", "blocks"):
        proof = {**pairs.certificate[0], name: pairs.certificate[0][name][1:]}
        claims.append(stepwise(Bound(pairs.value, pairs.source, [proof])))
    done = run(*(write_certificates(tmp_path / f"{i}.json", claim) for i, claim in enumerate(claims)))
    lines = done.stdout.splitlines()
    assert [("proven by" in line) for line in lines if "layer 0" in line] == [True, True] + [False] * 6
    assert sum("REJECTED" in line for line in lines if "layer 0" in line) == 6
    assert sum("placement: valid, 39, " in line for line in lines) == 2


def test_steps_that_are_no_counts_are_not_written(tmp_path):
    problem = PlacementProblem(Trace([[[1.5, 1, 1, 1]], [[1, 1, 1, 0.25]]]), 2)
    claims = SimpleNamespace(problem=problem, placement=contiguous(problem), bound=bounds.steps_bound(problem))
    with pytest.raises(InputError, match="steps must be whole numbers"):
        write_certificates(tmp_path / "a.json", claims)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def document():
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]], 2)
    return json.loads(certificates_json(problem, contiguous(problem), bounds.lower_bound(problem), "mine"))


def told(document, path, capsys):
    path.write_text(json.dumps(document))
    code = main([str(path)])
    return code, capsys.readouterr()


def test_a_document_that_is_true_is_accepted(document, tmp_path, capsys):
    code, shown = told(document, tmp_path / "a.json", capsys)
    assert code == 0
    assert shown.out.splitlines()[1:] == [
        "  layer 0: at least 15, proven by mean_load",
        "    mine: valid, 18, at most 20 % above the best possible",
        "1 placements; bounds: 1 proven; 0 rejected",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["layers"][0].update(lower_bound="16"), "REJECTED: bound 16: the mean load is smaller"),
        (lambda s: s["layers"][0].update(lower_bound="19"), "the placement reaches 18"),
        (lambda s: s["layers"][0]["placements"].update(mine="17"), "the makespan is 18, not 17"),
        (lambda s: s["layers"][0]["slots"].update(mine=[0, 1, 2, 3, 4, 4]), "expert 5 has no slot"),
        (lambda s: s["layers"][0]["slots"].update(mine=[0, 1, 2, 3, 4, 6]), "a slot names no expert"),
        (lambda s: s["layers"][0]["placements"].update(mine="REJECTED: so it says"), "REJECTED: so it says"),
        (lambda s: s["layers"][0].update(certificate={"method": "window_cover"}), "not a finite number"),
    ],
)
def test_a_false_claim_ends_with_1(document, change, reason, tmp_path, capsys):
    change(document["settings"][0])
    code, shown = told(document, tmp_path / "a.json", capsys)
    assert code == 1
    assert reason in shown.out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("layers"), "layers is not a list of objects"),
        (lambda s: s.update(loads_sha256="0"), "no loads of 1 layers"),
        (lambda s: s.update(num_gpus=0), "num_gpus is not an integer >= 1"),
        (lambda s: s.update(num_gpus=True), "num_gpus is not an integer >= 1"),
        (lambda s: s.update(num_gpus=4), "num_slots=6 is not a multiple of 4"),
        (lambda s: s.update(num_slots=4), "below 6 experts"),
        (lambda s: s.update(num_slots=10**12), "above 1048576"),
        (lambda s: s.update(num_nodes=2, num_groups=4), "6 experts are no 4 groups"),
        (lambda s: s.update(split="best"), "split=best is neither"),
        (lambda s: s.update(allow_colocated=1), "allow_colocated is neither true nor false"),
        (lambda s: s.update(files={"mine": "../../etc/passwd"}), "is not beside the document"),
        (lambda s: s["layers"][0].update(lower_bound="1/0"), "lower_bound is not a fraction"),
        (lambda s: s["layers"][0].update(lower_bound="1e999999999"), "lower_bound is not a fraction"),
        (lambda s: s["layers"][0].update(reference=[0, 1, 9]), "reference is not a list of experts"),
        (lambda s: s["layers"][0]["slots"].update(mine=[0, 1]), "are not 6 integers"),
        (lambda s: s["layers"][0].update(placements={"mine": 7}), "mine is not a text"),
        (lambda s: s["layers"][0].update(steps=[[9, 5, 4, 2, 8, 0]]), "steps are not whole loads that add up"),
        (lambda s: s["layers"][0].update(steps=[[9, 5, 4, 2, 8, 2], [0, 0, 0, 0, 0, -1]]), "steps are not whole"),
        (lambda s: s["layers"][0].update(steps=[[9, 5, 4, 2, 8]]), "steps are not whole"),
    ],
)
def test_a_document_that_is_none_is_one_line_and_ends_with_2(document, change, reason, tmp_path, capsys):
    change(document["settings"][0])
    code, shown = told(document, tmp_path / "a.json", capsys)
    assert code == 2
    assert reason in shown.err
    assert shown.err.count("\n") == 1


def test_rows_of_a_file_belong_to_the_layers_that_have_a_placement(tmp_path, capsys):
    problem = PlacementProblem([[9, 5, 4, 2, 8, 1]] * 3, 2)
    document = json.loads(certificates_json(problem, contiguous(problem), bounds.lower_bound(problem), "mine"))
    (setting,) = document["settings"]
    setting["files"] = {"mine": "mine.csv"}
    setting["layers"][0]["placements"]["mine"] = "none"
    setting["layers"][1]["placements"]["mine"] = "REJECTED: so it says"
    (tmp_path / "mine.csv").write_text("0,0,0,0,0,0\n0,1,2,3,4,5\n")
    code, shown = told(document, tmp_path / "a.json", capsys)
    assert code == 1
    assert "1 placements; bounds: 3 proven; 1 rejected" in shown.out
    assert "    mine: valid, 18" in shown.out


def test_loads_that_were_changed_are_noticed_by_their_hash(document, tmp_path, capsys):
    (rows,) = document["loads"].values()
    for row in ([9, 5, 4, 2, 8, 2], [9, 5, 4, 2, 8, -1], [9, 5, 4, 2, 8, True], [9, 5, 4, 2, 8, float("nan")], [], "9"):
        rows[0] = row
        code, shown = told(document, tmp_path / "a.json", capsys)
        assert code == 2
        assert "loads are not" in shown.err


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"settings": 7}', b"9" * 5000, b"\xff\xfe"])
def test_files_that_are_no_document_are_refused(content, tmp_path, capsys):
    path = tmp_path / "a\x1b[31m.json"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert "\x1b" not in shown.err
    assert main([str(tmp_path)]) == main([]) == main([str(tmp_path / "none")]) == 2
