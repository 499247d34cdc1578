"""vLLM's and TensorRT-LLM's statistics, ADRS' history and OmniInfer's dumps: sums that can be counted by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moeopt.errors import TraceError
from moeopt.traces import read_trace
from tests.traces.engines import (
    EXPERTS,
    LAYERS,
    json_lines,
    omni_dumps,
    trtllm_ranks,
    vllm_line,
    vllm_meta,
    vllm_steps,
)  # fmt: skip

# vLLM


def vllm_file(kind):
    made, truth = vllm_steps()
    lines = [vllm_line(7 * i, *step, **({"num_ranks": 2} if kind != "meta line" else {}))
             for i, step in enumerate(made)]  # fmt: skip
    return ([vllm_meta()] if kind != "ranks in every line" else []) + lines, truth


@pytest.mark.parametrize("kind", ["ranks in every line", "meta line", "both"])
def test_vllm_slots_are_added_up_by_the_map_of_their_own_line(kind, tmp_path):
    lines, truth = vllm_file(kind)
    (tmp_path / "stats").write_text(json_lines(lines))
    trace = read_trace(tmp_path / "stats")
    assert trace.windows.tolist() == truth.tolist()
    assert trace.windows.dtype == np.int64
    assert read_trace(tmp_path / "stats", steps_per_window=2).windows.tolist() == [
        truth[:2].sum(axis=0).tolist(),
        truth[2].tolist(),
    ]


def test_vllm_lines_of_other_types_and_blank_lines_are_passed_over(tmp_path):
    lines, truth = vllm_file("meta line")
    marked = [{"record_type": "bench_run_start"}, *lines, {"record_type": "session_metadata", "argv": []}]
    (tmp_path / "stats").write_text("\n" + json_lines(marked).replace("\n", "\n\n").rstrip())
    assert read_trace(tmp_path / "stats").windows.tolist() == truth.tolist()


def changed(line, **changes):
    def change(lines):
        lines[line] = {key: value for key, value in (lines[line] | changes).items() if value is not None}

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (changed(2, version=2), "line 3: eplb_load_stats of version 2; version 1 is read"),
        (changed(0, num_layers=5), "line 2: 4 layers on 2 ranks, but eplb_load_meta says num_layers=5, num_ranks=2"),
        (changed(0, num_redundant_experts=3), "line 2: 12 slots of 8 experts, but .* says num_redundant_experts=3"),
        (changed(0, num_ranks="2"), "line 1: eplb_load_meta: num_ranks must be a number, got 2"),
        (lambda lines: lines.pop(0), "line 1: neither num_ranks nor a line eplb_load_meta before it"),
        (lambda lines: lines.insert(2, vllm_meta(ranks=3)), "line 3: a second eplb_load_meta, which says something"),
        (changed(1, num_ranks=5), "line 2: 12 slots are not a multiple of num_ranks=5"),
        (changed(3, p2l_map=None), "line 4: eplb_load_stats has no p2l_map"),
        (changed(3, p2l_map=[[0, 1]] * 4), r"line 4: expert_load has shape \(4, 12\), p2l_map has \(4, 2\)"),
        (changed(3, p2l_map=[[0] * 11 + [-1]] * 4), r"line 4: p2l_map must be \[layers, slots\] of expert ids"),
        (changed(3, p2l_map=[[0] * 11 + [1.5]] * 4), r"line 4: p2l_map must be \[layers, slots\] of expert ids"),
        (changed(3, p2l_map=[[0] * 11 + [12]] * 4), "line 4: p2l_map names expert 12 with 12 slots"),
        (changed(3, expert_load=[[1] * 12] * 3 + [[1] * 11 + [-1]]), "line 4: layer 3, column 11: -1.0 is negative"),
        (
            changed(3, expert_load=[[2**53, 1] + [0] * 10] * 4),
            "line 4: layer 0: totals 9007199254741640 tokens by",
        ),
        (changed(3, expert_load=[["1"] * 12] * 4), 'line 4: expert_load, layer 0, column 0: "1" is not a number'),
        (lambda lines: lines.append([1]), "line 5: expected an object with a record_type, got list"),
    ],
)
def test_a_damaged_vllm_line_is_named(change, rule, tmp_path):
    lines, _ = vllm_file("meta line")
    change(lines)
    (tmp_path / "stats").write_text(json_lines(lines))
    with pytest.raises(TraceError, match=f"stats: {rule}"):
        read_trace(tmp_path / "stats")


def test_a_vllm_file_that_was_cut_off_or_holds_no_loads_says_so(tmp_path):
    lines, _ = vllm_file("meta line")
    (tmp_path / "stats").write_text(json_lines(lines)[:-40])
    with pytest.raises(
        TraceError, match=r"line 4: not readable JSON: .*\(the last line: was the recording cut off\?\)"
    ):
        read_trace(tmp_path / "stats")
    (tmp_path / "stats").write_text(json_lines(lines[:1]))
    with pytest.raises(TraceError, match=r"no line of record_type eplb_load_stats$"):
        read_trace(tmp_path / "stats")
    (tmp_path / "stats").write_text(json_lines([{"record_type": "eplb_initial_mapping", "version": 1}]))
    with pytest.raises(TraceError, match=r"no line .*; it holds a placement \(eplb_initial_mapping\)"):
        read_trace(tmp_path / "stats")


# TensorRT-LLM


def test_trtllm_ranks_add_up_by_iteration_under_the_models_own_layer_ids(tmp_path):
    truth = trtllm_ranks(tmp_path / "run", iterations=range(98, 103))  # 98, 99, 100: as numbers, not as text
    trace = read_trace(tmp_path / "run")
    assert trace.windows.tolist() == truth.tolist()
    assert trace.layer_ids == (3, 4, 10)
    assert (trace.source, trace.ordered, trace.note) == ("run", True, "")


def test_trtllm_files_of_missing_ranks_are_named(tmp_path):
    trtllm_ranks(tmp_path, meta={"ep_size": 4})
    with pytest.raises(TraceError, match="the files of rank 3 are missing, those of ranks 0, 1, 2 are there"):
        read_trace(tmp_path)
    (tmp_path / "rank0.safetensors").unlink()
    with pytest.raises(TraceError, match="the files of ranks 0, 3 are missing"):
        read_trace(tmp_path)
    assert read_trace(tmp_path, single_rank=True).num_windows == 5
    with pytest.raises(TraceError, match=r"a single .safetensors file is one rank's share"):
        read_trace(tmp_path / "rank1.safetensors")


def trtllm_changed(folder, rank, change):
    tensors = load_file(folder / f"rank{rank}.safetensors")
    change(tensors)
    save_file(tensors, folder / f"rank{rank}.safetensors")


def test_trtllm_iterations_that_a_killed_rank_lacks_are_left_out(tmp_path):
    truth = trtllm_ranks(tmp_path)
    trtllm_changed(tmp_path, 1, lambda tensors: [tensors.pop(f"104_{layer}") for layer in (3, 4, 10)])
    trace = read_trace(tmp_path)
    assert trace.windows.tolist() == truth[:-1].tolist()
    assert trace.note == "iterations: 1 of 5 recorded at the begin or end by some ranks only, left out"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda tensors: tensors.pop("102_4"), "iteration 102: rank 1 differs from others in layer 4"),
        (lambda tensors: [tensors.pop(f"102_{i}") for i in (3, 4, 10)], "iteration 102 lacks rank 1"),
        (lambda tensors: tensors.update(x=np.ones(8)), "rank1.safetensors: a tensor called 'x'"),
        (
            lambda tensors: tensors.update({"101_3": np.ones(9, int)}),
            r"tensor 101_3: \(9,\) of int64, expected",
        ),
        (lambda tensors: tensors.update({"101_3": np.ones(8)}), r"tensor 101_3: \(8,\) of float64, expected \[8\] int"),
        (lambda tensors: tensors["101_3"].__setitem__(2, -1), "tensor 101_3: layer 0, column 2: -1 is negative"),
        (lambda tensors: tensors["101_3"].__setitem__(2, 2**60), r"tensor 101_3: layer 0, column 2: .* above 2\*\*53"),
    ],
)
def test_damaged_trtllm_tensors_are_named(change, rule, tmp_path):
    trtllm_ranks(tmp_path)
    trtllm_changed(tmp_path, 1, change)
    with pytest.raises(TraceError, match=rule) as caught:
        read_trace(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_damaged_trtllm_folder_is_named(tmp_path):
    trtllm_ranks(tmp_path)
    content = (tmp_path / "rank1.safetensors").read_bytes()
    for cut in (5, 200, -8):
        (tmp_path / "rank1.safetensors").write_bytes(content[:cut])
        with pytest.raises(TraceError, match=r"rank1.safetensors: not a readable .safetensors file"):
            read_trace(tmp_path)
    (tmp_path / "meta_info.json").write_text('{"num_experts": "8"}')
    with pytest.raises(TraceError, match=r"meta_info.json: num_experts must be a number, got 8"):
        read_trace(tmp_path)
    (tmp_path / "meta_info.json").unlink()
    with pytest.raises(TraceError, match=r"meta_info.json: cannot be read: No such file"):
        read_trace(tmp_path)


# OmniInfer


def test_omni_ranks_stand_side_by_side_in_the_order_of_the_steps(tmp_path):
    truth = omni_dumps(tmp_path, ranks=4)  # steps 1, 2, 10
    assert read_trace(tmp_path).windows.tolist() == truth.tolist()
    (tmp_path / "activation_counts_recordstep_2_rank_1.txt").unlink()
    with pytest.raises(TraceError, match="record step 2 lacks rank 1, the ones around it were recorded by all"):
        read_trace(tmp_path)
    for file in tmp_path.glob("*rank_1.txt"):
        file.unlink()
    with pytest.raises(TraceError, match="the files of rank 1 are missing, those of ranks 0, 2, 3 are there"):
        read_trace(tmp_path)
    with pytest.raises(TraceError, match="a single dump of OmniInfer is one rank's share of one step"):
        read_trace(tmp_path / "activation_counts_recordstep_2_rank_0.txt")


def test_omni_rank_0_alone_is_the_whole_only_where_the_caller_says_so(tmp_path):
    truth = omni_dumps(tmp_path, ranks=1)
    with pytest.raises(TraceError, match=r"all files are rank 0's, of 8 experts: .*num_experts=8 \(or single_rank"):
        read_trace(tmp_path)
    assert read_trace(tmp_path, num_experts=EXPERTS).windows.tolist() == truth.tolist()
    assert read_trace(tmp_path, single_rank=True).windows.tolist() == truth.tolist()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1\t2\n3\n", r"line 2 \(layer 1\) has 1 columns"),
        ("1\tx\n3\t4\n", r"line 1 \(layer 0\), column 1: 'x' is not a number"),
        ("1\t-2\n3\t4\n", ".*column 1: -2 is below 0"),
        ("1\t2\n3\t4\n", r"\[2, 2\] layers and experts, activation_counts_recordstep_10_rank_0.txt has \[4, 4\]"),
        ("", "the file is empty"),
    ],
)
def test_a_damaged_omni_dump_is_named(text, rule, tmp_path):
    omni_dumps(tmp_path)
    (tmp_path / "activation_counts_recordstep_2_rank_1.txt").write_text(text)
    with pytest.raises(TraceError, match=rf"recordstep_2_rank_1.txt: {rule}"):
        read_trace(tmp_path)


# ADRS


def history(counts):
    return {"load_history": [{"logical_expert_load": step.tolist(), "time": 1.5} for step in counts]}


def test_adrs_history_is_a_window_per_entry(tmp_path):
    truth = np.random.default_rng(0).integers(0, 9, (3, LAYERS, EXPERTS))
    (tmp_path / "h.json").write_text(json.dumps(history(truth), indent=1))
    assert read_trace(tmp_path / "h.json").windows.tolist() == truth.tolist()
    assert read_trace(tmp_path / "h.json", steps_per_window=3).windows.tolist() == [truth.sum(axis=0).tolist()]


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([], "load_history is not a list with at least one entry"),
        ({}, "load_history is not a list with at least one entry"),
        ([3], "load_history, entry 0: no logical_expert_load"),
        ([{"logical_expert_load": [[1, 2]]}, {"load": 3}], "load_history, entry 1: no logical_expert_load"),
        ([{"logical_expert_load": [[1, 2]]}, {"logical_expert_load": [[1]]}], "entry 1: shape .1, 1., the first has"),
        ([{"logical_expert_load": [[1, None]]}], "entry 0: logical_expert_load, layer 0, column 1: null is not a num"),
        ([{"logical_expert_load": [[1, -2]]}], "layer 0, column 1: -2.0 is negative"),
    ],
)
def test_a_damaged_history_is_named(entries, rule, tmp_path):
    (tmp_path / "h.json").write_text(json.dumps({"load_history": entries}))
    with pytest.raises(TraceError, match=rule):
        read_trace(tmp_path / "h.json")


# folders


def test_a_folder_with_two_recordings_asks_which(tmp_path):
    omni_dumps(tmp_path)
    (tmp_path / "layer_0.csv").write_text("1,2\n")
    with pytest.raises(TraceError, match=r"holds files of activation_counts_recordstep_\*.txt and of .csv: which"):
        read_trace(tmp_path)
