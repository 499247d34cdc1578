"""Rewrite a page of results: ``python scripts/results_page.py NAME [replay] [options of the script]``.

Runs the gap report, or the replay, then puts its page and figures under docs/results/; of a report with many
settings only the pictures of gap against runtime, of others also the data from which the documentation makes a page to
explore. The page ``default`` also renews the table in
README.md, between its two ``result`` comments.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from moeopt.report.page.shell import data_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
MANY_SETTINGS = 10
README_SETTING = "synthetic_prefill: 288 slots on 32 GPUs"


def main(name: str, *options: str) -> None:
    """Write docs/results/NAME.md, NAME.json and figures/NAME."""
    out = Path("report") / name
    script, document = ("replay", "replay.md") if options[:1] == ("replay",) else ("gap_report", "report.md")
    options = options[1:] if script == "replay" else options
    subprocess.run([sys.executable, str(ROOT / "scripts" / f"{script}.py"), *options, "--out", str(out)], check=True)
    page = (out / document).read_text()
    data = RESULTS / f"{name}.json"
    if page.count("\n### ") > MANY_SETTINGS:
        page = re.sub(r"!\[[^]]*\]\(figures/\S*(?<!_gap_runtime)\.png\)\n\n", "", page)
        data.unlink(missing_ok=True)
    else:
        explorable = data_of((out / document).with_suffix(".html").read_bytes())
        data.write_text(json.dumps(explorable, separators=(",", ":")) + "\n")
        page = linked(page, name)
    figures = RESULTS / "figures" / name
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True)
    for picture in re.findall(r"\]\((figures/\S+?)\)", page):
        shutil.copy(out / picture, figures)
    page = page.replace("](figures/", f"](figures/{name}/")
    (RESULTS / f"{name}.md").write_text(page)
    if name == "default":
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), table_of(page, README_SETTING)))


def linked(page: str, name: str) -> str:
    """Return the page with a link to the one to explore below its title; where pages lie is the documentation's."""
    title, _, rest = page.partition("\n\n")
    return f'{title}\n\n<a href="explore/{name}.html">Explore these results: sort, filter, every layer</a>.\n\n{rest}'


def table_of(page: str, setting: str) -> str:
    """Return the table below the heading of one setting."""
    _, _, below = page.partition(f"### {setting}\n\n")
    return below.partition("\n\n")[0]


def with_table(readme: str, table: str) -> str:
    """Return the README with what stands between its two ``result`` comments replaced."""
    marked = re.compile(r"(<!-- result -->\n).*?(<!-- /result -->)", re.DOTALL)
    return marked.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", readme)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
