import numpy as np
import pytest

from moeopt.problem import PlacementProblem


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return PlacementProblem(rng.integers(1, 100, (5, 8)), num_gpus=2, num_slots=8, allow_empty_slots=True)
