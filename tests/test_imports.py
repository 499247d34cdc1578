"""Imports run one way, scripts -> solvers -> moeopt, and ``import moeopt`` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ortools", "pulp", "highspy", "matplotlib", "seaborn", "pandas", "joblib", "rich", "typer", "solvers"}


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).split(".")[0])
    return packages


@pytest.mark.parametrize(("package", "forbidden"), [("moeopt", {"solvers", "scripts"}), ("solvers", {"scripts"})])
def test_no_module_imports_against_the_direction(package, forbidden):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    offenders = {str(file.relative_to(ROOT)): imported_packages(file) & forbidden for file in files}
    assert not {file: names for file, names in offenders.items() if names}


def test_modules_import_absolutely():
    """Relative imports would hide the direction from the walk above."""
    for package in ("moeopt", "solvers"):
        for file in (ROOT / package).rglob("*.py"):
            relative = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
            assert not relative, f"{file} imports relatively at line {relative[0].lineno}"


def test_import_moeopt_loads_no_heavy_package():
    code = "import sys, moeopt; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & set(run.stdout.split())
