import json
from pathlib import Path

import numpy as np
import pytest

from moeopt.load import LoadMatrix

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


def recorded(name: str) -> LoadMatrix:
    """A recorded trace as loads, dense layers dropped; skips where the recordings are absent."""
    path = TRACES / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"recorded trace {name} is not beside the checkout")
    data = json.loads(path.read_text())
    counts = np.array(data["logical_count"] if isinstance(data, dict) else data)
    counts = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)
    return LoadMatrix(counts[counts.any(axis=1)].astype(np.int64), source=name)


@pytest.fixture(scope="session")
def recording():
    return recorded
