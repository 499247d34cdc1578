"""Pictures of one setting: who is how unbalanced, how far from the bound, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt import metrics
from moeopt.report.drawing import MARKERS, colours_of, drawn, gap_axis, layer_ticks, plain, png
from moeopt.report.settings import title
from moeopt.report.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Shares = Mapping[str, NDArray[np.float64]]
"""Normalised GPU loads ``[layers, gpus]`` by method."""


def pictures(study: Study) -> dict[str, bytes]:
    """PNG bytes of every picture of the setting by kind; nothing without a placement."""
    shares = {
        name: metrics.normalised(run.found.gpu_load[run.found.solved])
        for name, run in study.runs.items()
        if run.found.placement is not None
    }
    if not shares:
        return {}
    layers = {name: [study.problem.load.layer_ids[i] for i in study.runs[name].found.solved] for name in shares}
    heading = title(study.problem)
    table = study.layers[study.layers.makespan.notna()]
    colours = colours_of(list(study.runs))
    drawings: dict[str, Callable[[], Figure]] = {
        "heatmap": lambda: heatmap(shares, layers, heading),
        "boxplot": lambda: box_plot(shares, heading, colours),
        "gap_by_layer": lambda: gap_by_layer(table, heading, colours),
        "gap_runtime": lambda: gap_against_runtime(table, heading, colours),
    }
    return {kind: png(draw) for kind, draw in drawings.items()}


def heatmap(shares: Shares, layers: Mapping[str, list[int]], heading: str) -> Figure:
    """Deviation of every GPU from the mean load of its layer, a panel per method."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import SymLogNorm

    columns = min(4, len(shares))
    lines = -(-len(shares) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2.7 * columns + 1.4, 2.8 * lines + 0.6), squeeze=False, layout="constrained"
    )
    # Logarithmic beyond 0.1 %: the vanilla layout is off by hundreds of per cent, a good one by tenths.
    scale = SymLogNorm(linthresh=0.1, linscale=0.5, vmin=-100, vmax=100)
    image: Any = None
    for number, (name, share) in enumerate(shares.items()):
        axes = grid.flat[number]
        deviation = 100 * (share * share.shape[1] - 1)
        image = axes.imshow(deviation, aspect="auto", cmap="RdBu_r", norm=scale, interpolation="nearest")
        axes.set_title(f"{name}\nworst GPU +{deviation.max():.3g} %", fontsize=10)
        layer_ticks(axes.yaxis, layers[name])
        if number % columns == 0:
            axes.set_ylabel("layer")
        if number + columns >= len(shares):
            axes.set_xlabel("GPU")
    for axes in grid.flat[len(shares) :]:
        axes.set_visible(False)
    bar = figure.colorbar(image, ax=grid, extend="max", shrink=0.9, aspect=40)
    ticks = (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100)
    bar.set_ticks(ticks, labels=[f"{tick:+g}" if tick else "0" for tick in ticks])
    bar.set_label("GPU load above or below the layer's mean [%]")
    figure.suptitle(f"Load of every GPU: {heading}", fontsize=12)
    return figure


def box_plot(shares: Shares, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Spread of the normalised GPU loads per method, with the ideal 1/GPUs and the overall sigma.

    The second panel magnifies the neighbourhood of the ideal, where good methods differ.
    """
    import matplotlib.pyplot as plt

    names = list(shares)
    num_gpus = shares[names[0]].shape[1]
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 0.42 * len(names) + 1.7), sharey=True, layout="constrained", width_ratios=(1.2, 1)
    )
    for axes in panels:
        boxes = axes.boxplot(
            [shares[name].ravel() for name in names], orientation="horizontal", widths=0.62, patch_artist=True,
            flierprops={"marker": ".", "markersize": 3, "alpha": 0.35, "markeredgewidth": 0, "markerfacecolor": "0.2"},
            medianprops={"color": "black"},
        )  # fmt: skip
        for box, name in zip(boxes["boxes"], names, strict=True):
            box.set_facecolor(colours[name])
        axes.axvline(1 / num_gpus, color="black", linestyle="--", linewidth=1, label=f"ideal 1/{num_gpus}")
        axes.set_xlabel("share of the layer's load on one GPU")
        plain(axes, "x")
    panels[0].set_yticks(range(1, len(names) + 1), [f"{name}\n$\\sigma$ = {shares[name].std():.3g}" for name in names])
    panels[0].tick_params(axis="y", labelsize=8)
    panels[0].invert_yaxis()
    panels[0].legend(loc="lower right", frameon=True, fontsize=9)
    reach = np.sort([np.abs(shares[name] - 1 / num_gpus).max() for name in names])[(len(names) - 1) // 2]
    reach = max(float(reach), 1e-6 / num_gpus) * 1.15
    panels[1].set_xlim(1 / num_gpus - reach, 1 / num_gpus + reach)
    panels[1].locator_params(axis="x", nbins=5)
    panels[1].ticklabel_format(axis="x", useOffset=False)
    panels[0].set_title("all loads", fontsize=10)
    panels[1].set_title("near the ideal", fontsize=10)
    figure.suptitle(f"Spread of GPU loads over all layers: {heading}", fontsize=12)
    return figure


def gap_by_layer(table: pd.DataFrame, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Gap to the lower bound by layer, a line per method; marks shrink so that equal methods show."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    layers = sorted(table.layer.unique())
    for name, rows in table.groupby("method", sort=False):
        number = list(colours).index(str(name))
        axes.plot(
            np.searchsorted(layers, rows.layer), drawn(rows.gap), color=colours[str(name)], linewidth=1.1,
            marker=MARKERS[number % len(MARKERS)], markersize=max(9 - number, 3), markerfacecolor="none",
            linestyle="-" if number < 10 else "--", label=str(name),
        )  # fmt: skip
    layer_ticks(axes.xaxis, [int(layer) for layer in layers], most=20)
    axes.set_xlabel("layer")
    gap_axis(axes, "gap to the lower bound [%]")
    axes.set_title(f"Gap by layer: {heading}", fontsize=12)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    plain(axes, "both")
    return figure


def gap_against_runtime(table: pd.DataFrame, heading: str, colours: Mapping[str, Any]) -> Figure:
    """Mean gap (bar: best to worst layer) against the runtime for all layers together."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    for name, rows in table.groupby("method", sort=False):
        number = list(colours).index(str(name))
        runtime, mean = float(rows.runtime_ms.sum()), float(rows.gap.mean())
        low, middle, high = (float(v) for v in drawn(np.array([rows.gap.min(), mean, rows.gap.max()])))
        axes.plot([runtime, runtime], [low, high], color=colours[str(name)], linewidth=1.5, alpha=0.55)
        axes.plot(
            runtime, middle, MARKERS[number % len(MARKERS)], color=colours[str(name)], markeredgecolor="black",
            markersize=8, label=str(name), linestyle="none",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("runtime for all layers [ms]")
    gap_axis(axes, "gap to the lower bound [%]")
    axes.set_title(f"Gap against runtime (mark: mean; bar: best to worst layer)\n{heading}", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    plain(axes, "both")
    return figure
