"""Loads go out and come back in, their layers' numbers too."""

import json

import numpy as np
import pytest

from moeopt.errors import InputError
from moeopt.traces import LOAD_FORMATS, Trace, read_trace, write_trace

TRACE = Trace([[[3, 1, 0], [0, 4, 2]], [[2, 2, 1], [4, 0, 0]]], layer_ids=(3, 5))


@pytest.mark.parametrize("name", LOAD_FORMATS)
@pytest.mark.parametrize("trace", [TRACE, Trace(TRACE.windows / 2, (0, 1)), TRACE[:1]], ids=["counts", "halves", "one"])
@pytest.mark.parametrize("more", [None, 9])
def test_a_trace_comes_back_as_it_was(name, trace, more, tmp_path):
    back = read_trace(write_trace(tmp_path / "file", trace, name, model_layers=more))
    assert np.array_equal(back.windows, trace.windows)
    assert back.layer_ids == trace.layer_ids


def test_the_json_has_a_row_for_every_layer_as_sglang_counts_them(tmp_path):
    document = json.loads(write_trace(tmp_path / "file", TRACE, model_layers=7).read_text())
    assert list(document) == ["logical_count"]
    counts = np.array(document["logical_count"])
    assert counts.shape == (2, 7, 3)
    assert np.array_equal(counts[:, [3, 5]], TRACE.windows)
    assert not counts[:, [0, 1, 2, 4, 6]].any()


@pytest.mark.parametrize(
    ("trace", "options", "rule"),
    [
        (TRACE, {"format": "pt"}, "format 'pt' is unknown; there are json, npy, npz"),
        (TRACE, {"model_layers": 5}, "model_layers=5, but the trace has layers 3 to 5"),
        (TRACE, {"model_layers": 0}, "model_layers must be >= 1"),
        (TRACE, {"model_layers": 10**9}, "model_layers=1000000000 takes more than"),
        (Trace([[3, 1]], (-1,)), {}, "the trace has layers -1 to -1"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(trace, options, rule, tmp_path):
    with pytest.raises(InputError, match=rule):
        write_trace(tmp_path / "file", trace, **options)
    assert list(tmp_path.iterdir()) == []
