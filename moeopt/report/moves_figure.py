"""The picture of the Moves section: moves against balance, what is reachable and what is proven impossible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moeopt.report.drawing import colours_of, plain, png
from moeopt.report.moves import Floats, MovesStudy
from moeopt.report.moves_tables import stay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINEAR = 0.1
"""Per cent above the best up to which the vertical axis is linear, so that it has a zero."""


def moves_picture(found: MovesStudy, heading: str) -> bytes:
    """PNG bytes of the front between balance and migration."""
    return png(lambda: moves_figure(found, heading))


def moves_figure(found: MovesStudy, heading: str) -> Figure:
    """Makespan of the worst layer above its best against moves per layer.

    With the worst layer no method can lie where a ceiling for all layers is proven to need more moves; with a mean
    over layers one could.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 6), layout="constrained")
    ceilings = 100 * found.ceilings
    moves = np.array([one.moves.mean() for one in found.repaired])  # NaN where a layer does not get there
    needed = np.array([np.nan_to_num(found.needed(point).value).mean() for point in range(len(ceilings))])
    start = 100 * float(stay(found).max())
    top = max(1.6 * start, 2 * ceilings[-1])
    positive = np.concatenate([values[values > 0] for values in (moves, needed)])
    left = max(0.5 * float(positive.min(initial=1.0)), 0.2)
    right = 4.0 * found.problem.slots  # room for the names beside their points

    moves, needed = np.maximum(moves, left), np.maximum(needed, left)
    colours = colours_of(["repair", *found.fixed])
    _impossible(axes, ceilings, needed, left)
    _reachable(axes, ceilings, moves, top, right)
    _unknown(axes, ceilings, needed, moves)
    axes.plot(
        moves, ceilings, "o", color=colours["repair"], markeredgecolor="black", markersize=7, linestyle="none",
        label="repair: the fewest moves found for a ceiling", zorder=4, clip_on=False,
    )  # fmt: skip
    for marker, (name, one) in zip("s^DvP", found.fixed.items(), strict=False):
        above = 100 * found.above(one)
        at = max(float(one.moves.mean()), left)
        axes.plot([at, at], [above.min(), above.max()], color=colours[name], linewidth=1.5, alpha=0.6)
        axes.plot(
            at, above.max(), marker, color=colours[name], markeredgecolor="black", markersize=8,
            linestyle="none", label=f"{name}: worst layer, bar down to the best one", zorder=5, clip_on=False,
        )  # fmt: skip
        axes.annotate(
            name, (at, float(above.max())), (9, 4), textcoords="offset points", fontsize=9, zorder=6
        ).set_in_layout(False)
    axes.plot(
        left, start, "<", color="0.3", markersize=9, linestyle="none", clip_on=False, zorder=6,
        label=f"the placement in force: no move, worst layer +{start:.3g} %",
    )  # fmt: skip
    _axes(axes, left, right, top)
    axes.set_title(f"How few moves restore how much balance\n{heading}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _impossible(axes: Axes, ceilings: Floats, needed: Floats, left: float) -> None:
    """Shade what is proven impossible: up to a ceiling, at least the moves that it needs."""
    label = "proven impossible"
    for low, high, least in zip(ceilings[:-1], ceilings[1:], needed[1:], strict=True):
        if least > left:
            axes.fill_betweenx([low, high], left, least, color="0.55", linewidth=0, label=label)
            label = "_"
    if label == "_":
        axes.plot(np.repeat(needed[1:], 2), np.repeat(ceilings, 2)[1:-1], color="0.3", linewidth=1.2)
        axes.text(0.02, 0.03, "proven impossible", transform=axes.transAxes, fontsize=10, weight="bold", color="white")


def _reachable(axes: Axes, ceilings: Floats, moves: Floats, top: float, right: float) -> None:
    """Shade what is reachable: from a ceiling on, at least the moves found for it."""
    there = ~np.isnan(moves)
    if not there.any():
        return
    found, heights = moves[there], np.append(ceilings[there], top)
    for least, low, high in zip(found, heights[:-1], heights[1:], strict=True):
        axes.fill_betweenx([low, high], least, right, color="#cfe8d8", linewidth=0, zorder=0)
    axes.plot(np.repeat(found, 2), np.repeat(heights, 2)[1:-1], color="#1b7f4b", linewidth=1.8, zorder=3)
    axes.text(
        0.97, 0.93, "reachable", transform=axes.transAxes, ha="right", fontsize=10, weight="bold", color="#1b7f4b"
    )  # fmt: skip


def _unknown(axes: Axes, ceilings: Floats, needed: Floats, moves: Floats) -> None:
    """Name the strip between what is proven and what is found, where it is widest."""
    width = np.log(moves[1:-1] / needed[1:-1])
    if np.isnan(width).all() or np.nanmax(width) < np.log(2):
        return
    point = 1 + int(np.nanargmax(width))
    across, up = np.sqrt(needed[point] * moves[point]), np.sqrt(ceilings[point] * ceilings[point + 1])
    axes.text(float(across), float(up), "not known", ha="center", va="center", fontsize=10, color="0.3")


def _axes(axes: Axes, left: float, right: float, top: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("moves per layer: slots to be written (mean over layers; the left edge stands for fewer)")
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
    axes.set_ylim(0, top)
    ticks = [tick for tick in (0, 0.1, 0.3, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= top]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("worst layer's makespan above its best known [%]")
    plain(axes, "both")
