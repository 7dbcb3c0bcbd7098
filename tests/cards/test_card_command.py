"""danqing card: both languages, and example pictures that are drawn once and belong to their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing import cli
from danqing.commands import card as command
from danqing_pack import cards, check
from danqing_pack.card_facts import free_names
from PIL import Image


def test_both_languages_point_to_each_other(painter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["card", str(painter), "--no-examples", "--language", "both", "--name", "T恤"]) == 0
    english, chinese = ((painter / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    assert "English | [中文](README.zh.md)" in english and "[English](README.md) | 中文" in chinese
    assert "\n# T恤\n" in english and "\n# T恤\n" in chinese
    assert capsys.readouterr().out == f"Wrote {painter}/README.md.\nWrote {painter}/README.zh.md.\n"
    assert check(painter) == [], "a card does not belong to the checkpoint"
    assert cli.main(["card", str(painter), "--no-examples"]) == 0
    assert (painter / "README.md").read_text(encoding="utf-8") == english


def test_both_languages_need_two_names(painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["card", str(painter), "--no-examples", "--language", "both", "--out", str(tmp_path / "card.md")]) == 1
    assert "README.md" in capsys.readouterr().err and not (tmp_path / "card.md").exists()


def test_a_hand_changed_part_is_told_on_stderr(painter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards.write_card(painter)
    place = painter / "README.md"
    place.write_text(place.read_text(encoding="utf-8").replace("in fp32.", "in full."), encoding="utf-8")
    assert cli.main(["card", str(painter), "--no-examples", "--license", "mit"]) == 0
    said = capsys.readouterr().err
    assert "summary was changed by hand" in said
    text = place.read_text(encoding="utf-8")
    start, end = text.index("<!-- danqing:begin summary "), text.index("<!-- danqing:end summary -->")
    assert "from <!-- danqing:begin summary ... --> to <!-- danqing:end summary -->" in said and 'the word "summary"' in said
    again = (text[:start] + text[end + len("<!-- danqing:end summary -->"):]).replace('"summary", ', "")
    place.write_text(again, encoding="utf-8")           # as the sentence says
    cards.write_card(painter)
    assert "in fp32." in place.read_text(encoding="utf-8")
    place.write_text(text, encoding="utf-8")
    assert "in full." in place.read_text(encoding="utf-8") and "license: mit" in place.read_text(encoding="utf-8")


def test_pictures_are_drawn_when_there_are_none_and_when_asked(painter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    def draw(args: Any, facts: Any, prompts: list[str], folder: Path) -> list[str]:
        from danqing.images import save_png
        from danqing_pack.card_facts import fingerprint

        drawn.append(list(prompts))
        words = {"prompt": prompts[0], "seed": args.seed, "weights": fingerprint(facts.files), "dtype": "fp32", "device": "cpu"}
        save_png(Image.new("RGB", (8, 8)), folder / "example-1.png", words)
        return ["example-1.png"]

    monkeypatch.setattr(command, "draw", draw)
    for words in ([], [], ["--prompts", "连衣裙", "--seed", "9"], []):
        assert cli.main(["card", str(painter), *words]) == 0
    assert drawn == [["宽松T恤", "山水画，远山和湖"], ["连衣裙"]]
    text = (painter / "README.md").read_text(encoding="utf-8")
    assert "| `example-1.png` | 连衣裙 | 9 |" in text and "with fp32 on cpu" in text


def test_somebody_elses_picture_is_not_drawn_over(painter: Path) -> None:
    Image.new("RGB", (8, 8)).save(painter / "example-2.png")
    assert free_names(painter, 3) == ["example-1.png", "example-3.png", "example-4.png"]


@pytest.mark.slow
def test_the_pictures_are_those_of_generate(painter: Path, tmp_path: Path) -> None:
    import numpy as np

    assert cli.main(["card", str(painter), "--prompts", "宽松T恤", "山水", "--seed", "5", "--device", "cpu"]) == 0
    assert cli.main(["generate", "山水", "-m", str(painter), "--seed", "6", "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    [generated] = (tmp_path / "out").glob("*.png")
    pictures = [np.asarray(Image.open(place)).astype(int) for place in (painter / "example-2.png", generated)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert cli.main(["card", str(painter), "--prompts", "猫", "--seed", "-1", "--device", "cpu"]) == 1
    assert cli.main(["card", str(painter), "--prompts", "猫", "--device", "cpu"]) == 0
    assert not (painter / "example-2.png").exists() and check(painter) == []


@pytest.mark.slow
def test_a_picture_that_a_person_drew_stays(painter: Path) -> None:
    """`danqing generate` writes prompt and seed too; its pictures are shown, and never taken away."""
    from danqing.images import save_png

    save_png(Image.new("RGB", (8, 8)), painter / "example-7.png", {"prompt": "我的画", "seed": 3})
    for words in (["--prompts", "连衣裙", "山水"], ["--prompts", "宽松T恤"]):
        assert cli.main(["card", str(painter), *words, "--device", "cpu"]) == 0
        assert (painter / "example-7.png").is_file()
    assert "我的画" in (painter / "README.md").read_text(encoding="utf-8")
    assert not (painter / "example-2.png").exists(), "what the first call drew is gone"
