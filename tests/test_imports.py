"""Imports run one way, scripts -> solvers -> moeopt, and ``import moeopt`` stays light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPOSITION_ROOT = "moeopt/cli.py"
"""The one module of moeopt that may import solvers."""

SCRIPTS = {"scripts", "benchmarking", "published"}

HEAVY = {
    "distributed",
    "torch",
    "ortools",
    "pulp",
    "highspy",
    "matplotlib",
    "seaborn",
    "pandas",
    "joblib",
    "rich",
    "typer",
    "solvers",
}


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).split(".")[0])
    return packages


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("moeopt", {"solvers", *SCRIPTS}), ("solvers", SCRIPTS)],
)
def test_no_module_imports_against_the_direction(package, forbidden):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    offenders = {file.relative_to(ROOT).as_posix(): imported_packages(file) & forbidden for file in files}
    found = {file: names for file, names in offenders.items() if names}
    assert found == ({COMPOSITION_ROOT: {"solvers"}} if package == "moeopt" else {})


def test_the_composition_root_imports_solvers_inside_functions_only():
    tree = ast.parse((ROOT / COMPOSITION_ROOT).read_text())
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("solvers")]
    assert imports
    assert all(id(node) in inside for node in imports)


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


def top_level_imports(file: Path) -> set[str]:
    """Modules of ours that a file imports when it is loaded, not inside functions or for type checkers."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_module_waits_for_itself():
    """The graph of imports at load time has no circle, packages' own ``__init__`` included."""
    files = [file for package in ("moeopt", "solvers") for file in (ROOT / package).rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    graph = {}
    for name, file in names.items():
        wanted = top_level_imports(file) & set(names)
        # importing a.b.c loads a and a.b first; what a module's own packages load is not waited for
        parents = {".".join(other.split(".")[:i]) for other in wanted for i in range(1, other.count(".") + 1)}
        own = {".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)}
        graph[name] = (wanted | (parents & set(names))) - own - {name}
    tuple(TopologicalSorter(graph).static_order())
