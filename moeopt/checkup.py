"""Checkup: is a placement from elsewhere valid, how balanced is it, and how far from the best possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeopt import bounds
from moeopt.placement import Placement
from moeopt.planning import Judged, gap_line, shape_line
from moeopt.problem import PlacementProblem
from moeopt.solution import Solution
from moeopt.traces.engines import refuse_unloadable


@dataclass(frozen=True, eq=False)
class Checkup(Judged):
    """A valid placement, held against what is possible.

    Parameters
    ----------
    problem
        Loads and rules, in the widest reading: GPUs may hold an expert twice, slots may stay empty.
    placement
        What was checked.
    bound
        What is proven about the makespan of every layer.
    """

    @property
    def empty_slots(self) -> int:
        """Slots without an expert, in all layers."""
        return int((self.placement.phy2log < 0).sum())

    @property
    def copies_beside_another(self) -> int:
        """Copies on a GPU that holds the same expert already, in all layers."""
        return int(np.maximum(self.placement.copies - 1, 0).sum())

    def __str__(self) -> str:
        imbalance, ids = self.imbalance, self.problem.load.layer_ids
        worst = int(np.argmax(imbalance))
        lines = [
            f"valid: {shape_line(self.problem)}",
            f"imbalance {imbalance.mean():.4f}; worst layer {imbalance[worst]:.4f} (layer {ids[worst]})",
            gap_line(self.problem, self.gap),
        ]
        if self.empty_slots:
            lines.append(f"{self.empty_slots} slots are empty, which no engine knows")
        if self.copies_beside_another:
            lines.append(f"{self.copies_beside_another} copies share a GPU with another copy of the same expert")
        return "\n".join(lines)


def check(
    load: Any,
    placement: Placement,
    *,
    num_nodes: int = 1,
    num_groups: int = 1,
    engine: str | None = None,
    solver: Callable[..., Solution] | None = None,
) -> Checkup:
    """Check a placement against loads, as any method of a comparison is checked.

    Parameters
    ----------
    load
        ``[layers, experts]`` loads, or a Trace, whose windows are summed.
    placement
        ``[layers, slots]``.
    num_nodes, num_groups
        Expert groups that must live wholly on one node.
    engine
        A name of ``moeopt.traces.ENGINES`` that should be able to load it.
    solver
        An exact method that is started from the placement, for a sharper bound.

    Raises
    ------
    PlacementError
        Names layer, rule and numbers of the first rule that is broken.
    InputError
        If ``engine`` could not load it; names the layer.

    Examples
    --------
    >>> print(check([[9, 5, 4, 2]], Placement([[0, 1, 2, 3]], num_experts=4, num_gpus=2)))
    valid: 1 layers of 4 experts on 2 GPUs: 4 slots, 2 per GPU, 0 redundant
    imbalance 1.4000; worst layer 1.4000 (layer 0)
    at most 27.273 % above the best possible, 27.273 % in the worst layer (layer 0)
    """
    problem = PlacementProblem(
        load,
        placement.num_gpus,
        placement.num_slots,
        num_nodes=num_nodes,
        num_groups=num_groups,
        allow_empty_slots=True,
    )
    problem.check(placement)
    if engine is not None:
        refuse_unloadable(placement, engine, problem.load.layer_ids)
    bound = bounds.lower_bound(problem)
    if solver is not None:
        bound = bound.join(solver(problem, start=Solution(problem, placement, bound)).bound)
    return Checkup(problem, placement, bound)
