"""Pulling: what is fetched, what is verified, and what several pulls at once do."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import manifests
from danqing_pack.errors import HubError, RequestError, UnsafeError
from danqing_pack.pulling import pull

NAME = "org/painter"
Double = Any


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def downloads(double: Double, hub: str) -> int:
    """How many files were asked for."""
    mark = "GET /org/painter/resolve/" if hub == "hf" else "GET /api/v1/models/org/painter/repo?"
    return double.count(mark)  # type: ignore[no-any-return]


def test_a_whole_model(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder, tag="v1.0.0")
    done = pull(f"{hub}:{NAME}@v1.0.0", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(painter_folder)
    assert downloads(double, hub) == len(contents(painter_folder))
    assert "all digests equal those of the hub and danqing.json" in done.describe()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_is_completed(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    out = Path(shutil.copytree(painter_folder, tmp_path / "out"))
    (out / "transformer/model.safetensors").unlink()
    (out / "mine.txt").write_text("stays")
    done = pull(f"{hub}:{NAME}", out)
    assert done.new == ("transformer/model.safetensors",) and downloads(double, hub) == 1
    assert contents(out) == {**contents(painter_folder), "mine.txt": b"stays"}
    assert "Nothing to pull" in pull(f"{hub}:{NAME}", out).describe() and downloads(double, hub) == 1


def test_other_files_are_not_overwritten(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    out = Path(shutil.copytree(painter_folder, tmp_path / "out"))
    (out / "model_index.json").write_text("mine")
    with pytest.raises(RequestError, match="holds files that differ from those on the hub: model_index.json"):
        pull(f"{hub}:{NAME}", out)
    assert (out / "model_index.json").read_text() == "mine"
    pull(f"{hub}:{NAME}", out, force=True)
    assert contents(out) == contents(painter_folder)


def test_a_foreign_repository(double: Double, hub: str, painter_checkpoint: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_checkpoint)
    done = pull(f"{hub}:{NAME}", tmp_path / "out")
    assert done.listed == 0 and contents(tmp_path / "out") == contents(painter_checkpoint)


def test_include_and_exclude(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    pull(f"{hub}:{NAME}", tmp_path / "out", include=["*.json"], exclude=["legacy/"])
    names = contents(tmp_path / "out")
    assert names and all(name.endswith(".json") and not name.startswith("legacy/") for name in names)


def test_names_with_wildcards_in_them(double: Double, hub: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a[1].json", "a1.json", "b*.json"):
        (folder / name).write_text(name)
    double.fill(hub, NAME, folder)
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_a_manifest_that_lists_other_files(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(painter_folder, tmp_path / "changed"))
    (folder / "model_index.json").write_text((folder / "model_index.json").read_text() + "\n")
    double.fill(hub, NAME, folder)
    with pytest.raises(HubError, match="model_index.json differ from what its danqing.json lists"):
        pull(f"{hub}:{NAME}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_leave_the_folder(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    repo = double.fill(hub, NAME, painter_folder)
    files = next(iter(repo.commits.values()))
    files["../outside"] = next(iter(files.values()))
    with pytest.raises(UnsafeError, match="outside"):
        pull(f"{hub}:{NAME}", tmp_path / "out")
    assert not (tmp_path / "out").exists() and downloads(double, hub) == 0


def test_what_an_interrupted_pull_brought_is_kept(double: Double, hub: str, painter_folder: Path, tmp_path: Path,
                                                  impatient: list[float]) -> None:
    double.fill(hub, NAME, painter_folder)
    mark = "GET /org/painter/resolve" if hub == "hf" else "/repo?"
    double.fail(f"{mark}", "status", 503, times=0)
    double.failures[0].mark, double.failures[0].times = "transformer/model.safetensors", 99
    with pytest.raises(HubError, match="what arrived whole is kept and the same command goes on"):
        pull(f"{hub}:{NAME}", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    double.failures.clear()
    before = downloads(double, hub)
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(painter_folder)
    assert downloads(double, hub) - before < len(contents(painter_folder))


def test_modelscope_goes_on_within_a_file(double: Double, painter_folder: Path, tmp_path: Path, impatient: list[float]) -> None:
    double.fill("ms", NAME, painter_folder)
    double.fail("vqvae/diffusion_pytorch_model.safetensors", "drop", 100_000)
    pull(f"ms:{NAME}", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(painter_folder) and double.ranges


@pytest.mark.parametrize("same", [True, False], ids=["one folder", "two folders"])
def test_two_pulls_share_one_download(double: Double, hub: str, painter_folder: Path, tmp_path: Path, same: bool) -> None:
    double.fill(hub, NAME, painter_folder)
    double.fail("model.safetensors", "slow", 300, times=4)
    said: list[str] = []
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            pull(f"{hub}:{NAME}", tmp_path / ("out" if same else f"out{number}"), say=said.append)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for out in ["out"] if same else ["out0", "out1", "out2"]:
        assert contents(tmp_path / out) == contents(painter_folder)
    assert downloads(double, hub) == len(contents(painter_folder))
    assert any("Waiting for another pull" in line for line in said)


def test_a_changed_copy_of_the_last_pull_is_not_taken(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    pull(f"{hub}:{NAME}", tmp_path / "one")
    weights = tmp_path / "one/transformer/model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    pull(f"{hub}:{NAME}", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(painter_folder)


def test_a_place_that_cannot_be_written(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is no folder"):
        pull(f"{hub}:{NAME}", tmp_path / "file")
    with pytest.raises(HubError, match="was not written"):
        pull(f"{hub}:{NAME}", tmp_path / "file" / "below")


def test_the_manifest_of_an_existing_folder_counts(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    double.fill(hub, NAME, painter_folder)
    out = tmp_path / "out"
    pull(f"{hub}:{NAME}", out)
    listed = json.loads((out / manifests.NAME).read_text())["files"]
    (out / "config.json").unlink()
    assert pull(f"{hub}:{NAME}", out).listed == len(listed)
    assert os.listdir(tmp_path).count("out") == 1
