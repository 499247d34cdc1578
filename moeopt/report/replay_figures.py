"""The pictures of a replay: cost against the price of a move, and what redundant slots bring."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moeopt.policies import NEVER, ONCE
from moeopt.replay import Replay
from moeopt.report.drawing import colours_of, layer_ticks, plain, png
from moeopt.report.replay_words import ranges
from moeopt.slots import SlotBudget

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PRICES = (1e-3, 1e2)
"""From a move that costs next to nothing to one that costs a hundred balanced layer-steps."""


def cost_picture(replay: Replay, price: float, heading: str) -> bytes:
    """PNG bytes: every policy's cost against the price of a move."""
    return png(lambda: cost_figure(replay, price, heading))


def cost_figure(replay: Replay, price: float, heading: str) -> Figure:
    """A line per policy, the cheapest at every price in bold, the user's price as a vertical line."""
    import matplotlib.pyplot as plt

    table = replay.table().set_index("policy")
    low, high = min(PRICES[0], price / 2 or PRICES[0]), max(PRICES[1], price * 2)
    at = np.geomspace(low, high, 400)
    cost = {name: 100 * (row.cost - 1 + row.moves_per_layer_step * at) for name, row in table.iterrows()}
    parts = ranges(replay)
    cheapest = [name for name, _, _ in parts]
    figure, axes = plt.subplots(figsize=(8.5, 5.6), layout="constrained")
    once, never = cost[ONCE.name], cost[NEVER.name]
    bottom = min(float(line.min()) for line in cost.values())
    top = max(float(once.max()), bottom + 1) * 1.15
    for name, line in cost.items():
        if name not in cheapest and name not in (ONCE.name, NEVER.name):
            axes.plot(at, line, color="0.75", linewidth=1, zorder=1, label="_")
    axes.plot([], [], color="0.75", linewidth=1, label="other policies")
    colours = colours_of(list(dict.fromkeys([*cheapest, ONCE.name])))
    for name, colour in colours.items():
        axes.plot(at, cost[name], color=colour, linewidth=1.6, zorder=2, label=name)
    if float(never.min()) < top:
        axes.plot(at, never, color="0.3", linestyle=":", linewidth=1.4, label="never")
    for name, start, end in parts:
        here = (at >= start) & (at <= end)
        axes.plot(at[here], cost[name][here], color=colours[name], linewidth=4.5, alpha=0.9, zorder=3)
    if price > 0:
        axes.axvline(price, color="black", linestyle="--", linewidth=1.2)
        axes.text(price, top, f" your price: {price:.3g}", va="top", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.9 * bottom, top)
    axes.set_xlabel("price of one move, in balanced layer-steps")
    axes.set_ylabel("cost above perfect balance [%]")
    axes.set_title(f"What a policy costs, by the price of a move (bold: the cheapest)\n{heading}", fontsize=11)
    plain(axes, "both")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def slots_picture(curve: pd.DataFrame, heading: str, num_gpus: int, gb_per_slot: float | None) -> bytes:
    """PNG bytes: step ratio against slots, a line per dispatch rule."""
    return png(lambda: slots_figure(curve, heading, num_gpus, gb_per_slot))


def slots_figure(curve: pd.DataFrame, heading: str, num_gpus: int, gb_per_slot: float | None) -> Figure:
    """What redundant slots bring on later steps under every dispatch rule."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    colours = colours_of(list(curve.dispatch.unique()))
    for marker, (name, rows) in zip("osD^", curve.groupby("dispatch", sort=False), strict=False):
        axes.plot(rows.num_slots, 100 * (rows.step_ratio - 1), marker + "-", color=colours[name], label=str(name))
    slots = sorted(curve.num_slots.unique())
    axes.set_xticks(slots, [str(number) for number in slots], rotation=45 if len(slots) > 6 else 0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("slots")
    axes.set_ylabel("later steps: fullest GPUs above perfect balance [%]")
    if gb_per_slot is not None:
        gb = gb_per_slot / num_gpus
        above = axes.secondary_xaxis("top", functions=(partial(np.multiply, gb), partial(np.multiply, 1 / gb)))
        above.set_xlabel("GB of expert weights per GPU")
    figure.suptitle(f"How many redundant slots, by dispatch rule (planned once)\n{heading}", fontsize=11)
    plain(axes, "both")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def budget_picture(budget: SlotBudget, heading: str) -> bytes:
    """PNG bytes: slots and imbalance of every layer, dealt out and equal."""
    return png(lambda: budget_figure(budget, heading))


def budget_figure(budget: SlotBudget, heading: str) -> Figure:
    """Slots per layer as bars; imbalance with them and with equal numbers as points below."""
    import matplotlib.pyplot as plt

    table = budget.table()
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8.5, 5.4), sharex=True, layout="constrained")
    at = np.arange(len(table))
    upper.bar(at, table.num_slots - min(budget.options), bottom=min(budget.options), color="#4878a8")
    upper.axhline(budget.equal, color="black", linestyle="--", linewidth=1.2)
    upper.text(len(at) - 0.5, budget.equal, f"{budget.equal} for all", ha="right", va="bottom", fontsize=9)
    upper.set_ylabel("slots")
    lower.plot(at, 100 * (table.equal_imbalance - 1), "o", color="0.6", label=f"{budget.equal} slots each")
    lower.plot(at, 100 * (table.imbalance - 1), "o", color="#4878a8", label="slots as dealt")
    lower.set_ylabel("fullest GPU above mean [%]")
    lower.set_xlabel("layer")
    layer_ticks(lower.xaxis, list(table.layer), most=12)
    figure.suptitle(f"Which layers the slots should go to (planned on the warm-up)\n{heading}", fontsize=11)
    for axes in (upper, lower):
        plain(axes, "y")
    lower.legend(frameon=False, fontsize=9)
    return figure
