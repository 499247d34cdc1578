"""Plan: loads in, a placement that an engine can load out, and what it brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments, bounds, metrics
from moeopt.balancers import contiguous, relabel, repaired, search
from moeopt.bounds import Bound
from moeopt.errors import InputError, NoPlacementError
from moeopt.load import as_load
from moeopt.methods import refusal
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.traces.engines import engine_named

Method = Callable[[PlacementProblem], Placement | Solution]


@dataclass(frozen=True, eq=False)
class Judged:
    """A placement of a problem, held against what is proven about the makespan of every layer."""

    problem: PlacementProblem
    placement: Placement
    bound: Bound

    @property
    def imbalance(self) -> NDArray[np.float64]:
        """``[layers]`` max / mean GPU load with this placement."""
        return metrics.imbalance(metrics.gpu_load(self.problem.load, self.placement))

    @property
    def gap(self) -> NDArray[np.float64]:
        """``[layers]`` how far the placement is above the best possible, at most."""
        return metrics.gap(_makespan(self.problem, self.placement), self.bound.value)


@dataclass(frozen=True, eq=False)
class Plan(Judged):
    """A placement to load, held against what was there before and against what is possible.

    Parameters
    ----------
    problem
        Loads and rules, with the placement in force as ``reference`` where one was given, without limits.
    placement
        What to load: no slot is empty.
    bound
        What is proven about the makespan of every layer: no placement, or none within ``max_moves``, does better.
    moves_bound
        What is proven about the moves that a makespan within the wanted share of the best takes; None if nothing
        was wanted.
    notes
        What was decided on the way, a sentence each.
    """

    moves_bound: Bound | None = None
    notes: tuple[str, ...] = ()

    @property
    def before(self) -> Placement:
        """The placement in force, or the layout before any balancing."""
        return contiguous(self.problem) if self.problem.reference is None else self.problem.reference

    @property
    def imbalance_before(self) -> NDArray[np.float64]:
        """``[layers]`` max / mean GPU load that these loads have without the plan."""
        return metrics.imbalance(metrics.gpu_load(self.problem.load, self.before))

    @property
    def moves(self) -> NDArray[np.int64]:
        """``[layers]`` moves from ``before``."""
        return metrics.moves(self.before, self.placement)

    def __str__(self) -> str:
        problem = self.problem
        there = "with the reference" if problem.reference is not None else "in the contiguous layout"
        before, after = self.imbalance_before, self.imbalance
        lines = [
            shape_line(problem),
            *self.notes,
            f"imbalance {before.mean():.4f} {there}, {after.mean():.4f} with the plan; "
            f"worst layer {before.max():.4f}, then {after.max():.4f}",
            gap_line(problem, self.gap),
        ]
        if problem.reference is not None:
            copies = problem.num_layers * problem.slots
            line = f"moves {self.moves.sum()} of {copies} copies, at most {self.moves.max()} in a layer"
            if self.moves_bound is not None and np.nansum(self.moves_bound.value) > 0:
                line += f"; at least {np.nansum(self.moves_bound.value):.0f} are needed for that"
            lines.append(line)
        return "\n".join(lines)


def plan(
    load: Any,
    num_gpus: int,
    num_slots: int | None = None,
    *,
    engine: str | None = None,
    num_nodes: int = 1,
    num_groups: int = 1,
    method: Method = search,
    reference: Placement | None = None,
    within: float | None = None,
    max_moves: int | None = None,
) -> Plan:
    """Place experts for an engine to load.

    Parameters
    ----------
    load
        ``[layers, experts]`` loads, or a Trace, whose windows are summed.
    num_gpus
        GPUs (expert-parallel ranks).
    num_slots
        Slots on all GPUs together; the fewest that hold all experts by default. A number that does not divide by
        the GPUs, or is too small, is raised to the next that does, and a note says so.
    engine
        A name of ``moeopt.traces.ENGINES`` whose rules the placement must keep.
    num_nodes, num_groups
        Expert groups that live wholly on one node.
    method
        Any method; what it leaves empty is filled.
    reference
        The placement in force. GPUs are renamed so that most copies stay where they are.
    within
        Take the fewest moves from ``reference`` that come within this share (0.01 is 1 %) of what ``method`` reaches,
        in every layer.
    max_moves
        Take the best placement with at most this many moves per layer; asked of ``method``, of which ``search``
        and the exact methods know how.

    Returns
    -------
    Plan
        ``print`` shows it in a few lines.

    Raises
    ------
    InputError
        If an argument breaks its rule, or no placement keeps the limits; UnsupportedError if the method does not
        take the problem.

    Examples
    --------
    >>> print(plan([[9, 5, 4, 2, 1]], num_gpus=2))
    1 layers of 5 experts on 2 GPUs: 6 slots, 3 per GPU, 1 redundant
    5 experts do not divide by 2 GPUs: 6 is the least number of slots that holds them
    imbalance 1.2857 in the contiguous layout, 1.0000 with the plan; worst layer 1.2857, then 1.0000
    at most 0.000 % above the best possible, 0.000 % in the worst layer (layer 0)
    """
    if within is not None and max_moves is not None:
        raise InputError("within and max_moves exclude each other: one asks for few moves, one limits them")
    if within is not None and reference is None:
        raise InputError("within needs a reference placement to count moves from")
    share = None if within is None else _arguments.fraction("within", within)
    rules = None if engine is None else engine_named(engine)
    load = as_load(load)
    slots, notes = fitting_slots(load.num_experts, _arguments.integer("num_gpus", num_gpus, 1), num_slots)
    problem = PlacementProblem(
        load,
        num_gpus,
        slots,
        num_nodes=num_nodes,
        num_groups=num_groups,
        allow_colocated=rules is None or rules.colocated,
        reference=reference,
    )
    limited = problem if max_moves is None else replace(problem, max_moves=max_moves)
    placement, bound, filled = _answer(limited, method)
    notes += filled
    moves_bound = None
    if share is not None:
        placement, moves_bound = _with_fewest_moves(problem, placement, share)
    elif reference is not None and max_moves is None:
        placement = relabel(problem, start=placement)
    limited.check(placement)
    return Plan(problem, placement, bound, moves_bound, notes)


def fitting_slots(num_experts: int, num_gpus: int, num_slots: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the least number of slots, ``num_slots`` or more, that divides by the GPUs and holds all experts.

    And what to tell about it, where it is not what was asked for.
    """
    wanted = num_experts if num_slots is None else _arguments.integer("num_slots", num_slots, 1)
    slots = -(-max(wanted, num_experts) // num_gpus) * num_gpus
    if slots == wanted:
        return slots, ()
    if num_slots is None:
        reason = f"{num_experts} experts do not divide by {num_gpus} GPUs: {slots} is the least number of slots that "
        return slots, (reason + "holds them",)
    why = f"hold {num_experts} experts" if wanted < num_experts else f"divide by {num_gpus} GPUs"
    return slots, (f"{wanted} slots do not {why}: {slots} do",)


def shape_line(problem: PlacementProblem) -> str:
    """Say what is placed where."""
    groups = f", {problem.num_groups} groups on {problem.num_nodes} nodes" if problem.hierarchical else ""
    return (
        f"{problem.num_layers} layers of {problem.num_experts} experts on {problem.num_gpus} GPUs: {problem.slots} "
        f"slots, {problem.slots_per_gpu} per GPU, {problem.num_redundant} redundant{groups}"
    )


def gap_line(problem: PlacementProblem, gap: NDArray[np.float64]) -> str:
    """Say how far placements are above what is proven."""
    if np.isnan(gap).all():
        return "nothing is proven about the best possible"
    worst = int(np.nanargmax(gap))
    return (
        f"at most {100 * np.nanmean(gap):.3f} % above the best possible, {100 * gap[worst]:.3f} % in the worst layer "
        f"(layer {problem.load.layer_ids[worst]})"
    )


def _answer(problem: PlacementProblem, method: Method) -> tuple[Placement, Bound, tuple[str, ...]]:
    """Ask a method; return its placement without empty slots, the best bound known, and what was filled."""
    asked = problem
    if refusal(method, problem) and not refusal(method, replace(problem, allow_empty_slots=True)):
        asked = replace(problem, allow_empty_slots=True)
    try:
        answer = method(asked)
    except NoPlacementError as error:
        raise InputError(str(error)) from None
    bound = bounds.lower_bound(problem)
    if isinstance(answer, Solution):
        found = Solution(problem, bound=bound).join(replace(answer, problem=problem))
        answer, bound = _whole(found), found.bound
    asked.check(answer)
    empty = int((answer.phy2log < 0).sum())
    if not empty:
        return answer, bound, ()
    full = answer.fill(asked)
    rise = (_makespan(problem, full) / _makespan(problem, answer) - 1).max()
    told = f"{empty} empty slots were filled with copies"
    return full, bound, (f"{told}; the fullest GPU of a layer rose by up to {max(rise, 0):.3%}",)


def _whole(found: Solution) -> Placement:
    """Return the placement of a solution that has one for every layer."""
    unsolved = np.setdiff1d(np.arange(found.num_layers), found.solved)
    if found.placement is None or unsolved.size:
        layer = int(unsolved[0])
        reason = found.note[layer] or found.stop[layer]
        raise InputError(f"layer {found.problem.load.layer_ids[layer]}: no placement was found ({reason})")
    return found.placement


def _with_fewest_moves(problem: PlacementProblem, near: Placement, share: float) -> tuple[Placement, Bound]:
    """Return the fewest moves found that keep within ``share`` of ``near``'s makespans, and a bound on them."""
    posed = replace(problem, max_makespan=_makespan(problem, near) * (1 + share))
    found, reached = repaired(posed, start=near)
    fallback = relabel(problem, start=near)
    slots = np.where(reached[:, None], found.phy2log, fallback.phy2log)
    return Placement(slots, problem.num_experts, problem.num_gpus), bounds.lower_bound(posed)


def _makespan(problem: PlacementProblem, placement: Placement) -> NDArray[np.float64]:
    return metrics.makespan(metrics.gpu_load(problem.load, placement))
