"""Whole-or-nothing files."""

from pathlib import Path

import pytest

from moeopt._files import read_whole, write_whole
from moeopt.errors import InputError, TraceError


def test_text_and_bytes_come_back_and_parent_folders_appear(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    write_whole(target, "é\n")
    assert read_whole(target) == "é\n".encode()
    write_whole(str(target), b"\x00\x01")
    assert read_whole(target) == b"\x00\x01"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_new_file_has_the_mode_of_any_other_new_file(tmp_path):
    write_whole(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_cannot_be_encoded_leaves_the_old_file_and_no_litter(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["folder", "file/below", "n\0ul", "x" * 300, "/dev/null", "/proc/nothing/here"])
def test_a_target_that_cannot_be_written_is_an_input_error_naming_it(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / name, "data")
    assert sorted([path.name for path in tmp_path.iterdir()]) == ["file", "folder"]


def test_reading_names_the_file_that_is_missing_empty_or_a_folder(tmp_path):
    (tmp_path / "empty").write_text("")
    for name, rule in [("none", "No such file"), ("empty", "is empty"), (".", "not a regular file"), ("a\0b", "null")]:
        with pytest.raises(TraceError, match=rule):
            read_whole(tmp_path / name)


def test_a_file_that_could_only_be_overwritten_in_place_is_left_alone_and_the_reason_said(tmp_path, monkeypatch):
    """As in a folder that takes no new files, or where the file is a mount point of its own."""
    (tmp_path / "file").write_text("old")

    def busy(self, target):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(InputError, match=r"busy \(it could only be overwritten in place, and an interruption would"):
        write_whole(tmp_path / "file", "new")
    with pytest.raises(InputError, match=r"resource busy$"):
        write_whole(tmp_path / "fresh", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_name_reaches_messages_escaped_and_cut(tmp_path):
    for act, error in ((read_whole, TraceError), (lambda path: write_whole(path, ""), InputError)):
        with pytest.raises(error) as caught:
            act(tmp_path / ("a\nb\x1b" + "c" * 5000))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
