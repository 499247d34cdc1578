"""The constraints in the code are those of docs/formulations.md: same names, same numbers, same order."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "formulations.md").read_text()
EQUATIONS = [(int(number), name) for number, name in re.findall(r"^\*\*\((\d+)\)\*\* `(\w+)`", PAGE, re.MULTILINE)]


def test_equation_labels_are_the_names_in_order():
    assert [number for number, _ in EQUATIONS] == list(range(1, len(EQUATIONS) + 1))
    assert re.findall(r"\$\$ \((\w+)\)$", PAGE, re.MULTILINE) == [name for _, name in EQUATIONS]


@pytest.mark.parametrize("backend", ["cpsat", "milp"])
def test_every_equation_is_one_function_with_its_number(backend):
    tree = ast.parse((ROOT / "solvers" / f"{backend}.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    numbered = [
        (int(match[1]), node.name)
        for node in functions
        if (match := re.match(r"\((\d+)\) ", ast.get_docstring(node) or ""))
    ]
    assert numbered == EQUATIONS
