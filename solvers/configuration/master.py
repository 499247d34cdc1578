"""The configuration LP's primal in integers: contents near the dual prices, and counts that fill their places."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from moeopt.solution import FLOAT_RESOLUTION
from solvers.highs import load_highs, run

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_CONTENTS = 6000
"""Contents above which branch and bound no longer ends in seconds; layers near their mean load have far more."""

MAX_NODES = 5000
"""Nodes of the branch and bound, after which it gives up whatever time is left."""

MAX_SIZES = 2000
"""Different replica sizes whose pairs are listed."""


def fill_contents(
    loads: Floats, num_gpus: int, ceiling: float, prices: Floats, *, full: bool, seconds: float
) -> Integers | None:
    """Placement on GPUs of three slots within ``ceiling``, from the prices of the LP at that ceiling.

    Parameters
    ----------
    loads, prices
        ``[experts]`` loads, and prices at which no content within the ceiling is worth more than 1.
    num_gpus
        GPUs of three slots each.
    ceiling
        Largest load of a GPU.
    full
        Whether every slot must hold a replica.
    seconds
        When to give up.

    Returns
    -------
    ndarray or None
        ``[slots]`` experts, -1 = empty; None if no placement was found, or too many contents are near the prices.

    Notes
    -----
    A content is three places, each as large as some replica. A smaller replica may stand in a larger
    place, so replicas fit if and only if, for every size, places at least so large are as many as
    replicas at least so large: one row a size, chained by the surplus. Hence only contents whose
    third place is the largest that fits matter. Let ``slack`` be ``num_gpus`` less the sum of prices:
    no placement holds a content worth less than ``1 - slack``, nor an expert in a number of copies
    that costs ``slack`` more than its price (a place is worth as much as the most valuable replica that fits
    it), so leaving those out loses nothing.
    """
    slack = num_gpus - float(prices.sum()) + FLOAT_RESOLUTION
    most = 3 * num_gpus - len(loads) + 1
    expert, copies = np.repeat(np.arange(len(loads)), most), np.tile(np.arange(1, most + 1), len(loads))
    size = loads[expert] / copies
    order = np.argsort(size, kind="stable")
    price = np.empty(len(size))
    price[order] = np.maximum.accumulate((prices[expert] / copies)[order])
    chosen = np.flatnonzero((copies * price <= prices[expert] + slack) & (size <= ceiling))
    sizes, rank = np.unique(-size[chosen], return_inverse=True)
    if len(np.unique(expert[chosen])) < len(loads) or len(sizes) > MAX_SIZES:
        return None
    worth = np.zeros(len(sizes))
    np.maximum.at(worth, rank, price[chosen])
    contents = _contents(-sizes, worth, ceiling, 1 - slack)
    if not 0 < len(contents) <= MAX_CONTENTS:
        return None
    expert, copies = expert[chosen], copies[chosen]
    found = _solve(expert, copies, rank, contents, len(loads), num_gpus, full, seconds)
    if found is None:
        return None
    taken, used = found
    counts = np.zeros(len(loads), dtype=np.int64)
    counts[expert[taken]] = copies[taken]
    replicas = np.repeat(np.arange(len(loads)), counts)
    replicas = replicas[np.argsort(-loads[replicas] / counts[replicas], kind="stable")]
    places = np.argsort(np.repeat(contents, used, axis=0).ravel(), kind="stable")
    phy2log = np.full(3 * num_gpus, -1, dtype=np.int64)
    phy2log[places[: len(replicas)]] = replicas
    return phy2log


def _contents(sizes: Floats, worth: Floats, ceiling: float, least: float) -> Integers:
    """Contents worth ``least``, ``[contents, 3]`` ranks in falling size; the last rank is an empty slot."""
    sizes, worth = np.append(sizes, 0.0), np.append(worth, 0.0)
    first, second = np.triu_indices(len(sizes))
    room = ceiling - sizes[first] - sizes[second]
    third = np.searchsorted(-sizes, -room)
    fits = (room >= 0) & (third >= second)  # a larger third one comes with another pair
    contents: Integers = np.stack([first, second, third], axis=1)[fits].astype(np.int64)
    near: Integers = contents[worth[contents].sum(axis=1) >= least]
    return near


def _solve(
    expert: Integers, copies: Integers, rank: Integers, contents: Integers, experts: int, gpus: int, full: bool,
    seconds: float,
) -> tuple[NDArray[np.bool_], Integers] | None:  # fmt: skip
    """Counts that are taken and how often every content is used, or None."""
    highspy = load_highs()
    options, kinds, ranks = len(copies), len(contents), int(rank.max()) + 1
    place, slot = np.nonzero(contents < ranks)
    chain, surplus = experts + 2 + np.arange(ranks), options + kinds + np.arange(ranks)
    entries = [
        (expert, np.arange(options), 1),  # every expert has one count
        (np.full(kinds, experts), options + np.arange(kinds), 1),  # every GPU has a content
        (np.full(options, experts + 1), np.arange(options), copies),  # the slots suffice, or are all taken
        (chain[rank], np.arange(options), -copies),  # surplus of places, size by size
        (chain[contents[place, slot]], options + place, 1),
        (chain, surplus, -1),
        (chain[1:], surplus[:-1], 1),
    ]
    rows, columns = (np.concatenate([entry[side] for entry in entries]) for side in (0, 1))
    weights = np.concatenate([np.broadcast_to(np.asarray(w, dtype=float), len(row)) for row, _, w in entries])
    matrix = csr_matrix((weights, (rows, columns)), shape=(experts + 2 + ranks, options + kinds + ranks))
    lower = np.concatenate([np.ones(experts), [gpus, 3 * gpus if full else 0], np.zeros(ranks)]).astype(float)
    upper = np.concatenate([np.ones(experts), [gpus, 3 * gpus], np.zeros(ranks)]).astype(float)
    most = np.concatenate([np.ones(options), np.full(kinds, gpus), np.full(ranks, 3 * gpus)]).astype(float)
    model = highspy.Highs()
    # From an interior point the search dives to a solution at once; presolve costs more than it saves.
    settings = {"output_flag": False, "threads": 1, "mip_lp_solver": "ipm", "presolve": "off"}
    for name, value in (settings | {"mip_max_nodes": MAX_NODES, "mip_max_improving_sols": 1}).items():
        model.setOptionValue(name, value)
    model.addVars(len(most), np.zeros(len(most)), most)
    whole = np.arange(options + kinds, dtype=np.int32)
    model.changeColsIntegrality(len(whole), whole, np.array([highspy.HighsVarType.kInteger] * len(whole)))
    starts, indices = matrix.indptr[:-1].astype(np.int32), matrix.indices.astype(np.int32)
    model.addRows(len(lower), lower, upper, matrix.nnz, starts, indices, matrix.data)
    run(model, time.perf_counter() + seconds, long=True)
    if model.getInfo().primal_solution_status != 2:
        return None
    values = np.rint(model.getSolution().col_value).astype(np.int64)
    return values[:options] > 0, values[options : options + kinds]
