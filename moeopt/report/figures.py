"""Pictures of one setting: who is how unbalanced, how far from the bound, and at what cost."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.report.settings import title
from moeopt.report.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Shares = Mapping[str, NDArray[np.float64]]
"""Normalised GPU loads ``[layers, gpus]`` by method."""

FLOOR = 1e-3
"""Gaps in percent at and below this are drawn on it: a logarithmic axis has no zero."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p")


def pictures(study: Study) -> dict[str, bytes]:
    """PNG bytes of every picture of the setting by kind; nothing without a placement."""
    shares = {
        name: metrics.normalised(metrics.gpu_load(study.problem.load[rows], run.placement[rows]))
        for name, run in study.runs.items()
        if run.placement is not None and (rows := run.solved.tolist())
    }
    if not shares:
        return {}
    layers = {
        name: [study.problem.load.layer_ids[i] for i in study.runs[name].solved] for name in shares
    }  # fmt: skip
    heading = title(study.problem)
    table = study.layers[study.layers.makespan.notna()]
    colours = _colours(list(study.runs))
    drawings: dict[str, Callable[[], Figure]] = {
        "heatmap": lambda: heatmap(shares, layers, heading),
        "boxplot": lambda: box_plot(shares, heading, colours),
        "gap_by_layer": lambda: gap_by_layer(table, heading, colours),
        "gap_runtime": lambda: gap_against_runtime(table, heading, colours),
    }
    return {kind: _png(draw) for kind, draw in drawings.items()}


def heatmap(shares: Shares, layers: Mapping[str, list[int]], heading: str) -> Figure:
    """Share of the layer's load on every GPU relative to the ideal, a panel per method."""
    import matplotlib.pyplot as plt

    columns = min(4, len(shares))
    lines = -(-len(shares) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2.9 * columns + 1.2, 2.9 * lines + 0.7), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    ratios = {name: share * share.shape[1] for name, share in shares.items()}
    # A robust common scale: the vanilla layout's worst GPUs must not wash out all other panels.
    deviations = np.concatenate([np.abs(ratio - 1).ravel() for ratio in ratios.values()])
    reach = float(np.clip(np.quantile(deviations, 0.90), 0.01, 1.0))
    image = None
    for axes, (name, ratio) in zip(grid.flat, ratios.items(), strict=False):
        image = axes.imshow(
            ratio, aspect="auto", cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach, interpolation="nearest"
        )
        axes.set_title(f"{name}   max {ratio.max():.3f}", fontsize=10)
        _layer_ticks(axes.yaxis, layers[name])
    for axes in grid.flat[len(shares) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("layer")
    for column in range(columns):
        bottom = [axes for axes in grid[:, column] if axes.get_visible()][-1]
        bottom.set_xlabel("GPU")
        bottom.tick_params(labelbottom=True)
    figure.colorbar(image, ax=grid, label="GPU load / mean GPU load", extend="both", shrink=0.9, aspect=40)
    figure.suptitle(f"Load of every GPU — {heading}", fontsize=12)
    return figure


def box_plot(shares: Shares, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Spread of the normalised GPU loads per method, with the ideal 1/GPUs and the overall sigma."""
    import matplotlib.pyplot as plt

    names = list(shares)
    num_gpus = shares[names[0]].shape[1]
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(names) + 1.7), layout="constrained")
    boxes = axes.boxplot(
        [shares[name].ravel() for name in names], orientation="horizontal", widths=0.62, patch_artist=True,
        flierprops={"marker": ".", "markersize": 3, "alpha": 0.35, "markeredgewidth": 0, "markerfacecolor": "0.2"},
        medianprops={"color": "black"},
    )  # fmt: skip
    for box, name in zip(boxes["boxes"], names, strict=True):
        box.set_facecolor(colours[name])
    axes.axvline(1 / num_gpus, color="0.25", linestyle="--", linewidth=1, label=f"ideal 1/{num_gpus}")
    axes.set_yticks(range(1, len(names) + 1), [f"{name}\nσ = {shares[name].std():.5f}" for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the layer's load on one GPU (all layers, all GPUs)")
    axes.set_title(f"Spread of GPU loads — {heading}", fontsize=12)
    axes.legend(loc="lower right", frameon=True, fontsize=9)
    _plain(axes, "x")
    return figure


def gap_by_layer(table: pd.DataFrame, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Gap to the lower bound by layer, a line per method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    layers = sorted(table.layer.unique())
    for number, (name, rows) in enumerate(table.groupby("method", sort=False)):
        axes.plot(
            np.searchsorted(layers, rows.layer), _drawn(rows.gap), color=colours[str(name)], linewidth=1.1,
            marker=MARKERS[number % len(MARKERS)], markersize=4, label=str(name),
        )  # fmt: skip
    _layer_ticks(axes.xaxis, [int(layer) for layer in layers], most=20)
    axes.set_xlabel("layer")
    _gap_axis(axes, "gap to the lower bound [%]")
    axes.set_title(f"Gap by layer — {heading}", fontsize=12)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    _plain(axes, "both")
    return figure


def gap_against_runtime(table: pd.DataFrame, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Mean gap (bar: best to worst layer) against the runtime for all layers together."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    for number, (name, rows) in enumerate(table.groupby("method", sort=False)):
        runtime, mean = float(rows.runtime_ms.sum()), float(rows.gap.mean())
        low, middle, high = (float(v) for v in _drawn(np.array([rows.gap.min(), mean, rows.gap.max()])))
        axes.plot([runtime, runtime], [low, high], color=colours[str(name)], linewidth=1.5, alpha=0.55)
        axes.plot(
            runtime, middle, MARKERS[number % len(MARKERS)], color=colours[str(name)], markeredgecolor="black",
            markersize=8, label=str(name), linestyle="none",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("runtime for all layers [ms]")
    _gap_axis(axes, "gap to the lower bound [%]")
    axes.set_title(f"Gap against runtime (mark: mean; bar: best to worst layer)\n{heading}", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    _plain(axes, "both")
    return figure


def _png(draw: Callable[[], Figure]) -> bytes:
    """Draw without a display and without touching the caller's matplotlib settings."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    with plt.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("notebook", font_scale=0.85)}):
        figure = draw()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
        plt.close(figure)
    return file.getvalue()


def _colours(names: list[str]) -> dict[str, Any]:
    """Fixed colours by order of the methods; the ten of seaborn's colour-blind palette, then again."""
    import seaborn as sns

    palette = sns.color_palette("colorblind", 10)
    return {name: palette[number % 10] for number, name in enumerate(names)}


def _drawn(gap: Any) -> NDArray[np.float64]:
    return np.maximum(np.asarray(gap, dtype=float) * 100, FLOOR)


def _gap_axis(axes: Axes, text: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_yscale("log")
    axes.set_ylim(bottom=FLOOR * 0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"≤ {FLOOR:g}" if np.isclose(v, FLOOR) else f"{v:g}"))
    axes.set_ylabel(text)


def _layer_ticks(axis: Any, layers: list[int], most: int = 8) -> None:
    places = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), most)).astype(int))
    axis.set_ticks(places, [str(layers[place]) for place in places])


def _plain(axes: Axes, grid: str) -> None:
    import seaborn as sns

    axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
