"""The generator: exact totals, reproducible, and alike to what was recorded."""

import numpy as np
import pytest

from moeopt.errors import InputError
from moeopt.traces import generate, read_trace

RECORDED = {
    "prefill": ["prefill_in1024", "prefill_in2000out100"],
    "decode": ["decode_in1000out1000", "decode_in1800out100"],
}


def statistics(values):
    """Mean over layers of: max/mean, spread of log load, share of cold and of hot experts, group spread."""
    relative = values / values.mean(axis=1, keepdims=True)
    groups = relative.reshape(len(values), 8, -1).mean(axis=2)
    peak = relative.max(axis=1)
    return {
        "max/mean": peak.mean(),
        "spread of log max/mean": np.log(peak).std(),
        "coefficient of variation": relative.std(axis=1).mean(),
        "share below half": (relative < 0.5).mean(),
        "share above twice": (relative > 2).mean(),
        "median expert": np.median(relative, axis=1).mean(),
        "group spread": groups.std(axis=1).mean(),
    }


@pytest.mark.parametrize("preset", ["prefill", "decode"])
def test_every_token_visits_eight_different_experts(preset):
    trace = generate(preset, num_layers=5, num_experts=32, tokens=1000, num_windows=3)
    assert trace.windows.shape == (3, 5, 32)
    assert trace.windows.dtype == np.int64
    assert (trace.windows.sum(axis=2) == 8000).all()
    assert trace.windows.min() >= 0
    assert trace.windows.max() <= 1000


@pytest.mark.parametrize(("num_experts", "tokens"), [(8, 7), (9, 50), (10, 1), (256, 1), (256, 10)])
def test_no_expert_receives_more_than_every_token(num_experts, tokens):
    windows = generate(num_experts=num_experts, tokens=tokens, num_layers=20).windows
    assert windows.max() <= tokens
    assert (windows.sum(axis=2) == 8 * tokens).all()


def test_the_same_seed_gives_the_same_trace_and_another_another():
    small = {"num_layers": 3, "num_experts": 16, "tokens": 500}
    assert generate(**small, seed=3) == generate(**small, seed=3)
    assert generate(**small, seed=3) != generate(**small, seed=4)
    assert generate("decode", **small) != generate("prefill", **small)


def test_the_default_is_the_shape_of_deepseek_v3():
    trace = generate()
    assert trace.windows.shape == (1, 58, 256)
    assert trace.source == "synthetic_prefill"


@pytest.mark.parametrize("preset", ["prefill", "decode"])
def test_neighbouring_windows_differ_little_and_distant_ones_more(preset):
    windows = generate(preset, num_windows=12).windows / 2**15
    near = np.abs(np.diff(windows, axis=0)).mean()
    far = np.abs(windows[8:] - windows[:4]).mean()
    assert 0.03 < near < 0.10
    assert 1.3 * near < far < 0.25


@pytest.mark.parametrize("preset", ["prefill", "decode"])
def test_the_statistics_resemble_the_recordings_of_the_preset(preset, recordings):
    recorded = [
        statistics(read_trace(recordings / "deepseek-v3" / f"{name}.json").total().values) for name in RECORDED[preset]
    ]
    ours = [statistics(generate(preset, seed=seed).total().values) for seed in range(5)]
    for name in recorded[0]:
        low, high = min(r[name] for r in recorded), max(r[name] for r in recorded)
        mean = np.mean([o[name] for o in ours])
        assert 0.9 * low < mean < 1.1 * high, name
        assert all(0.75 * low < o[name] < 1.35 * high for o in ours), name


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"preset": "training"}, "preset must be one of prefill, decode, got 'training'"),
        ({"preset": ["prefill"]}, "preset must be one of"),
        ({"num_experts": 7}, "num_experts must be >= 8, got 7"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"tokens": 0}, "tokens must be >= 1, got 0"),
        ({"tokens": 1.5}, "tokens must be an integer, got 1.5"),
        ({"num_windows": True}, "num_windows must be an integer, got True"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"tokens": 2**51}, r"may total at most 2\*\*53"),
    ],
)
def test_a_wrong_argument_is_named(arguments, rule):
    with pytest.raises(InputError, match=rule):
        generate(**arguments)
