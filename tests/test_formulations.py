"""The constraints in the code are those of docs/formulations.md: same names, same numbers, same order."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "formulations.md").read_text()
NUMBERED = re.findall(r"^\*\*\((S?\d+)\)\*\* `(\w+)`", PAGE, re.MULTILINE)
EQUATIONS = [(int(number), name) for number, name in NUMBERED if number.isdigit()]
STEPS = [(number, name) for number, name in NUMBERED if number.startswith("S")]


def test_equation_labels_are_the_names_in_order():
    assert [number for number, _ in EQUATIONS] == list(range(1, len(EQUATIONS) + 1))
    assert re.findall(r"\$\$ \((\w+)\)$", PAGE, re.MULTILINE) == [name for _, name in NUMBERED]


def test_the_model_of_steps_has_a_function_for_each_of_its_own_equations():
    tree = ast.parse((ROOT / "solvers" / "steps.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    documented = [(re.match(r"\((S\d+)\) ", ast.get_docstring(node) or ""), node.name) for node in functions]
    assert [(match[1], name) for match, name in documented if match] == STEPS
    assert [number for number, _ in STEPS] == ["S1", "S2"]


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
