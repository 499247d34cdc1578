"""SGLang's recordings by rank: the sum of all files, and one clear error for a part of them."""

import numpy as np
import pytest
import torch

from moeopt.errors import TraceError
from moeopt.traces import read_trace
from tests.traces.engines import EXPERTS, LAYERS, SLOTS, by_expert, sglang_name, sglang_ranks, slot_map


@pytest.mark.parametrize("own_slots_only", [False, True])
def test_the_files_of_all_ranks_add_up_pass_by_pass(own_slots_only, tmp_path):
    truth = sglang_ranks(tmp_path / "run", own_slots_only=own_slots_only)
    trace = read_trace(tmp_path / "run")
    assert trace.windows.tolist() == truth[:, 1:].tolist()
    assert trace.layer_ids == (1, 2, 3)
    assert (trace.source, trace.ordered, trace.note) == ("run", True, "")


def test_every_file_is_read_by_its_own_map(tmp_path):
    """Ranks that dump before and after a rearrangement."""
    truth = np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    for rank in range(2):
        phy2log, counts = slot_map(seed=rank), np.random.default_rng(rank).integers(1, 9, (LAYERS, SLOTS))
        record = {"forward_pass_id": 1, "rank": rank, "global_physical_count": torch.tensor(counts)}
        dump = {"records": [record], "last_physical_to_logical_map": torch.tensor(phy2log)}
        torch.save(dump, tmp_path / sglang_name(rank))
        truth += by_expert(counts, phy2log)
    assert read_trace(tmp_path).windows.tolist() == [truth.tolist()]


def test_per_token_recordings_are_counted(tmp_path):
    """Slots of every token, -1 padded: with the recorder's own counts beside them and without."""
    phy2log, truth = slot_map(), np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    for rank in range(2):
        ids = np.random.default_rng(rank).integers(-1, SLOTS, (LAYERS, 5, 3))
        counts = np.stack([np.bincount(row[row >= 0], minlength=SLOTS) for row in ids])
        truth += by_expert(counts, phy2log)
        record = {"forward_pass_id": 1, "rank": rank, "topk_ids_of_layer": torch.tensor(ids, dtype=torch.int32),
                  "input_ids": [1] * 5, "positions": [0] * 5, "forward_mode": 1}  # fmt: skip
        if rank:
            record["global_physical_count"] = torch.tensor(counts)
        dump = {"records": [record], "last_physical_to_logical_map": torch.tensor(phy2log)}
        torch.save(dump, tmp_path / sglang_name(rank))
    assert read_trace(tmp_path).windows.tolist() == [truth.tolist()]


@pytest.mark.parametrize("rank", [0, 2])
def test_one_file_alone_is_refused_and_the_missing_ranks_are_named(rank, tmp_path):
    sglang_ranks(tmp_path)
    file = tmp_path / sglang_name(rank)
    others = ", ".join(str(other) for other in range(4) if other != rank)
    with pytest.raises(TraceError, match=rf"share of rank {rank} only.*ranks {others} are missing; give the folder"):
        read_trace(file)
    (tmp_path / "alone").mkdir()
    alone = file.rename(tmp_path / "alone" / "renamed.pt")
    below = "ranks 0, 1 and perhaps higher ones are" if rank else "the ranks above 0 are"
    for path in (alone, alone.parent):
        with pytest.raises(TraceError, match=rf"share of rank {rank} only.*: {below} missing \(single_rank=True"):
            read_trace(path)


def test_one_file_is_read_where_the_caller_insists(tmp_path):
    sglang_ranks(tmp_path / "run", ranks=1)
    truth = sglang_ranks(tmp_path / "run", ranks=1)
    for path in (tmp_path / "run", tmp_path / "run" / sglang_name(0)):
        assert read_trace(path, single_rank=True).windows.tolist() == truth[:, 1:].tolist()


def test_a_rank_that_is_missing_from_the_folder_is_named(tmp_path):
    sglang_ranks(tmp_path)
    (tmp_path / sglang_name(1)).unlink()
    with pytest.raises(TraceError, match="the files of rank 1 are missing, those of ranks 0, 2, 3 are there"):
        read_trace(tmp_path)
    assert read_trace(tmp_path, single_rank=True).num_windows == 5


def test_the_last_rank_is_missed_where_ranks_count_their_own_slots(tmp_path):
    """DeepEP's low-latency dispatch: the slots that nobody counted belong to somebody."""
    sglang_ranks(tmp_path, own_slots_only=True)
    (tmp_path / sglang_name(3)).unlink()
    with pytest.raises(TraceError, match="the files of rank 3 are missing"):
        read_trace(tmp_path)


def test_slots_that_the_ranks_cannot_share_evenly_are_a_sign_of_missing_files(tmp_path):
    sglang_ranks(tmp_path, ranks=6)
    (tmp_path / sglang_name(5)).unlink()
    with pytest.raises(TraceError, match="5 ranks cannot hold 12 slots evenly: are files missing"):
        read_trace(tmp_path)


def test_ranks_that_counted_the_same_tokens_are_said_to(tmp_path):
    """Plain tensor parallelism, where the number of ranks has nothing to do with the slots."""
    counts = torch.randint(1, 9, (LAYERS, SLOTS))
    for rank in range(5):
        record = {"forward_pass_id": 1, "rank": rank, "global_physical_count": counts}
        dump = {"records": [record], "last_physical_to_logical_map": torch.tensor(slot_map())}
        torch.save(dump, tmp_path / sglang_name(rank))
    assert read_trace(tmp_path).note == "all ranks counted the same tokens: the loads are 5 times too large"


def drop(file, passes):
    dump = torch.load(file, weights_only=True)
    dump["records"] = [record for record in dump["records"] if record["forward_pass_id"] not in passes]
    torch.save(dump, file)


def test_passes_that_some_ranks_lack_are_left_out_at_the_ends_and_said(tmp_path):
    truth = sglang_ranks(tmp_path)
    drop(tmp_path / sglang_name(2), {3})
    drop(tmp_path / sglang_name(1), {7})
    trace = read_trace(tmp_path)
    assert trace.windows.tolist() == truth[1:-1, 1:].tolist()
    assert trace.note == "forward passes: 2 of 5 recorded at the begin or end by some ranks only, left out"
    assert trace[:1].note == trace.note
    drop(tmp_path / sglang_name(3), {5})
    with pytest.raises(TraceError, match="forward pass 5 lacks rank 3, the ones around it"):
        read_trace(tmp_path)
    drop(tmp_path / sglang_name(3), {4, 6})
    with pytest.raises(TraceError, match="no forward pass was recorded by all of ranks 0, 1, 2, 3"):
        read_trace(tmp_path)


def test_passes_come_in_the_order_of_their_ids(tmp_path):
    truth = sglang_ranks(tmp_path)
    for rank in range(4):
        dump = torch.load(tmp_path / sglang_name(rank), weights_only=True)
        dump["records"].reverse()
        torch.save(dump, tmp_path / sglang_name(rank))
    assert read_trace(tmp_path).windows.tolist() == truth[:, 1:].tolist()


def test_two_recordings_of_a_rank_go_together_unless_they_hold_the_same_pass(tmp_path):
    truth = sglang_ranks(tmp_path)
    for rank in range(4):
        dump = torch.load(tmp_path / sglang_name(rank), weights_only=True)
        for part, time in ((slice(2), 17.25), (slice(2, None), 99.5)):
            torch.save(dump | {"records": dump["records"][part]}, tmp_path / sglang_name(rank, time))
    assert read_trace(tmp_path).windows.tolist() == truth[:, 1:].tolist()
    torch.save(dump, tmp_path / "again.pt")
    with pytest.raises(TraceError, match=r"_3.pt: holds forward pass 3 of rank 3, as does again.pt"):
        read_trace(tmp_path)


def changed(folder, rank, change):
    dump = torch.load(folder / sglang_name(rank), weights_only=True)
    change(dump)
    torch.save(dump, folder / sglang_name(rank))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda dump: dump.pop("records"), r"_1.pt: no records, and the folder holds several .pt files"),
        (lambda dump: dump.update(records=[]), "_1.pt: records is not a list with at least one record"),
        (lambda dump: dump.pop("last_physical_to_logical_map"), "records need last_physical_to_logical_map"),
        (lambda dump: dump["records"][2].pop("global_physical_count"), "_1.pt: record 2: no global_physical_count"),
        (lambda dump: dump["records"][2].update(rank=2**31), "record 2: rank must be a number from 0 to 65535, got 21"),
        (lambda dump: dump["records"][2].update(rank=None), "record 2: rank must be a number from 0 to 65535, got No"),
        (lambda dump: dump["records"][2].update(rank=3), "_1.pt: its records must all have one rank"),
        (lambda dump: dump["records"][2].update(forward_pass_id="x"), "a forward_pass_id that is a number"),
        (lambda dump: dump["records"][2]["global_physical_count"].fill_(-1), "record 2: layer 0, column 0: -1 is neg"),
        (
            lambda dump: dump["last_physical_to_logical_map"].fill_(0),
            "record 0: .4, 8. layers and experts, other ranks have .4, 1.",
        ),
        (lambda dump: dump["last_physical_to_logical_map"].fill_(12), "names expert 12 with 12 slots"),
        (
            lambda dump: dump.update(
                records=[{"forward_pass_id": 3, "rank": 1, "topk_ids_of_layer": torch.full((4, 1, 1), 12)}]
            ),
            "record 0: topk_ids_of_layer must be slots from 0 to 11, or -1",
        ),
    ],
)
def test_a_damaged_share_is_named(change, rule, tmp_path):
    sglang_ranks(tmp_path)
    changed(tmp_path, 1, change)
    with pytest.raises(TraceError, match=rule) as caught:
        read_trace(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_truncated_share_is_named(tmp_path):
    sglang_ranks(tmp_path)
    content = (tmp_path / sglang_name(2)).read_bytes()
    (tmp_path / sglang_name(2)).write_bytes(content[:-30])
    with pytest.raises(TraceError, match=r"_2.pt: not a .pt file of plain tensors \(nothing in it was run\)"):
        read_trace(tmp_path)


RING = np.random.default_rng(0).integers(1, 9, (6, 2, 4))


@pytest.mark.parametrize(
    ("empty_rows", "known"), [([], False), ([5], True), ([4, 5], True), ([0], True), ([2, 3], False)]
)
def test_a_ring_buffer_that_may_have_gone_round_is_said_to(empty_rows, known, tmp_path):
    """Rows that the recorder has not reached are zero; where the first and the last are not, nobody knows."""
    counts = RING.copy()
    counts[empty_rows] = 0
    torch.save({"rank": 0, "logical_count": torch.tensor(counts)}, tmp_path / "stat.pt")
    trace = read_trace(tmp_path / "stat.pt")
    assert trace.ordered == known == (trace.note == "")
    assert known or "if it went round, the windows are not in time order" in trace.note
    assert trace[1:3].ordered == trace.ordered
    torch.save(torch.tensor(counts), tmp_path / "tensor.pt")
    assert read_trace(tmp_path / "tensor.pt").ordered
