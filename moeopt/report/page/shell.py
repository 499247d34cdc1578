"""The shell of every page: template, style, script, plotting library and data in one file that asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

_DATA = '<script type="application/json" id="data">'

_LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
_SCRIPTS = {
    "gap": ("page.js", "charts.js", "setting.js", "layer.js", "engines.js", "gap.js"),
    "replay": ("page.js", "charts.js", "replay.js"),
}
"""Scripts by kind of page, each using those before it; the last one begins."""


def page(data: Mapping[str, Any]) -> bytes:
    """Return the page that shows ``data``: its ``title``, and what the scripts for its ``kind`` make of it.

    Nothing is loaded from elsewhere, and the page's own policy forbids it: the browser runs these scripts, known by
    their hashes, and no others, whatever names of traces and methods contain.
    """
    scripts = [*_library(), *map(_own, _SCRIPTS[data["kind"]])]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    parts = {
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        "title": html.escape(data["title"]),
        "style": _own("page.css"),
        "data": f"{_DATA}{data_block(data)}</script>",
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    text = _own("page.html")
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text.encode()


def data_of(content: bytes) -> Any:
    """Return the data of a page, as :func:`page` was given them."""
    _, _, behind = content.decode().partition(_DATA)
    return json.loads(behind.partition("</script>")[0])


def data_block(data: Mapping[str, Any]) -> str:
    """Return one line of JSON that cannot end the element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def numbers(values: Any) -> Any:
    """Return an array as nested lists for JSON; what is not known, NaN, is None."""
    array = np.asarray(values, dtype=float)
    found = array.astype(object)
    found[np.isnan(array)] = None
    return found.tolist()


def _own(name: str) -> str:
    return files("moeopt.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> tuple[str, ...]:
    """Return Bokeh's scripts; nothing in them may end the element they stand in."""
    folder = files("bokeh").joinpath("server", "static", "js")
    scripts = [folder.joinpath(name).read_text(encoding="utf-8") for name in _LIBRARY]
    return tuple(script.replace("</script", "<\\/script") for script in scripts)
