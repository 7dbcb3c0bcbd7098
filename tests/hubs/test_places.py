"""Where a pull puts files: mounted disks, folders that others fill meanwhile, caches, machines without a home."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from danqing_pack import check, convert, pulling, turns
from danqing_pack.errors import HubError, RequestError, UnsafeError
from danqing_pack.pulling import pull

NAME = "org/painter"
Double = Any


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def half_precision(painter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same painter with other weights."""
    target = tmp_path_factory.mktemp("half") / "painter"
    convert(painter_checkpoint, target, to="diffusers", dtype="fp16")
    return target


# ---- a folder that exists

def test_a_mounted_disk(double: Double, hub: str, painter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be renamed into a disk from outside it, and a container may not write beside where it is mounted."""
    double.fill(hub, NAME, painter_folder)
    disk = tmp_path / "disk"
    disk.mkdir()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(disk) != Path(target).is_relative_to(disk):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    pull(f"{hub}:{NAME}", disk)
    assert contents(disk) == contents(painter_folder) and [path.name for path in tmp_path.glob(".*")] == []


def test_what_a_failure_leaves_inside_is_no_part_of_the_model(
    double: Double, hub: str, painter_folder: Path, tmp_path: Path, impatient: list[float]
) -> None:
    double.fill(hub, NAME, painter_folder)
    out = Path(shutil.copytree(painter_folder, tmp_path / "out"))
    (out / "transformer/model.safetensors").unlink()
    (out / "vqvae/config.json").unlink()
    double.fail("transformer/model.safetensors", "status", 503, times=999)
    with pytest.raises(HubError):
        pull(f"{hub}:{NAME}", out)
    assert not (out / "vqvae/config.json").exists()
    assert not any(".danqing" in problem for problem in check(out))
    double.failures.clear()
    pull(f"{hub}:{NAME}", out)
    assert contents(out) == contents(painter_folder)


def test_another_revision_over_the_first(double: Double, hub: str, painter_folder: Path, painter_copy: Path,
                                         tmp_path: Path) -> None:
    """What the first one listed goes with --force: a loader might read it instead. What is the user's own stays."""
    from danqing_pack import pushing

    pushing.push(painter_copy, f"{hub}:{NAME}", tag="v2", card=False)
    double.fill(hub, "org/first", painter_folder)
    out = tmp_path / "out"
    pull(f"{hub}:org/first", out)
    (out / "mine.txt").write_text("stays")
    (out / "legacy/config.json").write_text("changed by me")
    done = pull(f"{hub}:{NAME}@v2", out, force=True)
    assert "model_index.json" in done.removed and not (out / "model_index.json").exists() and "removed" in done.describe()
    assert not (out / "vqvae").exists()
    assert (out / "mine.txt").read_text() == "stays" and (out / "legacy/config.json").read_text() == "changed by me"


def test_a_part_of_another_revision_takes_nothing_away(double: Double, hub: str, painter_folder: Path, painter_copy: Path,
                                                       tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_copy)
    out = Path(shutil.copytree(painter_folder, tmp_path / "out"))
    assert pull(f"{hub}:{NAME}", out, force=True, include=["vocab.txt", "config.json"]).removed == ()
    assert (out / "model_index.json").is_file()


# ---- several at once

def test_two_revisions_into_one_new_folder(double: Double, hub: str, painter_folder: Path, half_precision: Path,
                                           tmp_path: Path) -> None:
    """The second finds the files of the first and refuses to replace them: never half of each."""
    for name, folder in (("org/one", painter_folder), ("org/two", half_precision)):
        double.fill(hub, name, folder)
    double.fail("model.safetensors", "slow", 500, times=4)
    outcomes: list[Any] = []

    def one(name: str) -> None:
        try:
            outcomes.append(pull(f"{hub}:{name}", tmp_path / "out"))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("org/one", "org/two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(each).__name__ for each in outcomes) == ["Pull", "RequestError"]
    assert contents(tmp_path / "out") in (contents(painter_folder), contents(half_precision))


def test_a_lock_on_a_folder_that_was_renamed(tmp_path: Path) -> None:
    """Whoever waited holds the new hidden folder, not the target that it became."""
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with turns.partial_folder(tmp_path / "out") as (partial, _):
            inside.set()
            (partial / "a").write_text("a")
            threading.Event().wait(0.3)
            os.rename(partial, tmp_path / "out")
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    with turns.partial_folder(tmp_path / "out") as (partial, waited):
        order.append("second")
        assert waited and partial.parent == tmp_path / "out" and list(partial.iterdir()) == []
    thread.join()
    assert order == ["first", "second"]


# ---- machines

def test_nobody_has_a_home(double: Double, hub: str, painter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id of a container that stands in no list of users."""
    double.fill(hub, NAME, painter_folder)
    monkeypatch.delenv("XDG_CACHE_HOME")

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(turns.Path, "home", home)
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(painter_folder)


def test_no_place_for_a_lock(double: Double, hub: str, painter_folder: Path, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    double.fill(hub, NAME, painter_folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(painter_folder)


def test_windows(double: Double, hub: str, painter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fcntl, no pread, and folders that cannot be opened."""
    double.fill(hub, NAME, painter_folder)
    real = os.open

    def opened(path: Any, *words: Any, **more: Any) -> int:
        if os.path.isdir(path) and str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "is a folder")
        return real(path, *words, **more)

    monkeypatch.setattr(turns, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(turns.os, "open", opened)
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "pwrite")
    for out in (tmp_path / "one", tmp_path / "two"):
        pull(f"{hub}:{NAME}", out)
        assert contents(out) == contents(painter_folder)


@pytest.mark.parametrize("name", [".git/config", "sub/.GIT/hooks/post-checkout"])
def test_names_that_reach_into_a_git_repository(double: Double, hub: str, painter_folder: Path, tmp_path: Path, name: str) -> None:
    repo = double.fill(hub, NAME, painter_folder)
    files = next(iter(repo.commits.values()))
    files[name] = next(iter(files.values()))
    with pytest.raises(UnsafeError):
        pull(f"{hub}:{NAME}", tmp_path / "out")


# ---- manifests and caches

def test_a_manifest_that_lists_more_than_there_is(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(painter_folder, tmp_path / "less"))
    (folder / "legacy/config.json").unlink()
    double.fill(hub, NAME, folder)
    done = pull(f"{hub}:{NAME}", tmp_path / "out")
    assert done.lacking == ("legacy/config.json",) and "which the hub lacks: legacy/config.json" in done.describe()


@pytest.fixture
def cached(place: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in the client's cache, without the network from now on."""
    from huggingface_hub import constants, snapshot_download

    place.double.fill("hf", NAME, model)
    folder = Path(snapshot_download(NAME, endpoint=place.double.address, cache_dir=place.home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pulling.HUBS["hf"].__class__, "snapshot", lambda self, repository, revision: folder)
    return folder


def test_offline_as_with_the_network(cached: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = pull(f"hf:{NAME}", out, include=["*.json"])
    assert contents(out) == {name: data for name, data in contents(model).items() if name.endswith(".json")}
    assert "from the cache of Hugging Face; all digests equal those of that cache" in done.describe() and done.size == 0
    (out / "mine.txt").write_text("stays")
    pull(f"hf:{NAME}", out)
    assert contents(out) == {**contents(model), "mine.txt": b"stays"}
    (out / "config.json").write_text("mine")
    with pytest.raises(RequestError, match="differ from those on the hub: config.json"):
        pull(f"hf:{NAME}", out)


def test_a_cache_that_is_damaged(cached: Path, tmp_path: Path) -> None:
    (cached / "danqing.json").unlink()          # so that the client's own digests are all there is
    for number, name in enumerate(("vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors")):
        blob = (cached / name).resolve()
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(HubError, match=f"damaged: {name}"):
            pull(f"hf:{NAME}", tmp_path / f"out{number}")
        blob.write_bytes(data)
    assert list(tmp_path.glob("out*")) == []


def test_a_cache_that_holds_a_part(cached: Path, tmp_path: Path) -> None:
    (cached / "transformer/model.safetensors").unlink()
    with pytest.raises(HubError, match="the cache of Hugging Face lacks transformer/model.safetensors; unset HF_HUB_OFFLINE"):
        pull(f"hf:{NAME}", tmp_path / "out")
    assert not (tmp_path / "out").exists()
