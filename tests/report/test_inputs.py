"""The placement in force is found for the layers of a trace, however the file counts its rows."""

import json

import pytest

from moeopt import LoadMatrix, Placement, TraceError
from moeopt.report.inputs import read_reference
from moeopt.traces import write_placement

LOAD = LoadMatrix([[1, 2, 3, 4], [4, 3, 2, 1]], layer_ids=(3, 5))
HOME = Placement([[0, 1, 2, 3], [3, 2, 1, 0]], 4, 2)


def test_a_file_with_a_row_for_every_layer_of_the_model_is_read_by_their_numbers(tmp_path):
    path = tmp_path / "sglang.json"
    write_placement(path, HOME, "sglang", layer_ids=(3, 5), model_layers=7)
    assert len(json.loads(path.read_text())["physical_to_logical_map"]) == 7
    assert read_reference(path, LOAD, (3, 5), 2) == HOME


def test_a_file_with_the_layers_of_the_trace_serves_some_of_them(tmp_path):
    path = tmp_path / "all.csv"
    write_placement(path, HOME, "csv")
    assert read_reference(path, LOAD[[1]], (3, 5), 2) == HOME[[1]]


def test_a_layer_without_a_row_is_named(tmp_path):
    path = tmp_path / "short.yaml"
    write_placement(path, HOME, "trtllm", layer_ids=(3, 4))
    with pytest.raises(TraceError, match=r"short.yaml: .* none for layer 5"):
        read_reference(path, LOAD, (3, 5), 2)
