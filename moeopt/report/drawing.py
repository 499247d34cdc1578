"""What all pictures share: colours, marks, axes, and drawing without a display."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-3
"""Gaps in percent at and below this are drawn on it: a logarithmic axis has no zero."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p")


def png(draw: Callable[[], Figure]) -> bytes:
    """Draw without a display and without touching the caller's matplotlib settings."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    with plt.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("notebook", font_scale=0.85)}):
        figure = draw()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
        plt.close(figure)
    return file.getvalue()


def colours_of(names: list[str]) -> dict[str, Any]:
    """Fixed colours by order of the methods; the ten of seaborn's colour-blind palette, then again."""
    import seaborn as sns

    palette = sns.color_palette("colorblind", 10)
    return {name: palette[number % 10] for number, name in enumerate(names)}


def drawn(gap: Any) -> NDArray[np.float64]:
    """Return gaps in percent, none below ``FLOOR``."""
    percent: NDArray[np.float64] = np.maximum(np.asarray(gap, dtype=float) * 100, FLOOR)
    return percent


def gap_axis(axes: Axes, text: str) -> None:
    """Make the vertical axis logarithmic, its lowest mark standing for everything below."""
    from matplotlib.ticker import FuncFormatter

    axes.set_yscale("log")
    axes.set_ylim(bottom=FLOOR * 0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"≤ {FLOOR:g}" if np.isclose(v, FLOOR) else f"{v:g}"))
    axes.set_ylabel(text)


def layer_ticks(axis: Any, layers: list[int], most: int = 8) -> None:
    """Mark some layers by their ids."""
    places = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), most)).astype(int))
    axis.set_ticks(places, [str(layers[place]) for place in places])


def plain(axes: Axes, grid: str) -> None:
    """Take the frame away and lay a light grid below everything."""
    import seaborn as sns

    axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
