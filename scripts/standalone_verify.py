"""Write docs/verify.py, the checks of ``moeopt/verify`` as one script for Python's standard library alone.

``python scripts/standalone_verify.py`` takes the modules as they are, in the order of their imports, drops what they
import of each other, and marks with the module's name what several modules call by one name.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER, FIRST, TARGET = ROOT / "moeopt" / "verify", "document", ROOT / "docs" / "verify.py"

HEAD = '''\
"""Check ``certificates.json`` of a report, or the record of an instance: ``python verify.py FILE ...``.

Needs Python 3.11 and its standard library, nothing else: no numpy, no moeopt. All arithmetic is in integers and
fractions. It prints every layer's bound, whether that is proven, and every placement's exact makespan. It ends with
0; 1 if a claim is false; 2 if a file cannot be used. What each check proves is explained in ``docs/certificates.md``.

Written by scripts/standalone_verify.py from the modules of moeopt/verify: change those.
"""

from __future__ import annotations

'''

TAIL = """

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def standalone() -> str:
    """Return the script."""
    sources = _modules(FIRST, {})
    order = TopologicalSorter({name: _imported(ast.parse(text)) for name, text in sources.items()}).static_order()
    names = Counter(name for text in sources.values() for name in _defined(ast.parse(text)))
    shared = {name for name, modules in names.items() if modules > 1}
    imports: set[str] = set()
    parts = [_body(module, sources[module], shared, imports) for module in order]
    plain = sorted(line for line in imports if line.startswith("import"))
    return HEAD + "\n".join([*plain, *_merged(imports - set(plain))]) + "\n" + "".join(parts) + TAIL


def main() -> None:
    """Write the script."""
    text = standalone()
    TARGET.write_text(text)
    print(f"written: {TARGET.relative_to(ROOT)}, {text.count(chr(10))} lines")


def _modules(name: str, found: dict[str, str]) -> dict[str, str]:
    """Sources of a module and of all modules of the folder that it imports, by name."""
    if name not in found:
        found[name] = (FOLDER / f"{name}.py").read_text()
        for other in _imported(ast.parse(found[name])):
            _modules(other, found)
    return found


def _imported(tree: ast.Module) -> list[str]:
    """Names of the folder's modules that one imports; anything else of ours would not stand alone."""
    wanted = [node for node in tree.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith("moeopt")]
    names = {str(node.module).removeprefix("moeopt.verify.") for node in wanted}
    if outside := {name for name in names if not (FOLDER / f"{name}.py").is_file()}:
        raise ValueError(f"{outside} cannot stand alone")
    return sorted(names)


def _defined(tree: ast.Module) -> set[str]:
    """What a module defines at its top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return names


def _body(module: str, text: str, shared: set[str], imports: set[str]) -> str:
    """Return a module without docstring and imports; those of the standard library are added to ``imports``."""
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in heads:
        source = ast.unparse(node)
        if not re.match(r"from (moeopt|__future__)", source):
            imports.add(source)
    last = max([*heads, tree.body[0]], key=lambda node: node.lineno)
    told = [f"# moeopt/verify/{module}.py", "#", *(ast.get_docstring(tree) or "").splitlines()]
    head = "\n".join(line if line.startswith("#") else f"# {line}".rstrip() for line in told)
    code = "".join(lines[last.end_lineno :]).strip("\n")
    own = {name: f"{module}_{name}".replace("__", "_") for name in _defined(tree) & shared}
    return f"\n\n# {'-' * 80}\n{head}\n\n\n{_renamed(code, own)}\n"


def _renamed(code: str, names: dict[str, str]) -> str:
    """Replace names, attributes of the same name excepted."""
    rows = [line.split("\n")[0] for line in code.splitlines(keepends=True)]
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    dots = {token.end for token in tokens if token.string == "."}
    for token in reversed(tokens):
        if token.type == tokenize.NAME and token.string in names and token.start not in dots:
            row, column = token.start
            line = rows[row - 1]
            rows[row - 1] = line[:column] + names[token.string] + line[column + len(token.string) :]
    return "\n".join(rows)


def _merged(imports: set[str]) -> list[str]:
    """Return ``from`` imports of one module in one line."""
    wanted: dict[str, set[str]] = {}
    for line in imports:
        module, names = re.fullmatch(r"from (\S+) import (.*)", line, re.DOTALL).groups()
        wanted.setdefault(module, set()).update(name.strip() for name in names.split(","))
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(wanted.items())]


if __name__ == "__main__":
    sys.exit(main())
