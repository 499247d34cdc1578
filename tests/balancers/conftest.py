"""Loads of full scale: every test that takes ``recording`` runs on the recordings and on generated twins."""

from functools import cache

import pytest

from moeopt.load import LoadMatrix
from moeopt.traces import generate
from tests.conftest import recorded

TWINS = {
    "deepseek-v3/decode_in1000out1000": {"preset": "decode", "seed": 1},
    "deepseek-v3/decode_in1800out100": {"preset": "decode", "seed": 1, "num_windows": 2},
    "deepseek-v3/prefill_in1024": {"preset": "prefill", "seed": 2},
    "deepseek-v3/prefill_in2000out100": {"preset": "prefill", "seed": 3},
    "deepseek-v3/ten_token_smoke": {"preset": "decode", "seed": 4, "tokens": 10},
    "olmoe/olmoe_c4": {"preset": "prefill", "seed": 5, "num_layers": 16, "num_experts": 64},
}
"""What to generate in place of a recording; its last window counts, so that one twin follows upon another."""


@cache
def generated(name: str) -> LoadMatrix:
    """The twin of a recording: loads of the same shape that every checkout has."""
    return LoadMatrix(generate(**TWINS[name]).windows[-1], source=f"twin of {name}")


@pytest.fixture(params=["recorded", "generated"])
def recording(request):
    return recorded if request.param == "recorded" else generated
