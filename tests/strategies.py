"""Hypothesis strategies that build valid problems directly, every variant among them."""

import numpy as np
from hypothesis import strategies as st

from moeopt import PlacementProblem

SHAPES = [(1, 1, 2), (2, 2, 2), (3, 2, 2), (4, 2, 2), (4, 2, 3), (5, 2, 3), (6, 3, 2), (4, 4, 1), (3, 4, 1), (5, 3, 2)]
"""Experts, GPUs, slots per GPU: few enough placements to look at them all."""


@st.composite
def loads(draw, experts):
    """Counts with ties and zeros, skewed counts, or fractions."""
    kind = draw(st.sampled_from(["small", "large", "fractions"]))
    if kind == "small":
        return draw(st.lists(st.integers(0, 5), min_size=experts, max_size=experts))
    if kind == "large":
        return draw(st.lists(st.integers(0, 10**9), min_size=experts, max_size=experts))
    row = draw(st.lists(st.floats(1e-3, 1e6), min_size=experts, max_size=experts))
    return [float(np.float32(value)) for value in row]


@st.composite
def problems(draw):
    """A one-layer problem: partition or replicas, either split, nodes, switches, a limit of moves, or a ceiling."""
    experts, gpus, size = draw(st.sampled_from(SHAPES))
    rules: dict = {"allow_colocated": draw(st.booleans()), "allow_empty_slots": draw(st.booleans())}
    if not rules["allow_colocated"] and size > experts:
        rules["allow_empty_slots"] = True
    if gpus % 2 == 0 and experts % 2 == 0 and draw(st.booleans()):
        rules |= {"num_nodes": 2, "num_groups": 2}
        if not rules["allow_colocated"] and size > experts // 2:
            rules["allow_empty_slots"] = True
    row = draw(loads(experts))
    goal = draw(st.sampled_from(["makespan", "max_moves", "max_makespan"]))
    if goal == "makespan":
        rules["split"] = draw(st.sampled_from(["even", "optimal"]))
    else:
        extra = draw(
            st.lists(st.integers(0, experts - 1), min_size=gpus * size - experts, max_size=gpus * size - experts)
        )
        rules["reference"] = [draw(st.permutations([*range(experts), *extra]))]
        if goal == "max_moves":
            rules["max_moves"] = draw(st.integers(0, 4))
        else:
            rules["max_makespan"] = sum(row) / gpus * draw(st.floats(0.9, 1.8))
    return PlacementProblem([row], gpus, gpus * size, **rules)
