"""The demo: the whole way with the model inside, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from danqing import cli


@pytest.mark.slow
def test_the_demo_walks_the_whole_way_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from danqing.mini import DEMO_PROMPTS

    out = tmp_path / "out"
    (out / "mine.txt").parent.mkdir()
    (out / "mine.txt").write_text("mine")
    for _ in range(2):
        assert cli.main(["demo", "--output", str(out)]) == 0
        said = capsys.readouterr().out
        for step in ("$ danqing detect", "$ danqing convert", "$ danqing check", "$ danqing pack", "$ danqing unpack",
                     f"{len(DEMO_PROMPTS)} pictures, drawn from the folder and from the bundle: every pixel is equal",
                     "modelscope.pipelines", "the first picture again"):
            assert step in said
    assert len(list((out / "pictures").glob("*.png"))) == len(DEMO_PROMPTS) + 1
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["painter", "model.tar.gz", "pictures"])
def test_a_demo_takes_nothing_away_that_it_did_not_make(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"danqing: {tmp_path} holds {name}, which no demo made; name another folder with -o.\n"
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_demo_in_a_file_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path / "file")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_generate_without_a_model_uses_the_one_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert cli.main(["generate", "红色的圆形", "-o", str(tmp_path), "--seed", "3"]) == 0
    assert "Wrote 1 picture " in capsys.readouterr().out
    picture = Image.open(next(tmp_path.glob("*.png")))
    assert picture.size == (64, 64)
    assert (picture.text["prompt"], picture.text["seed"], picture.text["family"]) == ("红色的圆形", "3", "painter")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/danqing"])
def test_a_place_that_takes_no_pictures_is_refused_before_drawing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "红色的圆形", "-o", place]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_pictures_are_never_written_over_and_seeds_count_on(tmp_path: Path) -> None:
    from PIL import Image

    for _ in range(2):
        assert cli.main(["generate", "红色的圆形", "蓝色的星星", "-o", str(tmp_path), "--seed", "3", "--num-images", "2"]) == 0
    pictures = sorted(path for path in tmp_path.glob("*.png") if "sheet" not in path.name)
    assert len(pictures) == 8 and len(list(tmp_path.glob("*-sheet.png"))) == 2
    assert [Image.open(path).text["seed"] for path in pictures] == ["3", "4", "5", "6"] * 2
    first, again = (Image.open(path).tobytes() for path in (pictures[0], pictures[4]))
    assert first == again
    assert cli.main(["generate", "蓝色的星星", "-o", str(tmp_path / "alone"), "--seed", "5"]) == 0
    assert Image.open(next((tmp_path / "alone").glob("*.png"))).tobytes() == Image.open(pictures[2]).tobytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-images", "0"], "--num-images 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--temperature", "0"], "temperature"),
        (["--top-k", "100000"], "top_k"),
        (["--steps", "20"], "steps"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_no_file(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", "猫", "-o", str(tmp_path / "out"), *words]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))
