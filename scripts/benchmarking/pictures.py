"""The pictures of the page: speed against quality, and growth with the size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarking.records import BalancerRow, GrowthRow, Results
from moeopt.report.drawing import FLOOR, MARKERS, colours_of, gap_axis, plain, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = ((8, 256), (32, 256), (32, 288), (72, 288), (96, 288), (144, 288))
"""Settings (GPUs, slots) drawn, as far as they were measured."""


def pictures(results: Results) -> dict[str, bytes]:
    """PNG bytes by name of every picture whose part was run."""
    drawn = {}
    if any(row.measured for row in results.balancers):
        drawn["speed_quality.png"] = png(lambda: speed_quality(results.balancers))
    if results.growth:
        drawn["scaling.png"] = png(lambda: growth(results.growth))
    return drawn


def speed_quality(rows: Sequence[BalancerRow]) -> Figure:
    """Mean gap against runtime, a panel per setting, a mark per method and trace."""
    import matplotlib.pyplot as plt

    measured = [(row, row.measured) for row in rows if row.measured]
    shapes = list(dict.fromkeys((row.num_gpus, row.num_slots) for row, _ in measured))
    chosen = [shape for shape in PANELS if shape in shapes] or shapes[: len(PANELS)]
    methods = list(dict.fromkeys(row.method for row, _ in measured))
    colours = colours_of(methods)
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.4 * columns + 1.8, 3.0 * lines + 0.5),
        squeeze=False, sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axes, (gpus, slots) in zip(grid.flat, chosen, strict=False):
        for row, found in measured:
            if (row.num_gpus, row.num_slots) == (gpus, slots):
                number = methods.index(row.method)
                (handles[row.method],) = axes.plot(
                    found.ms, max(100 * found.mean_gap, FLOOR), MARKERS[number % len(MARKERS)], linestyle="none",
                    color=colours[row.method], markeredgecolor="black", markeredgewidth=0.6, markersize=7,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{gpus} GPUs, {slots} slots", fontsize=10)
        plain(axes, "both")
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    gap_axis(grid[0][0], "")  # shared by all panels, so after everything is drawn
    figure.supxlabel("runtime for all layers [ms]", fontsize=10)
    figure.supylabel("mean gap to the proven bound [%]", fontsize=10)
    named = {name.replace("_", " "): handles[name] for name in methods}
    figure.legend(named.values(), named.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle("Lower left is better; a mark per trace", fontsize=11)
    return figure


def growth(curves: Mapping[str, Sequence[GrowthRow]]) -> Figure:
    """Seconds against the size that grows, a panel per curve, with linear and quadratic guides."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        1, len(curves), figsize=(3.6 * len(curves) + 1.2, 3.8), squeeze=False, sharey=True, layout="constrained"
    )
    methods = list(next(iter(curves.values()))[0].seconds)
    colours = colours_of(methods)
    finite = [taken for rows in curves.values() for row in rows for taken in row.seconds.values() if np.isfinite(taken)]
    low, high = min(finite, default=1e-6), max(finite, default=1.0)
    for axes, (title, rows) in zip(grid[0], curves.items(), strict=True):
        grows = "experts" if rows[0].experts != rows[-1].experts else "GPUs"
        sizes = np.array([row.experts if grows == "experts" else row.gpus for row in rows], dtype=float)
        for number, name in enumerate(methods):
            axes.plot(
                sizes,
                [row.seconds[name] for row in rows],
                marker=MARKERS[number],
                markersize=5,
                color=colours[name],
                label=name,
            )
        for power, style in ((1, ":"), (2, "--")):
            guide = low * (sizes / sizes[0]) ** power
            label = {1: "linear", 2: "quadratic"}[power]
            axes.plot(sizes, guide, style, color="0.6", linewidth=1, label=label, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(low / 2, high * 3)
        axes.set_xlabel(grows)
        axes.set_title(title, fontsize=9)
        plain(axes, "both")
    grid[0][0].set_ylabel("seconds for one layer")
    grid[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure
