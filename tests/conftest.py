"""Loads of full scale: recordings where they lie beside the checkout, generated twins everywhere."""

import json
import signal
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from moeopt.load import LoadMatrix
from moeopt.traces import generate

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the programs that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"

TWINS = {
    "deepseek-v3/decode_in1000out1000": {"preset": "decode", "seed": 1},
    "deepseek-v3/decode_in1800out100": {"preset": "decode", "seed": 1, "num_windows": 2},
    "deepseek-v3/prefill_in1024": {"preset": "prefill", "seed": 2},
    "deepseek-v3/prefill_in2000out100": {"preset": "prefill", "seed": 3},
    "deepseek-v3/ten_token_smoke": {"preset": "decode", "seed": 4, "tokens": 10},
    "olmoe/olmoe_c4": {"preset": "prefill", "seed": 5, "num_layers": 16, "num_experts": 64},
    "olmoe/olmoe_arxiv": {"preset": "prefill", "seed": 6, "num_layers": 3, "num_experts": 64},
    "olmoe/olmoe_github": {"preset": "prefill", "seed": 7, "num_layers": 3, "num_experts": 64},
    "mixtral/mistral_c4": {"preset": "prefill", "seed": 8, "num_layers": 3, "num_experts": 8, "tokens": 20_000},
    "mixtral/mistral_github": {"preset": "prefill", "seed": 9, "num_layers": 3, "num_experts": 8, "tokens": 20_000},
}
"""What to generate in place of a recording; its last window counts, so that one twin follows upon another."""


def is_recorded(name: str) -> bool:
    """Whether a recording lies beside the checkout."""
    return (TRACES / f"{name}.json").is_file()


def recorded(name: str) -> LoadMatrix:
    """A recorded trace as loads, dense layers dropped; skips where the recordings are absent."""
    if not is_recorded(name):
        pytest.skip(f"recorded trace {name} is not beside the checkout")
    data = json.loads((TRACES / f"{name}.json").read_text())
    counts = np.array(data["logical_count"] if isinstance(data, dict) else data)
    counts = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)
    return LoadMatrix(counts[counts.any(axis=1)].astype(np.int64), source=name)


@cache
def generated(name: str) -> LoadMatrix:
    """The twin of a recording: loads of the same shape that every checkout has."""
    return LoadMatrix(generate(**TWINS[name]).windows[-1], source=f"twin of {name}")


@pytest.fixture(scope="session")
def recording():
    """The recording, or its twin where there is none, so that a fresh clone makes the same claims."""
    return lambda name: recorded(name) if is_recorded(name) else generated(name)
