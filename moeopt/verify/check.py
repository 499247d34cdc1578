"""check: hold every claim about one layer against exact arithmetic, sharing no code with the methods."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from moeopt.verify.bounds import ON_MAKESPAN, Check
from moeopt.verify.configuration import configuration_lp, configuration_tree
from moeopt.verify.copy_prices import copy_prices
from moeopt.verify.layer import Claim, ExactLayer, Rejected, Undecided, copies_by_gpu, exact, short
from moeopt.verify.moves import ON_MOVES, makespan_within_moves
from moeopt.verify.moves_cover import moves_cover
from moeopt.verify.pairing import pairing_lp
from moeopt.verify.split import split_makespan
from moeopt.verify.steps import step_blocks, step_pairs
from moeopt.verify.walks import pairing_walks
from moeopt.verify.window_cover import window_cover

CHECKS: dict[str, dict[str, Check]] = {
    "makespan": {
        **ON_MAKESPAN,
        "makespan_within_moves": makespan_within_moves,
        "pairing_lp": pairing_lp,
        "pairing_walks": pairing_walks,
        "pairing_tree": pairing_walks,
        "configuration_lp": configuration_lp,
        "configuration_tree": configuration_tree,
        "window_cover": window_cover,
    },
    "moves": {**ON_MOVES, "copy_prices": copy_prices, "moves_cover": moves_cover},
    "steps": {"step_blocks": step_blocks, "step_pairs": step_pairs},
}
"""Checks of bounds by the problem's objective and the certificate's ``method``."""

EVEN_SPLIT = ("pairing_lp", "pairing_walks", "pairing_tree", "configuration_lp", "configuration_tree", "pairing_cpsat")
"""Methods whose proofs have every copy carry an equal share."""

FLOAT_FIELDS = Fraction(1, 10**9)
"""Relative distance that a rounded number (makespan, ceiling, gap) may have from the exact one."""

ROUNDED_SUMS = Fraction(1, 2**40)
"""What a float sum that keeps the ceiling may hide at most, relative."""

FINEST_GAP = Fraction(1, 10**6)
"""The finest tolerance that the status OPTIMAL honours."""

PROVEN, CLAIMED, UNKNOWN, REJECTED = "proven", "solver's claim", "unknown", "rejected"
"""What is known of a bound: re-proven exactly; rests on a solver's search; nothing; proven wrong or unproven."""


@dataclass(frozen=True)
class LayerVerdict:
    """What the check of one layer found.

    ``layer`` is the trace's own id. ``placement_ok`` says whether the placement keeps every rule and
    its numbers are right, None where there is no placement; ``makespan`` is its exact value in tokens, and
    ``objective`` that of what the problem minimises, tokens or moves.
    ``bound`` is one of ``"proven"``, ``"solver's claim"``, ``"unknown"`` and ``"rejected"``.
    ``reason`` explains whatever is not proven and begins with ``REJECTED`` where a claim is false.
    """

    layer: int
    placement_ok: bool | None
    makespan: Fraction | None
    objective: Fraction | None
    bound: str
    status_ok: bool
    reason: str

    @property
    def ok(self) -> bool:
        """Whether nothing about this layer is rejected."""
        return self.placement_ok is not False and self.bound != REJECTED and self.status_ok


def check_layer(layer: ExactLayer, claim: Claim, number: int, tolerance: float) -> LayerVerdict:
    """Check all that is claimed about a layer; ``number`` is its id, ``tolerance`` what the status OPTIMAL means."""
    reasons: list[str] = []
    makespan: Fraction | None = None
    objective: Fraction | None = None
    placement_ok: bool | None = None
    status_ok, bound = True, UNKNOWN
    try:
        if claim.slots is not None:
            placement_ok = False
            gpus, makespan = _placed(layer, claim.slots)
            objective = _numbers(layer, gpus, makespan, claim)
            placement_ok = True
    except Rejected as reason:
        reasons.append(f"REJECTED: {reason}")
    try:
        bound, reason_for_bound = _bound(layer, claim, objective)
        reasons.append(reason_for_bound)
    except Undecided as reason:
        reasons.append(f"bound not checked: {reason}")
    except Rejected as reason:
        bound = REJECTED
        reasons.append(f"REJECTED: bound {short(claim.bound or 0)}: {reason}")
    try:
        _status(claim, objective, tolerance)
    except Rejected as reason:
        status_ok = False
        reasons.append(f"REJECTED: {reason}")
    reasons.sort(key=lambda text: not text.startswith("REJECTED"))
    tokens = None if makespan is None else makespan / layer.scale
    text = "; ".join(reason for reason in reasons if reason)
    return LayerVerdict(number, placement_ok, tokens, objective, bound, status_ok, text)


def _placed(layer: ExactLayer, slots: list[int]) -> tuple[list[dict[int, int]], Fraction]:
    """Copies by GPU and the exact makespan in the layer's units; every rule about places is checked."""
    if any(not -1 <= expert < layer.num_experts for expert in slots):
        raise Rejected("a slot names no expert of the problem")
    if -1 in slots and not layer.allow_empty_slots:
        raise Rejected(f"slot {slots.index(-1)} is empty")
    gpus = copies_by_gpu(slots, layer.num_gpus)
    copies = [0] * layer.num_experts
    for gpu, held in enumerate(gpus):
        for expert, count in held.items():
            copies[expert] += count
            if count > 1 and not layer.allow_colocated:
                raise Rejected(f"GPU {gpu} holds expert {expert} twice")
    if 0 in copies:
        raise Rejected(f"expert {copies.index(0)} has no slot")
    if layer.num_nodes > 1:
        _groups(layer, gpus)
    if layer.splits:
        return gpus, split_makespan(layer.loads, gpus)
    return gpus, _fullest(layer.loads, gpus)


def _fullest(loads: list[int], gpus: list[dict[int, int]]) -> Fraction:
    """Load of the fullest GPU, with equal shares for all copies of an expert."""
    copies = Counter(expert for held in gpus for expert in held for _ in range(held[expert]))
    unit = math.lcm(*copies.values())
    fullest = max(sum(count * loads[e] * (unit // copies[e]) for e, count in held.items()) for held in gpus)
    return Fraction(fullest, unit)


def _groups(layer: ExactLayer, gpus: list[dict[int, int]]) -> None:
    """Every group on one node, as many groups on every node."""
    size, per_node = layer.num_experts // layer.num_groups, layer.num_gpus // layer.num_nodes
    nodes: list[set[int]] = [set() for _ in range(layer.num_nodes)]
    for gpu, held in enumerate(gpus):
        nodes[gpu // per_node].update(expert // size for expert in held)
    for node, groups in enumerate(nodes):
        if len(groups) != layer.num_groups // layer.num_nodes:
            raise Rejected(f"node {node} hosts {len(groups)} groups, not {layer.num_groups // layer.num_nodes}")
    if len(set().union(*nodes)) != layer.num_groups:
        raise Rejected("a group is spread over several nodes")


def _numbers(layer: ExactLayer, gpus: list[dict[int, int]], makespan: Fraction, claim: Claim) -> Fraction:
    """Return the exact objective in tokens or moves, after checking it, its parts and their limits."""
    tokens = makespan / layer.scale
    _rounded("makespan", claim.makespan, tokens)
    objective = tokens
    if layer.steps is not None:
        objective = sum((_fullest(step, gpus) for step in layer.steps), Fraction(0)) / layer.scale
    if layer.reference is not None:
        moved = sum(
            max(count - old.get(expert, 0), 0)
            for held, old in zip(gpus, layer.reference, strict=True)
            for expert, count in held.items()
        )
        _rounded("moves", claim.moves, Fraction(moved))
        if layer.max_moves is not None and moved > layer.max_moves:
            raise Rejected(f"{moved} moves exceed max_moves={layer.max_moves}")
        if layer.ceiling is not None:
            objective = Fraction(moved)
    if layer.ceiling is not None and tokens > layer.ceiling * (1 + ROUNDED_SUMS):
        raise Rejected(f"makespan {short(tokens)} exceeds max_makespan={short(layer.ceiling)}")
    _rounded("objective", claim.objective, objective)
    return objective


def _rounded(name: str, stated: float | Fraction | None, true: Fraction) -> None:
    if stated is None:
        return
    value = exact(stated, f"the {name}")
    if abs(value - true) > FLOAT_FIELDS * true:
        raise Rejected(f"the {name} is {short(true)}, not {short(value)}")


def _bound(layer: ExactLayer, claim: Claim, objective: Fraction | None) -> tuple[str, str]:
    """What is known of the layer's bound, and why it is not more."""
    if claim.bound is None:
        return UNKNOWN, "no bound"
    value, certificate = exact(claim.bound, "it"), claim.certificate
    if objective is not None and value > objective * (1 + FLOAT_FIELDS):
        raise Rejected(f"the placement reaches {short(objective)}")
    if certificate is None:
        return CLAIMED, f"rests on the search of {claim.source or 'an unnamed method'}"
    if not isinstance(certificate, dict) or not isinstance(certificate.get("method"), str):
        raise Rejected("the certificate is not a dict that names its method")
    method = certificate["method"]
    if layer.splits and method in EVEN_SPLIT:
        raise Rejected(f"{method!r} proves nothing where tokens may go to any copy")
    if method in CHECKS[layer.objective]:
        units = 1 if layer.objective == "moves" else layer.scale
        CHECKS[layer.objective][method](layer, value * units, certificate)
    elif any(method in checks for checks in CHECKS.values()):
        raise Rejected(f"{method!r} proves nothing about {'the ' * (layer.objective == 'makespan')}{layer.objective}")
    elif method == claim.source and method in SEARCHES:
        return CLAIMED, f"rests on the search of {method}"
    else:
        raise Rejected(f"there is no check for certificates of {method!r}")
    return PROVEN, ""


SEARCHES = ("pairing_cpsat",)
"""Methods whose certificates say what was searched, but cannot prove that the search found nothing."""


def _status(claim: Claim, objective: Fraction | None, tolerance: float) -> None:
    """OPTIMAL and FEASIBLE need a placement, OPTIMAL one within the tolerance; INFEASIBLE must have none."""
    status, empty = claim.status, claim.slots is None
    if status in ("OPTIMAL", "FEASIBLE") and empty:
        raise Rejected(f"status {status} without a placement")
    if status == "INFEASIBLE" and not empty:
        raise Rejected("status INFEASIBLE with a placement")
    if status == "OPTIMAL" and objective is not None:
        margin = max(Fraction(tolerance), FINEST_GAP) + FLOAT_FIELDS
        if claim.bound is None:
            raise Rejected("status OPTIMAL without a bound")
        if objective > exact(claim.bound, "the bound") * (1 + margin):
            bound = short(claim.bound)
            raise Rejected(f"status OPTIMAL, but {short(objective)} is not within {tolerance:g} of the bound {bound}")
