"""The command ``moeopt``: sub-commands, exit codes, one line per error."""

import os
import subprocess
import sys

import pytest
import typer

from moeopt import cli
from moeopt.errors import ContradictionError, InputError, VerificationError
from moeopt.exit_codes import exit_code, with_options


def run(*arguments, **options):
    command = [sys.executable, "-m", "moeopt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_without_arguments_it_shows_its_commands(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert "gap-report" in shown
    assert "benchmark" in shown


def test_it_tells_its_version():
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("moeopt 0.")


def test_an_unknown_command_ends_with_2_and_one_line(capsys):
    assert cli.main(["frobnicate"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_is_written_in_an_empty_folder(tmp_path):
    (tmp_path / "loads.csv").write_text("3,1,2,4\n4,4,1,1\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = run(
        "gap-report", "--trace", "loads.csv", "--gpus", "2", "--methods", "eplb,cpsat", cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "report" / "report.md").read_text()
    assert "moeopt gap-report --trace loads.csv --gpus 2 --methods eplb,cpsat" in text


def test_the_benchmark_gets_its_options_and_returns_its_exit_code():
    result = run("benchmark", "--settings", "8x256")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: --settings must be GPUs/slots")


def test_the_benchmark_says_that_it_needs_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "BENCHMARK", tmp_path / "scripts" / "benchmark.py")
    assert cli.main(["benchmark", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "needs a checkout" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("nodes is odd"), 2),
        (VerificationError("rejected"), 1),
        (ContradictionError("one of the two is wrong"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (typer.Exit(3), 3),
    ],
)
def test_every_end_has_its_exit_code_and_errors_are_one_line(error, code, capsys):
    app = typer.Typer()

    @app.command()
    def fail(nodes: int = 1):
        raise error

    assert exit_code(app, [], "program", ("program",)) == code
    shown = capsys.readouterr().err
    assert shown.count("\n") == (code in (1, 2))
    assert ("--nodes" in shown) == isinstance(error, InputError)


def test_a_mistake_of_ours_is_not_hidden():
    app = typer.Typer()

    @app.command()
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code(app, [], "program", ("program",))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("nodes and groups belong together", "--nodes and --groups belong together"),
        ("time_limit must be > 0", "--time-limit must be > 0"),
        ("out=there: is not a folder", "--out=there: is not a folder"),
        ("layer 3: is negative", "layer 3: is negative"),
        ("loads.csv: cannot be read", "loads.csv: cannot be read"),
    ],
)
def test_arguments_that_begin_a_message_become_options(message, shown):
    assert with_options(message, {"nodes", "groups", "time_limit", "out", "layers"}) == shown
