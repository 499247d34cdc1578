"""What README and docs show is what happens: snippets run, files exist, versions are pinned."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moeopt.balancers import BALANCERS
from moeopt.verify.check import CHECKS, SEARCHES
from solvers import SOLVERS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list:
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, code in enumerate(fence.findall(page.read_text()))
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippet_runs(code, tmp_path, monkeypatch):
    """Each snippet stands alone, and its ``# ->`` comments say what the line before prints."""
    monkeypatch.chdir(tmp_path)
    printed = []
    namespace = {"__name__": "snippet", "print": lambda *values: printed.append(" ".join(map(str, values)))}
    exec(compile(code, "snippet", "exec"), namespace)
    promised = re.findall(r"# -> (.*)", code)
    assert [line for line in printed if line in promised] == promised


def test_readme_has_the_two_commands_that_ci_takes_from_it():
    commands = re.findall(r"^python -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text()
    for what in ("gap_report", "pytest"):
        assert sum(what in command for command in commands) == 1
        assert f'eval "$(readme_command {what})"' in script


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_named_file_exists(page):
    text = page.read_text()
    scripts = set(re.findall(r"\b(?:moeopt|solvers|scripts|tests)/[\w/]+\.py\b", text))
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith(("http:", "https:"))}
    missing = [name for name in scripts if not (ROOT / name).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_constraints_pin_everything_that_the_readme_commands_install():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    needed, queue = set(), [Requirement("moeopt[test]")]
    while queue:
        requirement = queue.pop()
        if requirement.name == "torch":
            continue  # what it needs depends on the build: a GPU build brings CUDA packages of its own
        for text in distribution(requirement.name).requires or []:
            child = Requirement(text)
            wanted = child.marker is None or any(
                child.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            )
            name = canonicalize_name(child.name)
            if wanted and name not in needed:
                needed.add(name)
                queue.append(child)
    assert needed
    assert not needed - pins


def test_readme_shows_the_table_of_the_generated_results_page():
    between = re.search(r"<!-- result -->\n\n(.*?)\n\n<!-- /result -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert between[1].count("\n") > 3
    assert between[1] in (ROOT / "docs" / "results" / "default.md").read_text()


def test_every_method_has_its_place_on_the_methods_page():
    text = (ROOT / "docs" / "methods.md").read_text()
    headings = {heading.replace(" ", "_") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    assert set(BALANCERS) <= headings
    listed = "".join(re.findall(r"^\| \[(`.*?)\]\(#.*\) \| `solve", text, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", listed)) == set(SOLVERS)


def test_every_bound_that_can_be_checked_has_its_proof():
    text = (ROOT / "docs" / "bounds.md").read_text()
    proven = re.findall(r"^## `(\w+)`\n(?:(?!^## ).*\n)*?\*Proof\.\*", text, re.MULTILINE)
    assert set().union(*CHECKS.values()) <= set(proven)
    assert "pairing_cpsat" in SEARCHES
    assert "pairing_cpsat" in proven
