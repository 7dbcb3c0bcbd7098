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
    again = mirror(f"{origin}:{SOURCE}@v1.0.0", f"{goal}:{TARGET}", tag="v1.0.0")
    assert again.changed == () and len(double.repo(goal, TARGET).messages) == 2


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


@both_ways
def test_text_of_some_megabytes(double: Double, source: Path, origin: str, goal: str) -> None:
    """One hub keeps it in git, and takes it with the commit, when the file here is gone."""
    (source / "danqing.json").unlink()
    (source / "tokenizer/tokenizer.json").write_text("{}" + " " * (3 << 20))
    double.fill(origin, SOURCE, source, large=10_000_000)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    assert double.content(goal, TARGET)["tokenizer/tokenizer.json"] == (source / "tokenizer/tokenizer.json").read_bytes()


@both_ways
def test_a_tag_that_was_missing(double: Double, source: Path, origin: str, goal: str) -> None:
    double.fill(origin, SOURCE, source)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", tag="v1")
    assert "model_index.json" in double.content(goal, TARGET, "v1")
    (source / "NOTICE").write_text("new")
    double.fill(origin, SOURCE, source)
    with pytest.raises(RequestError, match="it names other files"):
        mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", tag="v1")
    for tag in ("v 1", ".."):
        with pytest.raises(RequestError, match="no name for a revision"):
            mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", tag=tag, to="diffusers")


@both_ways
def test_what_the_source_has_no_longer(double: Double, source: Path, painter_copy: Path, origin: str, goal: str) -> None:
    """The first mirror laid down a diffusers folder, the second a legacy one: never both."""
    double.fill(origin, SOURCE, source)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    double.fill(origin, SOURCE, painter_copy)
    done = mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}")
    there = double.content(goal, TARGET)
    assert "pytorch_model.bin" in there and "model_index.json" not in there and "model_index.json" in done.removed


@both_ways
def test_the_answer_to_a_commit_is_lost(double: Double, source: Path, origin: str, goal: str, impatient: list[float]) -> None:
    double.fill(origin, SOURCE, source)
    double.fail("/commit/", "drop", 1)
    mirror(f"{origin}:{SOURCE}", f"{goal}:{TARGET}", tag="v1")
    assert "model_index.json" in double.content(goal, TARGET, "v1")


def test_private_onto_public(double: Double, source: Path) -> None:
    double.fill("hf", SOURCE, source)
    mirror(f"hf:{SOURCE}", f"ms:{TARGET}")
    with pytest.raises(RequestError, match="public"):
        mirror(f"hf:{SOURCE}", f"ms:{TARGET}", private=True)


def test_cards_in_both_languages(double: Double, painter_folder: Path, tmp_path: Path) -> None:
    from danqing_pack.cards import write_card

    folder = Path(shutil.copytree(painter_folder, tmp_path / "both"))
    for language, name in (("en", "README.md"), ("zh", "README.zh.md")):
        write_card(folder, folder / name, language=language, repository=f"ms:{SOURCE}")
    double.fill("ms", SOURCE, folder)
    mirror(f"ms:{SOURCE}", f"hf:{TARGET}")
    for name in ("README.md", "README.zh.md"):
        text = double.content("hf", TARGET)[name].decode()
        assert f'danqing.load("hf:{TARGET}")' in text and f"ms:{SOURCE}" not in text


CARDS = {"with a picture": CARD + "\n![a cat](cat.png)\n", "without front matter": "# A small painter\n",
         "with a licence that no hub knows": "---\nlicense: mine-alone\n---\n\n# A small painter\n"}


@pytest.mark.parametrize("card", list(CARDS))
def test_cards_of_others_on_the_way(double: Double, painter_copy: Path, card: str) -> None:
    (painter_copy / "README.md").write_text(CARDS[card], encoding="utf-8")
    (painter_copy / "cat.png").write_bytes(b"a picture")
    double.fill("ms", SOURCE, painter_copy)
    mirror(f"ms:{SOURCE}", f"hf:{TARGET}", to="diffusers")
    there = double.content("hf", TARGET)
    assert there["cat.png"] == b"a picture" and there["README.md"].startswith(b"---\n")
    assert card.endswith("no hub knows") or b"A small painter" in there["README.md"]


def test_a_card_of_ours_tells_of_what_was_converted(double: Double, painter_copy: Path) -> None:
    from danqing_pack.cards import write_card

    write_card(painter_copy)
    double.fill("ms", SOURCE, painter_copy)
    mirror(f"ms:{SOURCE}", f"hf:{TARGET}", to="diffusers")
    text = double.content("hf", TARGET)["README.md"].decode()
    assert "library_name: diffusers" in text and "in the diffusers layout" in text and f"hf:{TARGET}" in text
    assert "transformer/model.safetensors" in text


def test_a_layout_that_there_is_not(double: Double) -> None:
    with pytest.raises(RequestError, match="no layout nothing; choose one of"):
        mirror(f"hf:{SOURCE}", f"ms:{TARGET}", to="nothing")
    assert double.requests == []


def test_onto_itself(double: Double) -> None:
    with pytest.raises(RequestError, match="the same repository"):
        mirror(f"hf:{SOURCE}", f"hf:{SOURCE}@dev")
