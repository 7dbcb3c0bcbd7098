"""Writes are whole or not there: exceptions, signals, full disks, replaced targets, leftovers of killed runs."""
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from danqing_pack import staging
from danqing_pack.errors import DanqingError, RequestError
from danqing_pack.staging import CHECKPOINT, scratch_folder, staged_file, staged_folder


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def write_folder(target: Path, content: str, **options: object) -> None:
    with staged_folder(target, **options) as folder:      # type: ignore[arg-type]
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text(content)


def write_file(target: Path, content: str, **options: object) -> None:
    with staged_file(target, **options) as file:          # type: ignore[arg-type]
        file.write_text(content)


def content_of(target: Path) -> str:
    return (target / "below" / "file" if target.is_dir() else target).read_text()


BOTH = pytest.mark.parametrize("write", [write_folder, write_file])


@BOTH
def test_new_target_appears_whole_with_its_parents(tmp_path: Path, write) -> None:
    write(tmp_path / "a" / "b" / "out", "new")
    assert content_of(tmp_path / "a" / "b" / "out") == "new"
    assert hidden(tmp_path / "a" / "b") == []


@BOTH
def test_permissions_are_those_of_umask(tmp_path: Path, write) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == (0o750 if write is write_folder else 0o640)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("staged", [staged_folder, staged_file])
def test_an_exception_leaves_nothing(tmp_path: Path, staged, kind: type[BaseException]) -> None:
    with pytest.raises(kind), staged(tmp_path / "a" / "b" / "out") as place:
        (place / "file" if place.is_dir() else place).write_text("half")
        raise kind
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_an_existing_target_is_refused_and_untouched(tmp_path: Path, write) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(DanqingError, match=r"out exists: .*--force"):
        write(tmp_path / "out", "new")
    assert content_of(tmp_path / "out") == "old" and hidden(tmp_path) == []


@BOTH
def test_force_replaces(tmp_path: Path, write) -> None:
    write(tmp_path / "out", "old")
    write(tmp_path / "out", "new", force=True)
    assert content_of(tmp_path / "out") == "new" and os.listdir(tmp_path) == ["out"]


@BOTH
def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, write, monkeypatch) -> None:
    staged = staged_folder if write is write_folder else staged_file
    with pytest.raises(DanqingError, match="exists"), staged(tmp_path / "out"):
        write(tmp_path / "other", "theirs")
        (tmp_path / "other").rename(tmp_path / "out")
    assert content_of(tmp_path / "out") == "theirs" and os.listdir(tmp_path) == ["out"]


def test_force_never_replaces_another_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, staged, fact in [("file", staged_folder, "no folder"), ("folder", staged_file, "no file"),
                               ("link", staged_folder, "link to folder"), ("dangling", staged_file, "link to nowhere")]:
        with pytest.raises(DanqingError, match=fact), staged(tmp_path / name, force=True):
            raise AssertionError("the block must not run")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "folder", "link"]


def test_force_never_replaces_the_source_the_working_or_the_home_directory(tmp_path: Path, monkeypatch) -> None:
    inner = tmp_path / "out" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "alias").symlink_to("out/inner")
    for source in (tmp_path / "out", inner, inner / "missing", tmp_path / "alias"):
        with pytest.raises(DanqingError, match="the source"):
            write_folder(tmp_path / "out", "new", force=True, sources=[source])
    (tmp_path / "here").symlink_to(tmp_path)
    with pytest.raises(DanqingError, match="the source"):
        write_folder(tmp_path / "here" / "out", "new", force=True, sources=[inner])
    (tmp_path / "bundle").write_text("x")
    with pytest.raises(DanqingError, match="the source"):
        write_file(tmp_path / "bundle", "new", force=True, sources=[tmp_path / "bundle"])
    with monkeypatch.context() as patch:
        patch.chdir(inner)
        with pytest.raises(DanqingError, match="the working directory"):
            write_folder(tmp_path / "out", "new", force=True)
    monkeypatch.setenv("HOME", str(inner))
    with pytest.raises(DanqingError, match="the home directory"):
        write_folder(tmp_path / "out", "new", force=True)
    assert inner.is_dir()
    write_folder(inner / "target", "new", sources=[tmp_path / "out"])      # a new folder inside the source is fine


@BOTH
def test_a_failed_replacement_keeps_the_old_one(tmp_path: Path, write, monkeypatch) -> None:
    write(tmp_path / "out", "old")
    real = os.rename

    def fail(source: object, target: object) -> None:
        if staging._PARTIAL in str(source):
            raise KeyboardInterrupt
        real(source, target)      # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", "new", force=True)
    assert content_of(tmp_path / "out") == "old" and hidden(tmp_path) == []


@BOTH
def test_the_new_one_is_on_the_disk_before_the_old_one_goes(tmp_path: Path, write, monkeypatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    write(tmp_path / "out", "old")
    assert flushed == [], "nothing is replaced: flushing gigabytes would only cost time"
    before = (tmp_path / "out").stat().st_ino
    for name in ("rename", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *places, real=real: (flushed.append(0), real(*places)))
    write(tmp_path / "out", "new", force=True)
    file = tmp_path / "out" / "below" / "file" if write is write_folder else tmp_path / "out"
    assert flushed.index(file.stat().st_ino) < flushed.index(0) < flushed.index(tmp_path.stat().st_ino)
    assert before not in flushed


@pytest.mark.parametrize(("number", "fact"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"),
                                              (errno.EDQUOT, "quota")])
def test_what_the_disk_refuses_is_a_sentence(tmp_path: Path, number: int, fact: str) -> None:
    with pytest.raises(DanqingError, match=fact) as caught, staged_folder(tmp_path / "out") as folder:
        raise OSError(number, os.strerror(number), str(folder / "file"))
    assert str(tmp_path / "out") in str(caught.value) and ".danqing" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), staged_folder(tmp_path / "out"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()


def test_places_that_cannot_hold_a_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    for target in (tmp_path / "file" / "out", tmp_path / "dangling" / "out", tmp_path / ("n" * 300) / "out"):
        with pytest.raises(DanqingError):
            write_folder(target, "new")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_parent_that_vanishes_is_a_sentence(tmp_path: Path, moment: str, monkeypatch) -> None:
    parent = tmp_path / "parent"
    if moment == "start":
        real = staging._sweep
        monkeypatch.setattr(staging, "_sweep", lambda target: (real(target), parent.rmdir()))
    with pytest.raises(DanqingError, match="No such file"), staged_file(parent / "out") as file:
        file.unlink()
        parent.rmdir()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_works_and_can_be_replaced(tmp_path: Path) -> None:
    name = "丹" * 85      # 255 bytes
    write_folder(tmp_path / name, "old")
    write_folder(tmp_path / name, "new", force=True)
    assert content_of(tmp_path / name) == "new"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_scratch_folder_is_gone_afterwards(tmp_path: Path, error: type[BaseException] | None) -> None:
    with pytest.raises(error) if error else nullcontext(), scratch_folder(tmp_path / "bundle") as scratch:
        assert scratch.parent == tmp_path
        (scratch / "below").mkdir()
        write_file(tmp_path / "other", "x")      # another run beside it leaves it alone
        assert (scratch / "below").is_dir()
        if error:
            raise error
    assert os.listdir(tmp_path) == ["other"]


# ---- processes

CHILD = """
import signal, sys, time
from danqing_pack.staging import staged_folder
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with staged_folder(sys.argv[1], force=True) as folder:
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(staging.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "out")], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path: Path, child: subprocess.Popen[str], number: int) -> None:
    child.send_signal(number)
    child.wait(30)
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    write_folder(tmp_path / "out", "another run beside a living one")
    assert len(hidden(tmp_path)) == 1, "the living run's folder must stay"
    child.kill()
    child.wait(30)
    assert len(hidden(tmp_path)) == 1 and content_of(tmp_path / "out").startswith("another")
    write_file(tmp_path / "elsewhere", "new")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out"]


def test_a_run_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    aside = tmp_path / f"{staging._aside_prefix(tmp_path / 'out')}0123456789ab"
    (tmp_path / "out").rename(aside)
    (tmp_path / f"{staging._PARTIAL}1-0123456789ab").mkdir()
    write_folder(tmp_path / "other", "x")
    assert aside.is_dir(), "the old folder of another target is none of this run's business"
    with pytest.raises(DanqingError, match="exists"):
        write_folder(tmp_path / "out", "new")
    assert content_of(tmp_path / "out") == "old" and hidden(tmp_path) == []


def test_a_leftover_old_folder_goes_once_the_target_is_there(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "new")
    (tmp_path / f"{staging._aside_prefix(tmp_path / 'out')}0123456789ab").mkdir()
    write_folder(tmp_path / "out", "newer", force=True)
    assert os.listdir(tmp_path) == ["out"] and content_of(tmp_path / "out") == "newer"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A real one where this process may mount, else a limit on the file size, which fails the same way."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    script = ("import resource, signal, sys\n"
              "from danqing_pack.errors import DanqingError\n"
              "from danqing_pack.staging import staged_folder\n"
              "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
              f"if not {mounted}: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
              "try:\n"
              "    with staged_folder(sys.argv[1]) as folder:\n"
              "        (folder / 'big').write_bytes(bytes(4 << 20))\n"
              "except DanqingError as error:\n"
              "    print(error)\n")
    try:
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(Path(staging.__file__).parents[1])}, timeout=60)
        assert done.returncode == 0, done.stderr
        assert ("disk is full" if mounted else "larger than allowed") in done.stdout
        assert list(tmp_path.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", tmp_path], check=True)


def test_force_replaces_a_folder_of_its_own_kind_alone(tmp_path: Path) -> None:
    mine, empty, old = (tmp_path / name for name in ("mine", "empty", "old"))
    for folder in (mine, empty, old):
        folder.mkdir()
    (mine / "notes.txt").write_text("mine")
    (old / "danqing.json").write_text("old")
    with (pytest.raises(RequestError, match="since it holds notes.txt and none of danqing.json, model_index.json"),
          staged_folder(mine, force=True, marks=CHECKPOINT)):
        pass
    assert (mine / "notes.txt").read_text() == "mine"
    for folder in (empty, old):
        with staged_folder(folder, force=True, marks=CHECKPOINT) as staging:
            (staging / "danqing.json").write_text("new")
        assert (folder / "danqing.json").read_text() == "new"
