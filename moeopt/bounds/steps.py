"""Lower bounds on the sum over steps of the fullest GPU: no placement of the problem costs less.

These are about ``problem.steps``; those of ``BOUNDS`` are about the summed load, which is less: the maximum of a sum
is at most the sum of the maxima. Proofs: ``docs/bounds.md``, "Bounds on steps".
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import bounds
from moeopt.bounds._rounding import Floats, down, integral, quotient, total_load
from moeopt.bounds.bound import Bound, Certificate
from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem

MAX_PAIR_SIZE = 2**13
"""The most experts * experts * steps of a layer for which ``steps_bound`` solves the pair LP: a few seconds."""

UNIT = 2**20
"""Whole price of a token in the certificate of the pair LP."""

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
        or ``pair_lp``, each with a certificate.

    Raises
    ------
    InputError
        If the problem does not know its steps.

    Notes
    -----
    Holds for every placement that keeps the problem's rules, limits of moves included; a ceiling
    ``max_makespan`` is ignored. O(log(steps)) times the cheap bounds of all layers and steps.

    Examples
    --------
    >>> from moeopt import PlacementProblem, bounds
    >>> from moeopt.traces import Trace
    >>> problem = PlacementProblem(Trace([[[8, 0, 1, 1]], [[0, 8, 1, 1]]]), num_gpus=2)
    >>> bounds.steps_bound(problem).value.tolist()
    [16.0]
    """
    steps = _steps(problem)
    problem = replace(problem, max_makespan=None)
    found = _certified_mean(problem)
    sizes = [2**i for i in range(len(steps).bit_length()) if 2**i < len(steps)]
    for size in [*sizes, len(steps)]:
        name = "per_step" if size == 1 else "all_steps" if size == len(steps) else f"blocks_of_{size}"
        found = found.join(_certified_blocks(problem, size, name))
    return found.join(pair_lp(problem))


def mean_of_steps(problem: PlacementProblem) -> Floats:
    """Sum over steps of the mean GPU load, ``[layers]``: rounded up step by step where makespans are integers."""
    steps = _steps(problem)
    if not integral(problem):
        return quotient(total_load(problem.load.values), problem.num_gpus, problem)
    return -(-steps.sum(axis=2) // problem.num_gpus).sum(axis=0).astype(float)


def blocks(problem: PlacementProblem, size: int) -> Floats:
    """Sum over blocks of ``size`` consecutive steps of the best cheap bound on the block's load, ``[layers]``."""
    return _certified_blocks(problem, size, "").value


def _certified_blocks(problem: PlacementProblem, size: int, name: str) -> Bound:
    """The same with its certificate, by ``name``."""
    steps = _steps(problem)
    begins = np.arange(0, len(steps), size)
    sums = np.add.reduceat(steps, begins, axis=0)
    lengths = np.diff(begins, append=len(steps)).tolist()
    cheap, layers = _cheap(problem, sums), problem.num_layers
    value = down(cheap.value.reshape(len(sums), layers).sum(axis=0), len(sums), problem)
    proofs = [_proof(lengths, cheap[slice(layer, None, layers)]) for layer in range(layers)]
    return Bound(value, [name] * layers, proofs)


def _certified_mean(problem: PlacementProblem) -> Bound:
    """The mean of steps with its certificate: of each step, or of all together where nothing is rounded up."""
    value, number = mean_of_steps(problem), len(_steps(problem))
    parts = -(-_steps(problem).sum(axis=2) // problem.num_gpus) if integral(problem) else value[None]
    lengths = [1] * number if integral(problem) else [number]
    mean: Certificate = {"method": "mean_load"}
    proofs = [
        _proof(lengths, Bound(parts[:, layer], ["mean_load"] * len(parts), [mean] * len(parts)))
        for layer in range(problem.num_layers)
    ]
    return Bound(value, ["mean_of_steps"] * problem.num_layers, proofs)


def _proof(lengths: list[int], bound: Bound) -> Certificate:
    """The certificate of blocks of so many steps, each with a bound of its own."""
    parts = zip(lengths, bound.value.tolist(), bound.certificate, strict=True)
    return {"method": "step_blocks", "blocks": [{"steps": n, "bound": v, "certificate": c} for n, v, c in parts]}


def pair_lp(problem: PlacementProblem, *, max_size: int = MAX_PAIR_SIZE) -> Bound:
    """Bound from which experts share a GPU, by linear programming; partitions only.

    Nothing is known with redundant slots, with one slot per GPU, and where experts * experts * steps exceed
    ``max_size``. What HiGHS answers is not believed: its multipliers are, whatever they are, and the bound is computed
    from them again, in whole numbers.
    """
    steps = _steps(problem)
    if problem.num_redundant or problem.slots_per_gpu < 2 or steps[:, 0].size * problem.num_experts > max_size:
        return Bound.unknown(problem.num_layers)
    least = _cheap(problem, steps)
    layers = range(problem.num_layers)
    return Bound.stack([_pair_bound(steps[:, i], least[slice(i, None, len(layers))], problem) for i in layers])


def _cheap(problem: PlacementProblem, loads: NDArray[Any]) -> Bound:
    """``[blocks * layers]`` best cheap bound on each of ``loads [blocks, layers, experts]``, as a layer of its own."""
    number, layers, experts = loads.shape
    reference = problem.reference
    if reference is not None:
        reference = reference[np.tile(np.arange(layers), number)]
    alone = replace(problem, load=LoadMatrix(loads.reshape(-1, experts)), reference=reference, max_makespan=None)
    return bounds.lower_bound(alone)


def _pair_bound(tokens: NDArray[Any], least: Bound, problem: PlacementProblem) -> Bound:
    """Bound of one layer ``tokens [steps, experts]`` with ``least [steps]`` proven; unknown if the LP is not solved."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix, csr_matrix

    load, per_gpu = tokens.astype(float), problem.slots_per_gpu
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
    limits: Any = [(0, 1)] * pairs + [(value / scale, None) for value in least.value]
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
        return Bound.unknown(1)
    price = np.maximum(-found.ineqlin.marginals.reshape(steps, experts), 0.0)
    return _from_multipliers(tokens, least, problem, price, found.eqlin.marginals * scale)


def _from_multipliers(
    tokens: NDArray[Any], least: Bound, problem: PlacementProblem, price: Floats, degree: Floats
) -> Bound:
    """What any ``price [steps, experts] >= 0`` and ``degree [experts]`` prove, with its certificate.

    Prices of a step that add up to more than 1 are scaled to 1; what is left of 1 goes to the step's own bound.
    """
    share = price / np.maximum(price.sum(axis=1, keepdims=True), 1.0) * (1 - 1e-9)
    prices = [[int(part) for part in row] for row in np.floor(share * UNIT).tolist()]
    degrees = [int(part) for part in np.rint(degree * UNIT).tolist()]
    rows = [[load if isinstance(load, int) else Fraction(load) for load in step] for step in tokens.tolist()]
    total = Fraction((problem.slots_per_gpu - 1) * sum(degrees))
    for row, step, own in zip(prices, rows, least.value.tolist(), strict=True):
        total += (UNIT - sum(row)) * Fraction(own) + sum(p * load for p, load in zip(row, step, strict=True))
    for e, f in combinations(range(len(degrees)), 2):
        together = sum(row[e] * step[f] + row[f] * step[e] for row, step in zip(prices, rows, strict=True))
        total += min(Fraction(0), together - degrees[e] - degrees[f])
    value = total / UNIT
    proof = _proof([1] * len(rows), least) | {
        "method": "step_pairs", "unit": UNIT, "prices": prices, "degrees": degrees,
    }  # fmt: skip
    return Bound.of_layer(float(math.ceil(value)) if integral(problem) else _float_below(value), "pair_lp", proof)


def _float_below(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _steps(problem: PlacementProblem) -> NDArray[Any]:
    if problem.steps is None:
        raise InputError("bounds on steps need a problem that knows its steps: make it from a Trace")
    return problem.steps.astype(problem.load.values.dtype, copy=False)  # sums need the bits
