"""Re-check bounds on the sum over steps of the fullest GPU, in exact integers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

from moeopt.verify.bounds import ON_MAKESPAN
from moeopt.verify.layer import ExactLayer, Rejected, Undecided, exact, integer, integers, short
from moeopt.verify.moves import makespan_within_moves

ON_BLOCKS = {**ON_MAKESPAN, "makespan_within_moves": makespan_within_moves}
"""Checks of bounds on the makespan of a block's load, by the certificate's ``method``."""

MAX_PRODUCTS = 5_000_000
"""Experts times experts times steps; beyond nothing is decided."""


def step_blocks(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless the bounds of blocks of consecutive steps, each proven for its summed load, add up to ``value``.

    The fullest GPUs of a block's steps carry at least what the fullest GPU of its sum does.
    """
    _add_up(sum(_blocks(layer, certificate), Fraction(0)), value, layer)


def step_pairs(layer: ExactLayer, value: Fraction, certificate: dict[str, Any]) -> None:
    """Reject unless prices on experts in steps prove ``value``, whichever experts share GPUs.

    In step t the fullest GPU carries at least what the one with expert e does: w_te and the loads of its k - 1
    companions. Weigh that by the price of e in t, and what is left of ``unit`` by the step's own bound. Give every pair
    that shares a GPU a discount, the ``degrees`` of both: all pairs together have k - 1 times their sum.
    """
    if layer.num_redundant:
        raise Rejected("the problem has replicas, the bound is for partitions")
    assert layer.steps is not None
    unit, degrees = integer(certificate, "unit"), integers(certificate, "degrees")
    rows = certificate.get("prices")
    if not isinstance(rows, list) or len(rows) != len(layer.steps) or len(degrees) != layer.num_experts:
        raise Rejected("the certificate needs prices for every step and a degree for every expert")
    prices = [integers({"prices": row}, "prices") for row in rows]
    if any(len(row) != layer.num_experts or min(row) < 0 or sum(row) > unit for row in prices):
        raise Rejected("the prices of a step must be one >= 0 for every expert, and add up to 'unit' at most")
    if layer.num_experts**2 * len(rows) > MAX_PRODUCTS:
        raise Undecided(f"{len(rows)} steps of {layer.num_experts} experts take too long to check")
    own = _blocks(layer, certificate)
    if len(own) != len(rows) or unit < 1:
        raise Rejected("the certificate needs a unit and a bound for every step")
    total = (layer.slots_per_gpu - 1) * sum(degrees) + sum(
        (unit - sum(row)) * least + sum(price * load for price, load in zip(row, loads, strict=True))
        for row, loads, least in zip(prices, layer.steps, own, strict=True)
    )
    steps = list(zip(prices, layer.steps, strict=True))
    for e, f in combinations(range(layer.num_experts), 2):
        together = sum(row[e] * loads[f] + row[f] * loads[e] for row, loads in steps)
        total += min(0, together - degrees[e] - degrees[f])
    _add_up(Fraction(-(-total // unit)), value, layer)  # sums of whole loads are whole


def _blocks(layer: ExactLayer, certificate: dict[str, Any]) -> list[Fraction]:
    """Bounds of the certificate's blocks of steps, in the layer's units, each once it is proven."""
    blocks = certificate.get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise Rejected("the certificate's 'blocks' is not a list of blocks")
    assert layer.steps is not None
    begin = 0
    proven: list[Fraction] = []
    for block in blocks:
        length, proof = integer(block, "steps"), block.get("certificate")
        if not isinstance(proof, dict) or proof.get("method") not in tuple(ON_BLOCKS):
            raise Rejected("a block's certificate is not of a bound on the makespan")
        steps = layer.steps[begin : begin + length]
        if length < 1 or len(steps) < length:
            raise Rejected(f"the blocks are not those of {len(layer.steps)} steps")
        bound = exact(block.get("bound"), "a block's bound") * layer.scale
        loads = [sum(tokens) for tokens in zip(*steps, strict=True)]
        ON_BLOCKS[proof["method"]](replace(layer, loads=loads, steps=None), bound, proof)
        proven.append(bound)
        begin += length
    if begin < len(layer.steps):
        raise Rejected(f"the blocks are not those of {len(layer.steps)} steps")
    return proven


def _add_up(proven: Fraction, value: Fraction, layer: ExactLayer) -> None:
    if proven < value:
        raise Rejected(f"the steps prove {short(proven / layer.scale)} only")
