"""From hub to hub: the same bytes, the card in the other hub's spelling, one commit, and little room needed here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from danqing_pack.errors import HubError, RequestError
from danqing_pack.mirroring import mirror

SOURCE, TARGET = "a/painter", "c/painter"
CARD = "---\nlicense: apache-2.0\n---\n\n# A small painter\n"
Double = Any
both_ways = pytest.mark.parametrize(("origin", "goal"), [("hf", "ms"), ("ms", "hf")])


@pytest.fixture
def source(painter_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(painter_folder, tmp_path / "source"))
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@both_ways
def test_every_byte_and_the_card(double: Double, source: Path, origin: str, goal: str) -> None:
    double.fill(origin, SOURCE, source, tag="v1.0.0")
    done = mirror(f"{origin}:{SOURCE}@v1.0.0", f"{goal}:{TARGET}", tag="v1.0.0")
    there = double.content(goal, TARGET)
    for name, data in bytes_of(source).items():
        assert name == "README.md" or there[name] == data, name
    assert b"A small painter" in there["README.md"]
    assert (b"Apache License 2.0" if goal == "ms" else b"apache-2.0") in there["README.md"]
    assert double.content(goal, TARGET, "v1.0.0") == there
    assert len(double.repo(goal, TARGET).messages) == 2 and done.address in done.describe()
    received = double.received
    assert mirror(f"{origin}:{SOURCE}@v1.0.0", f"{goal}:{TARGET}").changed == () or double.received == received


@both_ways
def test_pickles_become_safetensors(double: Double, painter_checkpoint: Path, painter_folder: Path, origin: str, goal: str) -> None:
    double.fill(origin, SOURCE, painter_checkpoint)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", to="diffusers")
    there = double.content(goal, TARGET)
    assert "pytorch_model.bin" not in there
    for name in ("transformer/model.safetensors", "vqvae/diffusion_pytorch_model.safetensors", "danqing.json"):
        assert there[name] == (painter_folder / name).read_bytes()


def test_a_foreign_model_gets_a_configuration(double: Double, painter_checkpoint: Path) -> None:
    double.fill("hf", SOURCE, painter_checkpoint)
    mirror(f"hf:{SOURCE}", f"ms:{TARGET}")
    assert json.loads(double.content("ms", TARGET)["configuration.json"])["pipeline"] == {"type": "danqing"}


@both_ways
def test_a_dry_run(double: Double, source: Path, origin: str, goal: str) -> None:
    double.fill(origin, SOURCE, source)
    done = mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", dry_run=True)
    assert {file.name for file in done.changed} == set(bytes_of(source)) and (goal, TARGET) not in double.repos
    assert double.count("transformer/model.safetensors") == 0


@both_ways
def test_bytes_that_are_not_the_listed_ones(double: Double, source: Path, origin: str, goal: str, impatient: list[float]) -> None:
    double.fill(origin, SOURCE, source)
    double.fail("model.safetensors", "corrupt", times=99)
    with pytest.raises(HubError, match="are not those"):
        mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    assert "model_index.json" not in double.content(goal, TARGET)


@both_ways
def test_no_more_than_two_files_lie_here(double: Double, source: Path, origin: str, goal: str, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (source / "danqing.json").unlink()
    for number in range(6):
        (source / f"more{number}.bin").write_bytes(bytes([number]) * (2 << 20))
    double.fill(origin, SOURCE, source)
    seen = []
    real = double.store

    def store(*words: Any) -> None:
        seen.append(sum(path.stat().st_size for path in scratch.rglob("*.bin")))
        real(*words)

    monkeypatch.setattr(double, "store", store)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    assert 0 < max(seen) <= 4 << 20 and list(scratch.iterdir()) == []


def test_onto_itself(double: Double) -> None:
    with pytest.raises(RequestError, match="the same repository"):
        mirror(f"hf:{SOURCE}", f"hf:{SOURCE}@dev")
