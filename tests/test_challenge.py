"""Submitting to the challenge, as the command does it."""

import json
import re

import pytest

from moeopt import Bound, Solution, bounds, cli, instance, write_certificates
from moeopt.balancers import contiguous, local_search
from moeopt.records import read_record, with_table
from moeopt.traces import write_placement
from moeopt.verify.document import main as outsider
from solvers import configuration_bound

NAME = "triples-24-on-10"
PAGE = "# Instances\n\n<!-- instances -->\n<!-- /instances -->\n\nThe end.\n"


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances.md").write_text(PAGE)
    problem = instance(NAME)
    write_placement("poor.json", contiguous(problem), "vllm")
    write_placement("good.csv", local_search(problem), "csv")
    write_certificates("mean.json", Solution(problem, bound=bounds.lower_bound(problem)))
    found = configuration_bound(problem.load.values[0], problem.num_gpus, 3)
    write_certificates(
        "better.json", Solution(problem, bound=Bound([found.value], ("configuration_lp",), (found.certificate,)))
    )
    return tmp_path


def submit(*arguments, by="somebody, by hand"):
    return cli.main(["submit", *arguments, "--instance", NAME, "--by", by, "--records", "instances"])


def kept(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_better_is_written_and_what_is_not_is_said(there, capsys):
    assert submit("poor.json") == 0
    assert "the first\nwritten: instances/triples-24-on-10.json and the table" in capsys.readouterr().out
    assert submit("good.csv", "--certificates", "mean.json", by="another") == 0
    assert "better than the record's" in capsys.readouterr().out
    record = read_record(NAME, "instances")
    assert (record.placed_by, record.proved_by) == ("another", "another")
    assert record.slots == local_search(record.problem).phy2log[0].tolist()

    before = kept(there)
    assert submit("poor.json", "--certificates", "mean.json") == 0
    shown = capsys.readouterr().out
    assert "worse than the record's" in shown
    assert "as the record" in shown
    assert shown.endswith("not better than the record: nothing written\n")
    assert kept(there) == before

    assert submit("--certificates", "better.json", by="a prover") == 0
    assert "proven by configuration_lp" in capsys.readouterr().out
    record = read_record(NAME, "instances")
    assert (record.placed_by, record.proved_by) == ("another", "a prover")
    page = (there / "instances.md").read_text()
    row = next(line for line in page.splitlines() if NAME in line)
    assert row.startswith(f"| [`{NAME}`](instances/{NAME}.json) | 24, 10 x 3 | replicas |")
    assert re.search(r"open \| `configuration_lp` \| placement another, [-0-9]+; bound a prover, [-0-9]+ \|$", row)
    assert page.startswith("# Instances\n")
    assert page.endswith("\n\nThe end.\n")
    assert outsider([f"instances/{NAME}.json"]) == 0


def other_instance(there):
    write_certificates("x", Solution(other := instance("pairs-40-on-24"), bound=bounds.lower_bound(other)))
    return "--certificates", "x"


def forged(there):
    document = json.loads((there / "better.json").read_text())
    document["settings"][0]["layers"][0]["lower_bound"] = "22000"
    (there / "x").write_text(json.dumps(document))
    return "--certificates", "x"


def of_a_search(there):
    write_certificates("x", Solution(instance(NAME), bound=Bound([21600.0], ("cpsat",))))
    return "--certificates", "x"


def broken(there):
    (there / "x").write_text(json.dumps([[0] * 30]))
    return ("x",)


def too_many(there):
    (there / "x").write_text(json.dumps([list(range(24)) + [0] * 6] * 2))
    return ("x",)


def no_page(there):
    (there / "instances.md").unlink()
    return ("poor.json",)


def no_marks(there):
    (there / "instances.md").write_text("# Instances\n")
    return ("poor.json",)


def spoilt_record(there):
    (there / "instances" / f"{NAME}.json").write_text('{"settings": 7}')
    return ("poor.json",)


def record_of_other_rules(there):
    assert submit("poor.json") == 0
    path = there / "instances" / f"{NAME}.json"
    path.write_text(path.read_text().replace('"allow_empty_slots": false', '"allow_empty_slots": true'))
    return ("poor.json",)


def record_without_credits(there):
    assert submit("poor.json") == 0
    path = there / "instances" / f"{NAME}.json"
    path.write_text(path.read_text().replace('"placed_by"', '"by"'))
    return ("poor.json",)


def record_without_proof(there):
    assert submit("--certificates", "mean.json") == 0
    path = there / "instances" / f"{NAME}.json"
    path.write_text(path.read_text().replace('"certificate": {"method"', '"certificate": {"name"'))
    return ("poor.json",)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (other_instance, f"x: no layer has the loads of {NAME}"),
        (forged, "x: the bound 22000 is not proven: REJECTED"),
        (of_a_search, "is not proven: rests on the search of cpsat"),
        (broken, "x: REJECTED: expert 1 has no slot"),
        (too_many, "x: holds 2 layers of 30 slots, not 1 of 30"),
        (no_page, "--records=instances: there is no page"),
        (no_marks, "lacks <!-- instances -->"),
        (spoilt_record, f"instances/{NAME}.json: settings is not a list"),
        (record_of_other_rules, f"{NAME}.json: no record of {NAME}, with its loads and rules"),
        (record_without_credits, f"{NAME}.json: placed_by is not a text"),
        (record_without_proof, f"{NAME}.json: the bound has no certificate that names its method"),
        (lambda there: ("none.json",), "none.json: cannot be read"),
        (lambda there: ("poor.json", "--certificates", "poor.json"), "poor.json: not a JSON object"),
        (lambda there: (), "submit needs a placement, certificates, or both"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(made, reason, there, capsys):
    arguments = made(there)
    before = kept(there)
    assert submit(*arguments) == 2
    shown = capsys.readouterr()
    assert reason in shown.err
    assert shown.err.count("\n") == 1
    assert kept(there) == before


@pytest.mark.parametrize("by", ["", "a | b", "<img src=x>", "two\nlines", "x" * 81, "`code`"])
def test_a_name_that_would_break_the_table_is_refused(by, there, capsys):
    assert submit("poor.json", by=by) == 2
    assert "--by must be 1 to 80 letters" in capsys.readouterr().err
    assert not list((there / "instances").iterdir())


def test_a_table_replaces_only_what_is_between_its_marks():
    assert with_table(with_table(PAGE, "| a |\n"), "| b |\n") == PAGE.replace("-->\n<!--", "-->\n\n| b |\n\n<!--")
