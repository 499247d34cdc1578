"""Rewrite a page of results: ``python scripts/results_page.py NAME [replay] [options of the script]``.

Runs the gap report, or the replay, then puts its page and figures under docs/results/; of a report with many
settings only the pictures of gap against runtime. The page ``default`` also renews the table in
README.md, between its two ``result`` comments.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
MANY_SETTINGS = 10
README_SETTING = "synthetic_prefill: 288 slots on 32 GPUs"


def main(name: str, *options: str) -> None:
    """Write docs/results/NAME.md and docs/results/figures/NAME."""
    out = Path("report") / name
    script, document = ("replay", "replay.md") if options[:1] == ("replay",) else ("gap_report", "report.md")
    options = options[1:] if script == "replay" else options
    subprocess.run([sys.executable, str(ROOT / "scripts" / f"{script}.py"), *options, "--out", str(out)], check=True)
    page = (out / document).read_text()
    if page.count("\n### ") > MANY_SETTINGS:
        page = re.sub(r"!\[[^]]*\]\(figures/\S*(?<!_gap_runtime)\.png\)\n\n", "", page)
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
