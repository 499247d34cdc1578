"""Small named problems that a person can hold in the head, with their known optimum."""

from dataclasses import dataclass

from moeopt.problem import PlacementProblem

EPLB_README = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
"""The loads of EPLB's README: two layers of twelve experts."""


@dataclass(frozen=True)
class Instance:
    """A one-layer problem and the least makespan (or fewest moves) it allows; None = infeasible."""

    problem: PlacementProblem
    optimum: float | None


def _one(loads, gpus, **rules):
    return PlacementProblem([loads], gpus, **rules)


INSTANCES: dict[str, Instance] = {
    "one expert, one GPU": Instance(_one([7], 1), 7),
    "even pairs": Instance(_one([9, 5, 4, 2], 2), 11),
    "LPT is 7/6 off": Instance(_one([3, 3, 2, 2, 2, 0], 2), 6),
    "BLDM is 4/3 off": Instance(_one([3, 1, 1, 1, 0, 0], 2), 3),
    "BLDM is 3/2 off": Instance(_one([12] + [3] * 8 + [0] * 3, 3), 12),
    "one hot expert": Instance(_one([100, 1, 1, 1], 2), 101),
    "a copy halves the hot expert": Instance(_one([100, 1, 1, 0], 2, num_slots=6), 51),
    "no load at all": Instance(_one([0, 0, 0, 0], 2), 0),
    "fractional loads": Instance(_one([0.5, 0.25, 0.25, 0.0], 2), 0.5),
    "one slot each": Instance(_one([8, 5, 4], 4, num_slots=4), 5),
    "an empty slot helps": Instance(_one([10, 10, 9], 2, num_slots=4, allow_empty_slots=True), 14.5),
    "two copies may not share a GPU": Instance(_one([8, 2], 2, num_slots=4, allow_colocated=False), 5),
    "groups stay on their node": Instance(_one([9, 8, 1, 0], 2, num_nodes=2, num_groups=2), 17),
    "the same without nodes": Instance(_one([9, 8, 1, 0], 2), 9),
    "copies share evenly": Instance(_one([10, 8, 7], 2, num_slots=4), 13),
    "tokens go to either copy": Instance(_one([10, 8, 7], 2, num_slots=4, split="optimal"), 12.5),
    "one swap away, one move allowed": Instance(_one([4, 4, 1, 1], 2, reference=[[0, 1, 2, 3]], max_moves=1), 8),
    "one swap away, two moves allowed": Instance(_one([4, 4, 1, 1], 2, reference=[[0, 1, 2, 3]], max_moves=2), 5),
    "fewest moves to balance": Instance(_one([4, 4, 1, 1], 2, reference=[[0, 1, 2, 3]], max_makespan=5.0), 2),
    "nothing to move": Instance(_one([4, 4, 1, 1], 2, reference=[[0, 2, 1, 3]], max_makespan=5.0), 0),
    "a ceiling too low": Instance(_one([4, 4, 1, 1], 2, reference=[[0, 1, 2, 3]], max_makespan=4.9), None),
}

SMALL_RULES = {
    "partition": (3, 6, 6, {}),
    "replicated": (2, 4, 6, {}),
    "two slots each": (3, 4, 6, {}),
    "no colocation": (3, 4, 6, {"allow_colocated": False}),
    "empty slots": (2, 4, 6, {"allow_empty_slots": True}),
    "empty slots, no colocation": (3, 4, 6, {"allow_empty_slots": True, "allow_colocated": False}),
    "nodes and groups": (4, 4, 8, {"num_nodes": 2, "num_groups": 2}),
}
"""GPUs, experts, slots and rules small enough to look at every placement."""
