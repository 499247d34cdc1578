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


def in_time(windows):
    """Chi2/df against a fixed distribution, share of the first principal component, autocorrelation of neighbours."""
    counts = windows.astype(float)
    total = counts.sum(axis=2, keepdims=True)
    expected = total * (counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None])
    chi2 = ((counts - expected) ** 2 / expected).sum() / ((len(counts) - 1) * counts[0].size)
    away = (counts - expected) / np.sqrt(expected)
    squares = np.linalg.svd(np.moveaxis(away / away.std(axis=0), 1, 0), compute_uv=False) ** 2
    first = (squares[:, 0] / squares.sum(axis=1)).mean()
    return chi2, first, (away[1:] * away[:-1]).sum() / (away**2).sum()


SHAPE = {"num_layers": 10, "num_experts": 64, "tokens": 4000, "num_windows": 32}


def test_windows_in_time_resemble_those_of_the_recording(recordings):
    recorded = in_time(read_trace(recordings / "deepseek-v2-lite" / "deepseek_v2_lite_windows32.json").windows)
    ours = np.mean([in_time(generate("windows", **SHAPE, seed=seed).windows) for seed in range(5)], axis=0)
    assert ours[0] == pytest.approx(recorded[0], rel=0.2)
    assert ours[1] == pytest.approx(recorded[1], abs=0.04)
    assert ours[2] == pytest.approx(recorded[2], abs=0.1)


def test_each_parameter_in_time_does_what_it_says():
    def found(**given):
        still = {"drift": 0.0, "memory": 0.0, "co_movement": 0.0, "over_dispersion": 1.0}
        return in_time(generate("windows", **SHAPE, **(still | given)).windows)

    chi2, first, _ = found()
    assert chi2 == pytest.approx(1, abs=0.05)
    assert found(over_dispersion=30)[0] == pytest.approx(30, rel=0.15)
    assert found(drift=0.2)[0] > 10
    assert found(drift=0.2)[1] == pytest.approx(first, abs=0.02)
    assert found(drift=0.2, co_movement=1.0)[1] > 2 * first
    assert found(drift=0.2, memory=0.9)[2] > 0.5 > 0.1 > found(drift=0.2)[2]
    with_all = generate("windows", num_layers=2, num_experts=8, tokens=10, num_windows=3, over_dispersion=80.0)
    assert (with_all.windows.sum(axis=2) == 80).all()
    assert with_all.windows.max() <= 10


def test_a_trace_in_time_is_a_beginning_of_a_longer_one_and_the_old_presets_are_what_they_were():
    assert generate("windows", **SHAPE)[:5] == generate("windows", **(SHAPE | {"num_windows": 5}))
    old = generate("decode", num_layers=2, num_experts=16, tokens=500, num_windows=3, seed=1).windows
    assert old[2, 1].tolist() == [206, 230, 345, 315, 107, 113, 216, 172, 241, 311, 435, 217, 200, 415, 222, 255]


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
        ({"preset": "training"}, "preset must be one of prefill, decode, windows, got 'training'"),
        ({"preset": ["prefill"]}, "preset must be one of"),
        ({"num_experts": 7}, "num_experts must be >= 8, got 7"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"tokens": 0}, "tokens must be >= 1, got 0"),
        ({"tokens": 1.5}, "tokens must be an integer, got 1.5"),
        ({"num_windows": True}, "num_windows must be an integer, got True"),
        ({"drift": -0.1}, "drift must be between 0 and 10, got -0.1"),
        ({"memory": 1.5}, "memory must be between 0 and 1, got 1.5"),
        ({"co_movement": "x"}, "co_movement must be a finite number, got 'x'"),
        ({"over_dispersion": 0.5}, "over_dispersion must be between 1 and"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"tokens": 2**51}, r"may total at most 2\*\*53"),
    ],
)
def test_a_wrong_argument_is_named(arguments, rule):
    with pytest.raises(InputError, match=rule):
        generate(**arguments)
