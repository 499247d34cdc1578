"""verify: read problem and solution as plain numbers, and have every claim checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.verify.check import PROVEN, REJECTED, LayerVerdict, check_layer
from moeopt.verify.layer import Claim, ExactLayer, copies_by_gpu, whole_loads

if TYPE_CHECKING:
    from moeopt.bounds import Bound


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


def verify(problem: PlacementProblem, solution: Solution, *, tolerance: float = 1e-4) -> Verification:
    """Check every claim of a solution again, in Python integers and fractions.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules.
    solution
        Of as many layers. Only its plain numbers are read.
    tolerance
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

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> print(verify(problem, solve(problem)))
    layer 0: bound proven
    """
    fields = (solution.status, solution.lower_bound, solution.makespan, solution.moves, solution.objective,
              solution.bound_source, solution.certificate)  # fmt: skip
    wrong = _wrong_shape(problem, solution, [len(field) for field in fields])
    if wrong:
        verdicts = [LayerVerdict(i, False, None, None, REJECTED, False, wrong) for i in problem.load.layer_ids]
        return Verification(tuple(verdicts))
    return Verification(
        tuple(
            check_layer(exact_layer(problem, i), claim_of(solution, i), layer, tolerance)
            for i, layer in enumerate(problem.load.layer_ids)
        )
    )


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

    Examples
    --------
    >>> from moeopt import Bound, PlacementProblem
    >>> problem = PlacementProblem([[9, 5, 4, 2]], num_gpus=2)
    >>> verify_bound(problem, Bound([10], ["mean_load"], [{"method": "mean_load"}])).proven
    True
    >>> print(verify_bound(problem, Bound([11], ["mean_load"], [{"method": "mean_load"}])))
    layer 0: bound rejected; REJECTED: bound 11: the mean load is smaller
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


def exact_layer(problem: PlacementProblem, layer: int, *, by_steps: bool = False) -> ExactLayer:
    """Read one layer of ``problem``; integers and floats are taken at their exact values.

    ``by_steps`` makes the sum over steps of the fullest GPU the objective, whatever ceiling there is.
    """
    loads, scale = whole_loads(problem.load.values[layer].tolist())
    steps = None
    if by_steps:
        assert problem.steps is not None
        together, scale = whole_loads(problem.steps[:, layer].ravel().tolist())
        steps = [together[i : i + len(loads)] for i in range(0, len(together), len(loads))]
        loads = [sum(tokens) for tokens in zip(*steps, strict=True)]
    reference = None
    if problem.reference is not None:
        reference = copies_by_gpu(problem.reference.phy2log[layer].tolist(), problem.num_gpus)
    return ExactLayer(
        loads=loads,
        scale=scale,
        num_gpus=problem.num_gpus,
        slots_per_gpu=problem.slots_per_gpu,
        num_nodes=problem.num_nodes if problem.hierarchical else 1,
        num_groups=problem.num_groups if problem.hierarchical else 1,
        allow_colocated=problem.allow_colocated,
        allow_empty_slots=problem.allow_empty_slots,
        reference=reference,
        max_moves=problem.max_moves,
        ceiling=(
            None if by_steps or problem.max_makespan is None else Fraction(problem.highest_makespan.tolist()[layer])
        ),
        splits=problem.splits,
        steps=steps,
    )


def claim_of(solution: Solution, layer: int) -> Claim:
    """Read what a solution says about one layer; a layer without a placement is all -1, an unknown bound NaN."""
    slots = None if solution.placement is None else solution.placement.phy2log[layer].tolist()
    bound = float(solution.lower_bound[layer])
    return Claim(
        slots=None if slots is None or set(slots) == {-1} else slots,
        makespan=float(solution.makespan[layer]),
        moves=float(solution.moves[layer]),
        objective=float(solution.objective[layer]),
        bound=None if math.isnan(bound) else bound,
        source=solution.bound_source[layer],
        certificate=solution.certificate[layer],
        status=str(solution.status[layer]),
    )
