"""replay.html: policies, slots and the price of a move, as data for its page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from moeopt import metrics
from moeopt.report.page.shell import numbers
from moeopt.report.replay_figures import PRICES
from moeopt.report.replay_words import ALL_RULES, ranges, readings, slots_words

if TYPE_CHECKING:
    from moeopt.report.replay_report import Worth

_COLUMNS = (
    "in_sample", "step_ratio", "ci", "hindsight", "moves_per_layer_step", "cost", "saving", "saving_ci", "second_half",
)  # fmt: skip


def replay_data(worth: Worth, answers: list[str], told: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows; ``answers`` are its first sentences, ``told`` speaks of the trace."""
    replay, table, curve = worth.replay, worth.table, worth.curve
    record, machine = facts["trace"], facts["machine"]
    unpriced, budget = replay.table(), worth.budget.table()
    rules = list(curve.dispatch.unique())
    return {
        "kind": "replay",
        "title": "Is rebalancing worth it?",
        "answers": answers,
        "heading": worth.heading,
        "told": told,
        "names": [*table.policy, *rules],
        "policies": [
            {"name": row.policy, "chosen": bool(row.chosen), "plan_ms": 1e3 * row.plan_seconds / max(row.plans, 1)}
            | {name: numbers(getattr(row, name)) for name in _COLUMNS}
            for row in table.itertuples()
        ],
        "readings": readings(metrics.step_ratio(replay.per_step_bound, replay.means)),
        "price": worth.price,
        "prices": PRICES,
        "unpriced": numbers(unpriced.cost),
        "cheapest": [[name, low, None if np.isinf(high) else high] for name, low, high in ranges(replay)],
        "rules": rules,
        "all_rules": ALL_RULES,
        "slots_words": slots_words(curve, replay.dispatch),
        "slots": numbers(curve.num_slots.unique()),
        "ratios": {rule: numbers(curve[curve.dispatch == rule].step_ratio) for rule in rules},
        "gpus": replay.num_gpus,
        "gb_per_slot": worth.gb_per_slot,
        "budget_words": worth.budget_told,
        "budget": {name: numbers(budget[name]) for name in ("layer", "num_slots", "imbalance", "equal_imbalance")},
        "equal": worth.budget.equal,
        "reproduce": {
            "command": shlex.join(facts["command"]),
            "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['platform']}",
            "versions": facts["versions"],
            "traces": [asdict(record)],
        },
    }
