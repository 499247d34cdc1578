"""The Moves section's tables: what every placement costs from the one in force, and how few moves suffice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moeopt.report.moves import Migration, MovesStudy
from moeopt.report.study import Study
from moeopt.report.tables import markdown, percent

if TYPE_CHECKING:
    import pandas as pd

SHOWN = (0.0, 0.001, 0.01, 0.05)
"""Ceilings of the tables, relative distances above the best makespan; the picture and ``moves.csv`` have more."""

FULL = (
    "Every slot is to be full here, as it is in force: where a slot may stay empty, dropping a copy costs no move, "
    "and part of the question would be which copies to stop using."
)
NOT_FULL = "Slots may stay empty here, since the placement in force leaves some empty; dropping a copy costs no move."


def moves_table(studies: Sequence[Study], expert_bytes: int | None = None) -> pd.DataFrame:
    """``moves.csv``: a row per setting, layer and method, and for ``repair`` per ceiling.

    ``above_best`` is the ceiling of ``repair`` and what other methods reach; ``lower_bound`` are the moves that no
    placement can do without which is at most as far above the best as the row's method or ceiling.
    """
    import pandas as pd

    tables = []
    for study in studies:
        if study.moves is None:
            continue
        found = study.moves
        rows = [_rows(found, name, one, None) for name, one in found.fixed.items()]
        rows += [_rows(found, "repair", one, point) for point, one in enumerate(found.repaired)]
        table = pd.concat(rows, ignore_index=True)
        for column in ("num_groups", "num_nodes", "num_slots", "num_gpus"):
            table.insert(0, column, getattr(study.problem, column))
        table.insert(0, "trace", study.problem.load.source)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if expert_bytes is not None:
        table["bytes"] = (table.transfers * expert_bytes).astype("Int64")
    return table.astype({"moves": "Int64", "transfers": "Int64", "rounds": "Int64", "lower_bound": "Int64"})


def _rows(found: MovesStudy, name: str, one: Migration, point: int | None) -> pd.DataFrame:
    import pandas as pd

    layers = found.problem.num_layers
    above = found.above(one) if point is None else np.full(layers, found.ceilings[point])
    bound, source = np.full(layers, np.nan), [""] * layers
    for number in reversed(range(len(found.ceilings))):
        holds = found.within(one, found.ceilings[number]) if point is None else np.full(layers, number == point)
        needed = found.needed(number)
        for layer in np.flatnonzero(holds):
            bound[layer], source[layer] = needed.value[layer], needed.source[layer]
    return pd.DataFrame(
        {
            "layer": found.problem.load.layer_ids,
            "method": name,
            "above_best": above,
            "moves": one.moves,
            "transfers": one.transfers,
            "rounds": one.rounds,
            "makespan": one.makespan,
            "lower_bound": bound,
            "bound_source": source,
        }
    )


def section(found: MovesStudy, in_force: str, expert_bytes: int | None) -> list[str]:
    """Return the parts of the Moves section, without its picture."""
    reference = found.problem.reference
    assert reference is not None
    full = NOT_FULL if found.problem.allow_empty_slots else FULL
    text = (
        f"From {in_force}, which is {percent(float(stay(found).mean()))} % above the best on these loads. The best is "
        f"the least makespan that the methods above and `search` found, layer by layer. {full}"
    )
    explained = (
        "Means per layer. *moves*: slots to be written; *transfers*: experts that a GPU must receive; *rounds*: until "
        "the last layer is done, where a GPU receives one copy of a layer at a time. `relabel` and `minimize_moves` "
        "tidy the best placement known; `repair` mends the one in force under a ceiling."
    )
    fewest = (
        "How few moves per layer suffice for a makespan at most so far above the best. In brackets: layers of "
        f"{found.problem.num_layers} that a method brings there, where it is not all; the mean speaks of these."
    )
    return [
        "#### Moves",
        text,
        explained,
        markdown(_cost_headings(expert_bytes), _cost_cells(found, expert_bytes)),
        fewest,
        markdown(front_headings(found), front_cells(found)),
    ]


def stay(found: MovesStudy) -> NDArray[np.float64]:
    """``[layers]`` how far the placement in force is above the best on the new loads."""
    assert found.problem.reference is not None
    return found.above(Migration.of(found.problem, found.problem.reference))


def sentence(found: MovesStudy) -> str:
    """Say what one per cent above the best costs, and what a re-run of EPLB moves."""
    point = found.ceilings.tolist().index(0.01)
    one, needed = found.repaired[point], np.nan_to_num(found.needed(point).value)
    if np.isnan(one.moves).any():
        return f"Moves: 1 % above the best is reached on {(~np.isnan(one.moves)).sum()} of {len(one.moves)} layers."
    return (
        f"Moves: {one.moves.mean():.1f} per layer bring the placement in force within 1 % of the best ("
        f"{needed.mean():.1f} are proven to be needed); EPLB moves {found.fixed['eplb'].moves.mean():.1f}."
    )


def _cost_headings(expert_bytes: int | None) -> list[str]:
    gigabytes = [] if expert_bytes is None else ["GB, all layers"]
    return ["placement", "moves", "transfers", *gigabytes, "rounds", "above best %", "layers"]


def _cost_cells(found: MovesStudy, expert_bytes: int | None) -> list[list[str]]:
    rows = [_cost(found, name, one, expert_bytes) for name, one in found.fixed.items()]
    for point, above in _shown(found):
        rows.append(_cost(found, f"repair, {_ceiling(above)}", found.repaired[point], expert_bytes))
    return rows


def _cost(found: MovesStudy, name: str, one: Migration, expert_bytes: int | None) -> list[str]:
    layers, there = found.problem.num_layers, ~np.isnan(one.moves)
    if not there.any():
        return [name, *["-"] * (len(_cost_headings(expert_bytes)) - 2), f"0/{layers}"]
    gigabytes = [] if expert_bytes is None else [f"{np.nansum(one.transfers) * expert_bytes / 1e9:.3g}"]
    rounds = one.rounds[~np.isnan(one.rounds)]
    return [
        name,
        f"{np.nanmean(one.moves):.1f}",
        f"{np.nanmean(one.transfers):.1f}",
        *gigabytes,
        f"{rounds.max():.0f}" if rounds.size else "-",
        percent(max(float(np.nanmean(found.above(one))), 0.0)),  # a repair may end below the best it began with
        f"{there.sum()}/{layers}",
    ]


def front_headings(found: MovesStudy) -> list[str]:
    """Headings of the table of fewest moves: the ceilings."""
    return ["method", *(_ceiling(above) for _, above in _shown(found))]


def front_cells(found: MovesStudy) -> list[list[str]]:
    """Rows of the table of fewest moves: every method, the proven minimum, and where the two meet."""
    shown = _shown(found)
    rows = [[name, *(_within(found, one, above) for _, above in shown)] for name, one in found.fixed.items()]
    rows.append(["repair", *(_within(found, found.repaired[point], above) for point, above in shown)])
    needed = [np.nan_to_num(found.needed(point).value).mean() for point, _ in shown]
    rows.append(["proven minimum", *(f"{least:.1f}" for least in needed)])
    rows.append(["layers proven %", *(f"{100 * found.optimal(point).mean():.0f}" for point, _ in shown)])
    return rows


def _within(found: MovesStudy, one: Migration, above: float) -> str:
    """Mean moves over the layers that a placement brings under a ceiling, and how many these are."""
    there = found.within(one, above)
    if not there.any():
        return "-"
    some = "" if there.all() else f" ({there.sum()})"
    return f"{one.moves[there].mean():.1f}{some}"


def _shown(found: MovesStudy) -> list[tuple[int, float]]:
    """Number and height of the ceilings that the tables have."""
    return [(point, float(above)) for point, above in enumerate(found.ceilings) if above in SHOWN]


def _ceiling(above: float) -> str:
    return f"+{100 * above:g} %"
