"""The examples in docstrings run and print what they say, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import moeopt
import solvers
from moeopt import balancers, bounds, metrics, traces

PUBLIC = {
    f"{package.__name__}.{name}": item
    for package in (moeopt, balancers, bounds, metrics, traces, solvers)
    for name, item in vars(package).items()
    if inspect.isfunction(item)
    and not name.startswith("_")
    and (name in package.__all__ if hasattr(package, "__all__") else item.__module__ == package.__name__)
}
MODULES = [
    importlib.import_module(found.name)
    for package in (moeopt, solvers)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if found.name != "moeopt.__main__"
]
EXAMPLES = {
    test.name: test
    for module in (moeopt, solvers, *MODULES)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module)
    if test.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    told = []
    runner.run(EXAMPLES[name], out=told.append)
    assert not runner.failures, "".join(told)


def test_every_public_function_has_an_example():
    assert PUBLIC
    assert [name for name, item in PUBLIC.items() if ">>> " not in item.__doc__] == []
