"""Where published balancers come from: facts that the reader writes down, in TOML."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from moeopt._text import parser_reason, printable
from moeopt.balancers import BALANCERS
from moeopt.compare import Method
from moeopt.errors import InputError
from moeopt.picking import method_from_file


@dataclass(frozen=True)
class Project:
    """One published balancer.

    Parameters
    ----------
    name
        What tables call it.
    function
        ``path/to/file.py:function`` as it lies on this machine.
    project, version, file, licence, source
        Whose it is, which version or commit, its path there, its licence, and how to get it.
    note
        What else there is to know, such as settings of its own.
    """

    name: str
    function: str
    project: str
    version: str
    file: str
    licence: str
    source: str
    note: str = ""

    def method(self) -> Method:
        """Return the balancer; where it cannot be loaded, a method that says why, so that the others go on."""
        try:
            return method_from_file(self.function, "projects")
        except InputError as error:
            reason = str(error)

        def unusable(problem: Any) -> Any:
            raise InputError(reason)

        return unusable


def read_projects(path: Path) -> dict[str, Project]:
    """Read a table per balancer, its name above the facts.

    Raises
    ------
    InputError
        For a file that is no such TOML, a fact that is missing or unknown, or a name that is taken.
    """
    shown = printable(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"projects {shown}: {parser_reason(error)}") from None
    return {name: _project(shown, name, facts) for name, facts in tables.items()}


def _project(shown: str, name: str, facts: Any) -> Project:
    """Check one table."""
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise InputError(f"projects {shown}: {printable(name)} must be a table of texts")
    if name in BALANCERS or name == "solve" or "," in name:
        raise InputError(f"projects {shown}: {printable(name)} must have no comma and be no method of ours")
    known = {item.name: item.default for item in fields(Project) if item.name != "name"}
    missing = [key for key, default in known.items() if default is MISSING and key not in facts]
    unknown = [key for key in facts if key not in known]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {printable(unknown[0])}"
        raise InputError(f"projects {shown}: {printable(name)} {wrong}; facts are {', '.join(known)}")
    return Project(name, **facts)
