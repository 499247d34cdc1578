"""Lower bounds on the sum over steps of the fullest GPU: no placement of the problem costs less.

These are about ``problem.steps``; those of ``BOUNDS`` are about the summed load, which is less: the maximum of a sum
is at most the sum of the maxima. Proofs: ``docs/bounds.md``, "Bounds on steps".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt.bounds._rounding import Floats, down, integral, nothing, quotient, total_load
from moeopt.bounds.bound import Bound
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem

MAX_PAIR_SIZE = 2**13
"""The most experts * experts * steps of a layer for which ``steps_bound`` solves the pair LP: a few seconds."""

_LP_SECONDS = 20.0
"""Seconds after which a layer's pair LP is given up."""


def steps_bound(problem: PlacementProblem) -> Bound:
    """Best known bound on the sum over steps of the fullest GPU, per layer, and where it came from.

    The mean; single steps, blocks of 2, 4, 8, ... consecutive steps and all steps together, each by the cheap
    bounds on its own load; and for small partitions the pair LP. At full size expect a few per cent between it
    and the best known placement: nothing sharper is known, see ``docs/steps.md``.

    Returns
    -------
    Bound
        ``[layers]``, in tokens; the source is ``mean_of_steps``, ``per_step``, ``blocks_of_<n>``, ``all_steps``
        or ``pair_lp``.

    Raises
    ------
    InputError
        If the problem does not know its steps.

    Notes
    -----
    Holds for every placement that keeps the problem's rules, limits of moves included; a ceiling
    ``max_makespan`` is ignored. O(log(steps)) times the cheap bounds of all layers and steps.
    """
    steps = _steps(problem)
    problem = replace(problem, max_makespan=None)
    found = Bound(mean_of_steps(problem), ["mean_of_steps"] * problem.num_layers)
    sizes = [2**i for i in range(len(steps).bit_length()) if 2**i < len(steps)]
    for size in [*sizes, len(steps)]:
        name = "per_step" if size == 1 else "all_steps" if size == len(steps) else f"blocks_of_{size}"
        found = found.join(Bound(blocks(problem, size), [name] * problem.num_layers))
    return found.join(Bound(pair_lp(problem), ["pair_lp"] * problem.num_layers))


def mean_of_steps(problem: PlacementProblem) -> Floats:
    """Sum over steps of the mean GPU load, ``[layers]``: rounded up step by step where makespans are integers."""
    steps = _steps(problem)
    if not integral(problem):
        return quotient(total_load(problem.load.values), problem.num_gpus, problem)
    return -(-steps.sum(axis=2) // problem.num_gpus).sum(axis=0).astype(float)


def blocks(problem: PlacementProblem, size: int) -> Floats:
    """Sum over blocks of ``size`` consecutive steps of the best cheap bound on the block's load, ``[layers]``."""
    steps = _steps(problem)
    sums = np.add.reduceat(steps, np.arange(0, len(steps), size), axis=0)
    return down(_cheap(problem, sums).sum(axis=0), len(sums), problem)


def pair_lp(problem: PlacementProblem, *, max_size: int = MAX_PAIR_SIZE) -> Floats:
    """Bound from which experts share a GPU, by linear programming, ``[layers]``; partitions only.

    NaN with redundant slots, with one slot per GPU, and where experts * experts * steps exceed ``max_size``. What HiGHS
    answers is not believed: its multipliers are, whatever they are, and the bound is computed from them again,
    rounded down.
    """
    steps = _steps(problem)
    if problem.num_redundant or problem.slots_per_gpu < 2 or steps[:, 0].size * problem.num_experts > max_size:
        return nothing(problem)
    least = _cheap(problem, steps)
    value = np.array(
        [
            _pair_bound(steps[:, layer].astype(float), least[:, layer], problem.slots_per_gpu)
            for layer in range(problem.num_layers)
        ]
    )
    return np.ceil(value) if integral(problem) else value


def _cheap(problem: PlacementProblem, loads: NDArray[Any]) -> Floats:
    """``[blocks, layers]`` best cheap bound on each of ``loads [blocks, layers, experts]``, as a layer of its own."""
    number, layers, experts = loads.shape
    reference = problem.reference
    if reference is not None:
        reference = reference[np.tile(np.arange(layers), number)]
    alone = replace(problem, load=LoadMatrix(loads.reshape(-1, experts)), reference=reference, max_makespan=None)
    return bounds.lower_bound(alone).value.reshape(number, layers)


def _pair_bound(load: Floats, least: Floats, per_gpu: int) -> float:
    """Bound of one layer ``load [steps, experts]`` with ``least [steps]`` proven; NaN where the LP is not solved."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix, csr_matrix

    steps, experts = load.shape
    first, second = np.triu_indices(experts, 1)
    pairs, rows = len(first), steps * experts
    pair = np.arange(pairs)
    # mu_t >= w_te + sum_f y_ef w_tf, the row of step t and expert e
    begin = np.arange(steps)[:, None] * experts
    entries = np.concatenate([load[:, second].ravel(), load[:, first].ravel(), np.full(rows, -1.0)])
    at = np.concatenate([(begin + first).ravel(), (begin + second).ravel(), np.arange(rows)])
    column = np.concatenate([np.tile(pair, 2 * steps), pairs + np.repeat(np.arange(steps), experts)])
    scale = max(load.max(), 1.0)
    entries[:-rows] /= scale
    above = coo_matrix((entries, (at, column)), shape=(rows, pairs + steps))
    ones = np.ones(2 * pairs)
    degree = csr_matrix((ones, (np.concatenate([first, second]), np.tile(pair, 2))), shape=(experts, pairs + steps))
    limits: Any = [(0, 1)] * pairs + [(value / scale, None) for value in least]
    found = linprog(
        np.concatenate([np.zeros(pairs), np.ones(steps)]),
        A_ub=above,
        b_ub=-load.ravel() / scale,
        A_eq=degree,
        b_eq=np.full(experts, per_gpu - 1.0),
        bounds=limits,
        method="highs",
        options={"time_limit": _LP_SECONDS},
    )
    if found.status != 0:
        return float("nan")
    price = np.maximum(-found.ineqlin.marginals.reshape(steps, experts), 0.0)
    return _from_multipliers(load, least, per_gpu, price, found.eqlin.marginals * scale)


def _from_multipliers(load: Floats, least: Floats, per_gpu: int, price: Floats, degree: Floats) -> float:
    """What any ``price [steps, experts] >= 0`` and ``degree [experts]`` prove, rounded down.

    Prices of a step that add up to more than 1 are scaled to 1; what is left of 1 goes to the step's own bound.
    """
    price = price / np.maximum(price.sum(axis=1, keepdims=True), 1.0) * (1 - load.shape[1] * 2.0**-51)
    rest = 1.0 - price.sum(axis=1) - load.shape[1] * 2.0**-52
    together = price.T @ load
    own, shared = np.diag(together), together + together.T
    first, second = np.triu_indices(load.shape[1], 1)
    slack = np.minimum(shared[first, second] - degree[first] - degree[second], 0.0)
    terms = np.concatenate([np.maximum(rest, 0.0) * least, own, (per_gpu - 1) * degree, slack])
    # what is added up anywhere is no more than this in all, by no more additions than there are terms and steps
    size = np.abs(terms[: -slack.size]).sum() + shared[first, second].sum() + len(own) * np.abs(degree).sum()
    return float(terms.sum() - size * (terms.size + len(load) + 8) * 2.0**-52)


def _steps(problem: PlacementProblem) -> NDArray[Any]:
    if problem.steps is None:
        raise InputError("bounds on steps need a problem that knows its steps: make it from a Trace")
    return problem.steps.astype(problem.load.values.dtype, copy=False)  # sums need the bits
