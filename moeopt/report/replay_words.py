"""What a replay says in words: whether rebalancing is worth it, and the tables below that sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeopt.dispatch import RULES
from moeopt.policies import NEVER, ONCE
from moeopt.replay import Replay
from moeopt.slots import SlotBudget

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = (
    "policy", "in-sample", "later steps", "hindsight", "moves", "plan ms", "cost", "saves %", "2nd half",
)  # fmt: skip

ON_SCREEN = ("policy", "in-sample", "later steps", "moves", "cost", "saves %", "2nd half")
"""Of these, what fits a terminal."""

COMPETITION = "60 s score"
"""Heading of what the published competition would charge, where that was asked for."""

ENOUGH = 0.005
"""Share of expert time that is not worth more slots."""

SLOTS_HEADINGS = ("slots", "per GPU", "GB per GPU", *RULES)

ALL_RULES = (
    "`even`: every copy takes the same share; `random`: each token picks a copy; `local`: a GPU that holds a copy "
    "uses it; `optimal`: the best split, solved again for every step."
)


@dataclass(frozen=True)
class Verdict:
    """The cheapest policy at one price of moves, and whether the trace is evidence that planning again pays.

    ``saving`` and ``ci`` are against planning once; ``held_out`` is what the policy chosen on the first half of the
    steps saves on the second half.
    """

    best: str
    every: int | None
    saving: float
    ci: float
    chosen: str
    held_out: float

    @property
    def pays(self) -> bool:
        """Whether planning again is cheaper than once, beyond the interval and on held-out steps."""
        return self.every is not None and self.saving - self.ci > 0 and self.held_out > 0


def judge(replay: Replay, table: pd.DataFrame) -> Verdict:
    """Read the verdict off a replay's table."""
    rows = table.set_index("policy")
    best = str(rows.cost.idxmin())
    chosen = str(rows.index[rows.chosen][0]) if rows.chosen.any() else best
    once = rows.second_half[ONCE.name]
    return Verdict(
        best,
        next(one.policy.every for one in replay.served if one.policy.name == best),
        float(rows.saving[best]),
        float(rows.saving_ci[best]),
        chosen,
        float(1 - rows.second_half[chosen] / once) if once else 0.0,
    )


def headline(replay: Replay, table: pd.DataFrame, price: float) -> list[str]:
    """Return the answer first: whether rebalancing pays, and what planning at all is worth."""
    verdict, rows = judge(replay, table), table.set_index("policy")
    at = f"at {price:.3g} balanced layer-steps per move"
    if verdict.pays:
        held_out = f"{_percent(verdict.held_out)} % held out"
        if verdict.chosen != verdict.best:
            held_out += f" by {verdict.chosen}, the cheapest on the first half"
        first = (
            f"Rebalancing pays on this trace: {at}, {verdict.best} takes {_percent(verdict.saving)} % "
            f"+- {_percent(verdict.ci)} % less expert time than planning once, {held_out}."
        )
    else:
        first = f"No evidence that rebalancing pays on this trace: {at}, "
        if verdict.every is None:
            first += f"the cheapest policy is {verdict.best}, which never plans again."
        else:
            width = "no interval" if np.isnan(verdict.ci) else f"+- {_percent(verdict.ci)} %"
            first += (
                f"the cheapest policy, {verdict.best}, saves {_percent(verdict.saving)} % ({width}) against planning "
                f"once, and choosing on the first half saves {_percent(verdict.held_out)} % on the second."
            )
    saved = 1 - rows.cost[ONCE.name] / rows.cost[NEVER.name]
    second = (
        f"Planning once takes {_percent(saved)} % less expert time than never; the fullest GPUs then take "
        f"{_percent(rows.step_ratio[ONCE.name] - 1)} % longer than in perfect balance."
    )
    return [first, second, _advice(replay, verdict)]


def _advice(replay: Replay, verdict: Verdict) -> str:
    """Say what to do."""
    name = verdict.best if verdict.pays else ONCE.name
    policy = next(one.policy for one in replay.served if one.policy.name == name)
    if policy.every is None:
        return "What to do: plan on recorded loads and load that; run this again when the traffic has changed."
    limit = "" if policy.max_moves is None else f" with at most {policy.max_moves} moves per layer"
    seen = policy.window or replay.warmup
    return f"What to do: every {policy.every} steps plan on the last {seen}{limit}, as {policy.name} does."


def ranges(replay: Replay) -> list[tuple[str, float, float]]:
    """Return which policy is cheapest from which price of a move to which: the lower envelope of straight lines."""
    table = replay.table()
    price, parts = 0.0, []
    base, slope = table.cost.to_numpy(), table.moves_per_layer_step.to_numpy()
    current = int(np.lexsort((slope, base))[0])
    while True:
        flatter = slope < slope[current] - 1e-15
        if not flatter.any():
            parts.append((str(table.policy[current]), price, float("inf")))
            return parts
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.where(flatter, (base - base[current]) / (slope[current] - slope), np.inf)
        following = int(np.lexsort((slope, crossing))[0])
        parts.append((str(table.policy[current]), price, float(crossing[following])))
        price, current = float(crossing[following]), following


def envelope_words(replay: Replay) -> str:
    """Say which policy is cheapest at which price."""
    parts = ranges(replay)
    if len(parts) == 1:
        return f"Whatever a move costs, {parts[0][0]} is cheapest."
    told = [f"{parts[0][0]} below {parts[0][2]:.2g}"]
    told += [f"{name} from {low:.2g} to {high:.2g}" for name, low, high in parts[1:-1]]
    told.append(f"{parts[-1][0]} above {parts[-1][1]:.2g}")
    return f"Cheapest by price of a move, in balanced layer-steps: {'; '.join(told)}."


def headings(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the headings for this table."""
    return (*HEADINGS, COMPETITION) if "competition_seconds" in table else HEADINGS


def cells(table: pd.DataFrame) -> list[list[str]]:
    """Return the table's rows as text under ``HEADINGS``; a star marks the policy chosen on the first half."""
    rows = []
    for row in table.itertuples():
        own = row.policy == ONCE.name
        saving = "-" if own else f"{_percent(row.saving)} +- {_percent(row.saving_ci)}"
        rows.append(
            [
                f"{row.policy}{' *' if row.chosen else ''}",
                f"{row.in_sample:.4f}",
                f"{row.step_ratio:.4f} +- {row.ci:.4f}",
                f"{row.hindsight:.4f}",
                f"{row.moves_per_layer_step:.3g}",
                f"{1e3 * row.plan_seconds / max(row.plans, 1):.3g}",
                f"{row.cost:.4f}",
                saving,
                f"{row.second_half:.4f}",
                *([f"{row.competition_seconds:.3f}"] if "competition_seconds" in table else []),
            ]
        )
    return rows


def readings(bound: float) -> Sequence[str]:
    """Explain the columns of ``HEADINGS``."""
    return (
        "**in-sample**: fullest GPU / mean, summed over the steps that the plans were made on: what a planner sees.",
        "**later steps**: the same on the steps that came after each plan, which is what is paid; "
        "+- is a 95 % interval from windows of steps that do not overlap, with Student's t.",
        "**hindsight**: planned by the same method on the very steps that it serves, which nobody can; "
        f"the proven bound for a placement of its own in every step is {bound:.4f}.",
        "**moves**: slots to be written, per layer and step. **plan ms**: planning time per plan, on one machine.",
        "**cost**: later steps, with moves paid for. **saves %**: against `once`, which plans with search when the "
        "warm-up ends and never again; `never` plans not at all.",
        "**2nd half**: cost on the second half of the steps. A star marks the policy that was cheapest on the "
        "first half: its figure is what choosing on a trace is worth on steps that were not looked at.",
    )


def slots_cells(curve: pd.DataFrame, num_gpus: int, gb_per_slot: float | None) -> list[list[str]]:
    """Return the slots curve as text: later steps' ratio by dispatch rule."""
    wide = curve.pivot(index="num_slots", columns="dispatch", values="step_ratio")
    return [
        [
            str(slots),
            str(slots // num_gpus),
            "-" if gb_per_slot is None else f"{slots / num_gpus * gb_per_slot:.1f}",
            *(f"{row[name]:.4f}" for name in RULES),
        ]
        for slots, row in wide.iterrows()
    ]


def budget_words(budget: SlotBudget, replay: Replay) -> str:
    """Say what dealing slots to layers brings, on the steps that it was made for and on those that followed."""
    if (budget.slots == budget.equal).all():
        return (
            f"With {budget.total} slots in all, {budget.equal} for each layer are best on the warm-up, at most "
            f"{_percent(budget.gap)} % above the best dealing, proven."
        )
    dealt, equal = budget.step_ratios(replay.trace.windows[replay.warmup :], replay.dispatch)
    return (
        f"With {budget.total} slots in all, {budget.slots.min()} to {budget.slots.max()} per layer instead of "
        f"{budget.equal} for each: {_percent(budget.saving)} % less on the warm-up that they are dealt for (at most "
        f"{_percent(budget.gap)} % above the best dealing, proven), {_change(dealt / equal - 1)} on the steps that "
        "follow (search, planned once)."
    )


def slots_words(curve: pd.DataFrame, dispatch: str) -> str:
    """Say how many slots are enough under a dispatch rule."""
    rows = curve[curve.dispatch == dispatch].set_index("num_slots").step_ratio
    fewest, best = int(rows.index[0]), float(rows.min())
    enough = int(rows.index[rows.to_numpy() <= best * (1 + ENOUGH)][0])
    if enough == fewest:
        return f"Split `{dispatch}`, redundant slots bring at most {_percent(1 - best / rows[fewest])} % here."
    saved = _percent(1 - rows[enough] / rows[fewest])
    told = f"Split `{dispatch}`, {enough} slots take {saved} % less expert time than {fewest}"
    if enough == rows.index[-1]:
        return f"{told}; more of them were not tried."
    return f"{told}, and more of them bring less than {_percent(ENOUGH)} %."


def _change(share: float) -> str:
    return f"{_percent(abs(share))} % {'more' if share > 0 else 'less'}"


def _percent(share: float) -> str:
    return "nan" if np.isnan(share) else f"{100 * share:.1f}" if abs(share) >= 0.01 else f"{100 * share:.2f}"
