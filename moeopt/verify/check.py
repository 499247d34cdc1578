"""verify: check every claim of a Solution again, in exact arithmetic, sharing no code with the methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.verify import bounds, moves
from moeopt.verify.configuration import configuration_lp
from moeopt.verify.copy_prices import copy_prices
from moeopt.verify.layer import ExactLayer, Rejected, Undecided, copies_by_gpu, exact, exact_layer, short
from moeopt.verify.moves_cover import moves_cover
from moeopt.verify.pairing import pairing_lp
from moeopt.verify.split import split_makespan
from moeopt.verify.window_cover import window_cover

if TYPE_CHECKING:
    from moeopt.bounds import Bound

CHECKS = {
    "makespan": {
        **bounds.ON_MAKESPAN,
        "makespan_within_moves": moves.makespan_within_moves,
        "pairing_lp": pairing_lp,
        "configuration_lp": configuration_lp,
        "window_cover": window_cover,
    },
    "moves": {**moves.ON_MOVES, "copy_prices": copy_prices, "moves_cover": moves_cover},
}
"""Checks of bounds by the problem's objective and the certificate's ``method``."""

EVEN_SPLIT = ("pairing_lp", "configuration_lp", "pairing_cpsat")
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
    its numbers are right, None where there is no placement; ``makespan`` is its exact value.
    ``bound`` is one of ``"proven"``, ``"solver's claim"``, ``"unknown"`` and ``"rejected"``.
    ``reason`` explains whatever is not proven and begins with ``REJECTED`` where a claim is false.
    """

    layer: int
    placement_ok: bool | None
    makespan: Fraction | None
    bound: str
    status_ok: bool
    reason: str

    @property
    def ok(self) -> bool:
        """Whether nothing about this layer is rejected."""
        return self.placement_ok is not False and self.bound != REJECTED and self.status_ok


@dataclass(frozen=True)
class Verification:
    """The verdicts on all layers, in the problem's order."""

    layers: tuple[LayerVerdict, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is rejected. Bounds that rest on a solver's search are not proven, but not rejected."""
        return all(layer.ok for layer in self.layers)

    @property
    def proven(self) -> bool:
        """Whether every layer's bound is proven exactly and nothing is rejected."""
        return self.ok and all(layer.bound == PROVEN for layer in self.layers)

    def __str__(self) -> str:
        return "\n".join(f"layer {v.layer}: bound {v.bound}{v.reason and '; ' + v.reason}" for v in self.layers)


def verify(problem: PlacementProblem, solution: Solution, *, gap: float = 1e-4) -> Verification:
    """Check every claim of a solution again, in Python integers and fractions.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules.
    solution
        Of as many layers. Only its plain numbers are read.
    gap
        Relative distance to the bound that the status OPTIMAL claims.

    Returns
    -------
    Verification
        A verdict per layer. A false claim, a false or malformed certificate included, is a
        verdict with the reason, never an exception.

    Notes
    -----
    Checked are the placement against every rule, makespan, moves and objective against their exact
    values (to 1e-9 relative, as they are rounded), the status, and the bound against its certificate:
    exactly, without any tolerance. See ``docs/certificates.md`` for the mathematics. A bound without
    certificate, from a solver's search, is only held against the placement. O(layers * slots * log
    slots) for most bounds; a hottest-GPUs or configuration LP certificate takes up to a second or so per layer, a
    window cover mostly less, and ten seconds at most.
    """
    fields = (solution.status, solution.lower_bound, solution.makespan, solution.moves, solution.objective,
              solution.bound_source, solution.certificate)  # fmt: skip
    wrong = _wrong_shape(problem, solution, [len(field) for field in fields])
    if wrong:
        verdicts = [LayerVerdict(i, False, None, REJECTED, False, wrong) for i in problem.load.layer_ids]
        return Verification(tuple(verdicts))
    return Verification(tuple(_verify_layer(problem, solution, i, gap) for i in range(problem.num_layers)))


def verify_bound(problem: PlacementProblem, bound: Bound) -> Verification:
    """Check a bound alone, from its certificates, as :func:`verify` does.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules.
    bound
        Of as many layers.

    Returns
    -------
    Verification
        A verdict per layer, none of which speaks of a placement.
    """
    return verify(problem, Solution(problem, bound=bound))


def _wrong_shape(problem: PlacementProblem, solution: Solution, lengths: Sequence[int]) -> str:
    if any(length != problem.num_layers for length in lengths):
        return f"REJECTED: the solution does not have {problem.num_layers} layers"
    if solution.placement is not None:
        found, wanted = solution.placement.phy2log.shape, (problem.num_layers, problem.num_slots)
        if found != wanted or solution.placement.num_gpus != problem.num_gpus:
            return f"REJECTED: the placement is {found} on {solution.placement.num_gpus} GPUs, the problem {wanted}"
    return ""


def _verify_layer(problem: PlacementProblem, solution: Solution, i: int, gap: float) -> LayerVerdict:
    layer = exact_layer(problem, i)
    slots = None if solution.placement is None else solution.placement.phy2log[i].tolist()
    if slots is not None and all(expert == -1 for expert in slots):
        slots = None
    reasons: list[str] = []
    makespan: Fraction | None = None
    objective: Fraction | None = None
    placement_ok: bool | None = None
    status_ok, bound = True, UNKNOWN
    try:
        if slots is not None:
            placement_ok = False
            gpus, makespan = _placed(layer, slots)
            objective = _numbers(layer, gpus, makespan, solution, i)
            placement_ok = True
    except Rejected as reason:
        reasons.append(f"REJECTED: {reason}")
    try:
        bound, reason_for_bound = _bound(layer, solution, i, objective)
        reasons.append(reason_for_bound)
    except Undecided as reason:
        reasons.append(f"bound not checked: {reason}")
    except Rejected as reason:
        bound = REJECTED
        reasons.append(f"REJECTED: bound {solution.lower_bound[i]!s}: {reason}")
    try:
        _status(layer, solution, i, objective, slots is None, gap)
    except Rejected as reason:
        status_ok = False
        reasons.append(f"REJECTED: {reason}")
    reasons.sort(key=lambda text: not text.startswith("REJECTED"))
    tokens = None if makespan is None else makespan / layer.scale
    text = "; ".join(reason for reason in reasons if reason)
    return LayerVerdict(problem.load.layer_ids[i], placement_ok, tokens, bound, status_ok, text)


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
    unit = math.lcm(*set(copies))
    fullest = max(sum(count * layer.loads[e] * (unit // copies[e]) for e, count in held.items()) for held in gpus)
    return gpus, Fraction(fullest, unit)


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


def _numbers(layer: ExactLayer, gpus: list[dict[int, int]], makespan: Fraction, solution: Solution, i: int) -> Fraction:
    """Return the exact objective in tokens or moves, after checking it, its parts and their limits."""
    tokens = makespan / layer.scale
    _rounded("makespan", solution.makespan[i], tokens)
    objective = tokens
    if layer.reference is not None:
        moved = sum(
            max(count - old.get(expert, 0), 0)
            for held, old in zip(gpus, layer.reference, strict=True)
            for expert, count in held.items()
        )
        _rounded("moves", solution.moves[i], Fraction(moved))
        if layer.max_moves is not None and moved > layer.max_moves:
            raise Rejected(f"{moved} moves exceed max_moves={layer.max_moves}")
        if layer.ceiling is not None:
            objective = Fraction(moved)
    if layer.ceiling is not None and tokens > layer.ceiling * (1 + ROUNDED_SUMS):
        raise Rejected(f"makespan {short(tokens)} exceeds max_makespan={short(layer.ceiling)}")
    _rounded("objective", solution.objective[i], objective)
    return objective


def _rounded(name: str, stated: Any, true: Fraction) -> None:
    value = exact(float(stated), f"the {name}")
    if abs(value - true) > FLOAT_FIELDS * true:
        raise Rejected(f"the {name} is {short(true)}, not {short(value)}")


def _bound(layer: ExactLayer, solution: Solution, i: int, objective: Fraction | None) -> tuple[str, str]:
    """What is known of the layer's bound, and why it is not more."""
    stated, certificate = float(solution.lower_bound[i]), solution.certificate[i]
    if math.isnan(stated):
        return UNKNOWN, "no bound"
    value = exact(stated, "it")
    if objective is not None and value > objective * (1 + FLOAT_FIELDS):
        raise Rejected(f"the placement reaches {short(objective)}")
    if certificate is None:
        return CLAIMED, f"rests on the search of {solution.bound_source[i] or 'an unnamed method'}"
    if not isinstance(certificate, dict) or not isinstance(certificate.get("method"), str):
        raise Rejected("the certificate is not a dict that names its method")
    method = certificate["method"]
    if layer.splits and method in EVEN_SPLIT:
        raise Rejected(f"{method!r} proves nothing where tokens may go to any copy")
    if method in CHECKS[layer.objective]:
        units = layer.scale if layer.objective == "makespan" else 1
        CHECKS[layer.objective][method](layer, value * units, certificate)
    elif any(method in checks for checks in CHECKS.values()):
        raise Rejected(f"{method!r} proves nothing about {'the ' * (layer.objective == 'makespan')}{layer.objective}")
    elif method == solution.bound_source[i] and method in SEARCHES:
        return CLAIMED, f"rests on the search of {method}"
    else:
        raise Rejected(f"there is no check for certificates of {method!r}")
    return PROVEN, ""


SEARCHES = ("pairing_cpsat",)
"""Methods whose certificates say what was searched, but cannot prove that the search found nothing."""


def _status(layer: ExactLayer, solution: Solution, i: int, objective: Fraction | None, empty: bool, gap: float) -> None:
    """OPTIMAL and FEASIBLE need a placement, OPTIMAL one within the gap; INFEASIBLE must have none."""
    status = str(solution.status[i])
    if status in ("OPTIMAL", "FEASIBLE") and empty:
        raise Rejected(f"status {status} without a placement")
    if status == "INFEASIBLE" and not empty:
        raise Rejected("status INFEASIBLE with a placement")
    if status == "OPTIMAL" and objective is not None:
        bound, tolerance = float(solution.lower_bound[i]), max(Fraction(gap), FINEST_GAP) + FLOAT_FIELDS
        if not math.isfinite(bound) or objective > Fraction(bound) * (1 + tolerance):
            raise Rejected(f"status OPTIMAL, but {short(objective)} is not within {gap:g} of the bound {bound:.12g}")
