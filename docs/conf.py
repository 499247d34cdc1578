"""Sphinx configuration; `sphinx-build -W docs docs/_build` needs no network."""

import json
from importlib.metadata import version as installed_version
from pathlib import Path

from moeopt.report.page.shell import page

project = "moeopt"
author = "The moeopt developers"
project_copyright = "The moeopt developers"
release = version = installed_version("moeopt")

extensions = [
    "myst_nb",  # Markdown, and notebooks that run while the documentation is built
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # bundles MathJax: pages show their formulas without a network
]
exclude_patterns = ["_build"]

nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_ipywidgets_js = {}  # pages load nothing from a network

myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
math_eqref_format = "({number})"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "moeopt"
html_static_path = ["_static"]
html_css_files = ["moeopt.css"]


def pages_to_explore(app, error):
    """Make a page of the data of every result that keeps them; no page of the documentation has such a name."""
    folder = Path(app.outdir, "results", "explore")
    folder.mkdir(parents=True, exist_ok=True)
    for data in sorted(Path(app.srcdir, "results").glob("*.json")):
        (folder / f"{data.stem}.html").write_bytes(page(json.loads(data.read_text())))


def setup(app):
    """Have the pages to explore made beside the others."""
    app.connect("build-finished", pages_to_explore)
