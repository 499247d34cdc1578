"""A report's folder holds one whole report, whatever kills, interrupts or disturbs its writer."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from moeopt.errors import InputError
from moeopt.report import files as report_files
from moeopt.report.files import MANIFEST, check_folder, is_whole, manifest, read_manifest, write

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX processes and signals")


def report(version, *names):
    """A small report: files of every folder, of which ``names`` belong to this version only."""
    common = ("report.md", "layers.csv", "figures/gap.png", "placements/a.json")
    files = {name: f"{version} {name}".encode() * 50 for name in (*common, *names)}
    return files | {MANIFEST: manifest({"version": version}, files)}


OLD = report("old", "figures/old.png", "certificates.json")
NEW = report("new", "figures/new.png", "extra.html")
NEXT = report("next", "placements/next.json")


def on_disk(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def litter(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_report_replaces_the_earlier_one_and_leaves_what_is_not_its_own(tmp_path):
    out = tmp_path / "deep" / "out"
    write(out, OLD)
    assert on_disk(out) == OLD
    (out / "mine.txt").write_text("kept")
    (out / "figures" / "old.png").write_text("changed by hand")
    write(str(out), NEW)
    assert on_disk(out) == NEW | {"mine.txt": b"kept", "figures/old.png": b"changed by hand"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_manifest_tells_whether_the_folder_is_one_report(tmp_path):
    assert read_manifest(tmp_path) is None
    assert not is_whole(tmp_path)
    write(tmp_path, OLD)
    assert read_manifest(tmp_path)["version"] == "old"
    assert set(read_manifest(tmp_path)["files"]) == set(OLD) - {MANIFEST}
    assert is_whole(tmp_path)
    (tmp_path / "layers.csv").write_bytes(NEW["layers.csv"])
    assert not is_whole(tmp_path)
    write(tmp_path, OLD)
    (tmp_path / "certificates.json").unlink()
    assert not is_whole(tmp_path)


@pytest.mark.parametrize(
    "record",
    ["", "[]", "3", '{"files": 3}', '{"files": {"../x": "0"}}', '{"files": {"": "0"}}', "[" * 10**5, '{"files": null}'],
)
def test_a_foreign_manifest_is_none_and_deletes_nothing(tmp_path, record):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "x").write_text("0")
    (out / MANIFEST).write_text(record)
    assert read_manifest(out) is None
    assert not is_whole(out)
    write(out, NEW)
    assert on_disk(out) == NEW
    assert (tmp_path / "x").read_text() == "0"


def test_a_report_without_hashes_is_replaced_within_its_own_folders(tmp_path):
    names = ["figures/a.png", "placements/b.json", "certificates.json", "mine.txt", "../outside", "figures/.."]
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (out / "placements").mkdir()
    for name in names[:5]:
        (out / name).write_text("0.1")
    (out / MANIFEST).write_text(json.dumps({"files": names}))
    write(out, NEW)
    assert on_disk(out) == NEW | {"mine.txt": b"0.1"}
    assert (tmp_path / "outside").exists()


def in_child(act):
    """Run ``act`` in a fork and return its exit code, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = act() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_operation(number, out, act):
    """Call ``act`` just before the ``number``-th time that this process touches something inside ``out``."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        touches = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if touches and str(args[0]).startswith(str(out)):
            seen += 1
            if seen == number:
                act()

    sys.addaudithook(hook)


@POSIX
def test_killed_at_any_operation_the_folder_is_one_report_or_known_not_to_be_and_the_next_writer_mends_it(tmp_path):
    states, number = set(), 0
    while True:
        number += 1
        out = tmp_path / str(number)
        write(out, OLD)
        (out / "mine.txt").write_text("kept")

        def die(out=out, number=number):
            at_operation(number, out, lambda: os.kill(os.getpid(), signal.SIGKILL))
            write(out, NEW)

        code = in_child(die)
        found = on_disk(out)
        if is_whole(out):
            version = read_manifest(out)["version"]
            assert {**found, **{"old": OLD, "new": NEW}[version]} == found
            states.add(version)
        else:
            states.add("mixed")
        write(out, NEXT)
        assert on_disk(out) == NEXT | {"mine.txt": b"kept"}
        assert is_whole(out)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        shutil.rmtree(out)
    assert states == {"old", "mixed", "new"}
    assert number > 40


@POSIX
def test_ctrl_c_at_any_operation_leaves_a_whole_report_and_no_litter(tmp_path):
    versions, number, code = set(), 0, 130
    while code == 130:
        number += 1
        out = tmp_path / str(number)
        write(out, OLD)

        def interrupted(out=out, number=number):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            at_operation(number, out, lambda: signal.raise_signal(signal.SIGINT))
            try:
                write(out, NEW)
            except KeyboardInterrupt:
                return 130

        code = in_child(interrupted)
        assert code in (130, 0)
        version = read_manifest(out)["version"]
        versions.add(version)
        assert is_whole(out)
        last = {path: content for path, content in on_disk(out).items() if path != ".report-lock"}
        assert last == {"old": OLD, "new": NEW}[version]
    assert versions == {"old", "new"}
    assert number > 40


@POSIX
def test_writers_at_once_take_turns(tmp_path):
    out = tmp_path / "out"
    children = []
    for i in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for j in range(10):
                    write(out, report(f"{i} {j}", f"figures/{i}.png", f"placements/{j}.json"))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert is_whole(out)
    assert set(on_disk(out)) == {*read_manifest(out)["files"], MANIFEST}


def test_threads_take_turns(tmp_path):
    threads = [threading.Thread(target=write, args=(tmp_path, report(str(i), f"{i}.html"))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_whole(tmp_path)
    assert set(on_disk(tmp_path)) == {*read_manifest(tmp_path)["files"], MANIFEST}


@POSIX
def test_a_writer_that_does_not_finish_gives_one_error_and_its_death_frees_the_folder(tmp_path, monkeypatch):
    write(tmp_path, OLD)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        with report_files._locked(tmp_path):
            os.write(go, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    monkeypatch.setattr(report_files, "_PATIENCE", 0.2)
    with pytest.raises(InputError, match="another report is being written there"):
        write(tmp_path, NEW)
    assert is_whole(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write(tmp_path, NEW)
    assert on_disk(tmp_path) == NEW


def test_a_write_that_fails_while_staging_leaves_the_earlier_report_and_no_litter(tmp_path, monkeypatch):
    write(tmp_path / "out", OLD)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("out", "fresh"):
        with pytest.raises(InputError, match=r"out=.*: No space left on device$"):
            write(tmp_path / name, NEW)
    assert on_disk(tmp_path / "out") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("name", "rule"), [("layers.csv", "layers.csv is a folder"), ("extra.html", "is a folder")])
def test_a_name_that_is_taken_is_refused_before_anything_is_replaced(tmp_path, name, rule):
    write(tmp_path, OLD)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    before = on_disk(tmp_path)
    with pytest.raises(InputError, match=rule):
        write(tmp_path, NEW)
    assert on_disk(tmp_path) == before
    assert not litter(tmp_path)


def test_files_without_a_manifest_are_no_report(tmp_path):
    with pytest.raises(InputError, match=r"must hold the manifest run\.json"):
        write(tmp_path / "out", {"a": b""})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_take_a_report_is_accepted_without_a_trace(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "later", target_is_directory=True)
    for name in (".", "new", "deep/er", "link", "link/below"):
        check_folder(tmp_path / name, [tmp_path / "file.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    write(tmp_path / "link", OLD)
    assert on_disk(tmp_path / "later") == OLD


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("file", "is not a folder"),
        ("file/below", "is not a folder"),
        ("loop", "symbolic links"),
        ("n\0ul", "null"),
        ("blocked", "figures is not a folder"),
        ("x" * 300 + "/below", "too long"),
        ("/proc/nothing", "cannot be written to"),
    ],
)
def test_a_folder_that_cannot_is_refused_in_one_line(tmp_path, out, rule):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "figures").write_text("mine")
    for act in (lambda: check_folder(tmp_path / out), lambda: write(tmp_path / out, NEW)):
        with pytest.raises(InputError, match=r"^out=") as caught:
            act()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=rule):
        check_folder(tmp_path / out)
    assert not litter(tmp_path / "blocked")


def test_the_folder_that_is_read_and_those_inside_it_take_no_report(tmp_path):
    trace = tmp_path / "trace"
    trace.mkdir()
    (trace / "0.csv").write_text("1,2\n")
    (tmp_path / "link").symlink_to(trace, target_is_directory=True)
    for out in (trace, trace / "report", trace / "a" / "b", tmp_path / "link", tmp_path / "link" / "a"):
        with pytest.raises(InputError, match="must not be, or lie in, the folder that is read"):
            check_folder(out, ["elsewhere.json", trace])
    for out in (tmp_path, tmp_path / "trace2"):
        check_folder(out, [trace, trace / "0.csv", "odd\0name", f"{trace / '0.csv'}:load"])


@pytest.fixture
def another_device():
    """A folder on another device than the tests' own."""
    shm = Path("/dev/shm")
    if not (
        shm.is_dir() and os.access(shm, os.W_OK) and shm.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev
    ):
        pytest.skip("no second device to write to")
    folder = Path(tempfile.mkdtemp(dir=shm))
    yield folder
    shutil.rmtree(folder)


def test_a_link_to_another_device_takes_reports(tmp_path, another_device):
    (tmp_path / "out").symlink_to(another_device, target_is_directory=True)
    for files in (OLD, NEW):
        check_folder(tmp_path / "out")
        write(tmp_path / "out", files)
        assert on_disk(another_device) == files
    assert (tmp_path / "out").is_symlink()


def test_a_folder_of_the_report_may_lie_on_another_device(tmp_path, another_device):
    (tmp_path / "figures").symlink_to(another_device, target_is_directory=True)
    for files in (OLD, NEW):
        write(tmp_path, files)
        assert is_whole(tmp_path)
    assert sorted(path.name for path in another_device.iterdir()) == ["gap.png", "new.png"]
    assert not litter(tmp_path)


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own, mounted at ``parent/out``, while ``parent`` takes nothing."""
    parent = tmp_path / "parent"
    parent.mkdir()
    mounts = []

    def mount(*arguments):
        if shutil.which("mount") is None or subprocess.run(["mount", *arguments], capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        mounts.append(arguments[-1])

    try:
        mount("-t", "tmpfs", "none", str(parent))
        (parent / "out").mkdir()
        mount("-t", "tmpfs", "none", str(parent / "out"))
        subprocess.run(["mount", "-o", "remount,ro", str(parent)], check=True, capture_output=True)
        yield parent / "out"
    finally:
        for place in reversed(mounts):
            subprocess.run(["umount", place], check=True, capture_output=True)


def test_a_mount_point_in_a_parent_that_takes_nothing_takes_reports(mounted):
    for files in (OLD, NEW):
        check_folder(mounted)
        write(mounted, files)
        assert on_disk(mounted) == files
    with pytest.raises(InputError, match="cannot be written to"):
        check_folder(mounted.parent / "other")


@POSIX
def test_a_writable_folder_in_a_read_only_parent_takes_reports(tmp_path):
    out = tmp_path / "parent" / "out"
    out.mkdir(parents=True)
    out.chmod(0o777)

    def unprivileged():
        if os.getuid() == 0:
            os.setuid(65534)
        if os.access(out.parent, os.W_OK) or not os.access(out, os.W_OK):
            return 77
        for files in (OLD, NEW):
            check_folder(out)
            write(out, files)
            assert on_disk(out) == files
        try:
            check_folder(out.parent / "other")
        except InputError as error:
            return 0 if "cannot be written to" in str(error) else 2
        return 3

    opened = [folder for folder in out.parents if folder.stat().st_uid == os.getuid() and folder != Path("/")]
    modes = {folder: folder.stat().st_mode for folder in opened}
    for folder in opened[1:]:
        folder.chmod(modes[folder] | 0o011)
    out.parent.chmod(0o555)
    try:
        code = in_child(unprivileged)
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    if code == 77:
        pytest.skip("permissions do not bind here")
    assert code == 0
