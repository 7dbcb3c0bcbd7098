"""--app_name=latent_diffusion: the articles' command lines over the reference checkpoint."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing import cli
from danqing.easynlp_cli import latent
from PIL import Image

SMALL = "n_samples=2 scale=5.0 H=64 W=64 ddim_steps=2"


def words(work: Path, checkpoint: Path, parameters: str = SMALL, *more: str) -> list[str]:
    """The predict command of the article, but for the paths and a smaller picture."""
    return ["easynlp", "--mode=predict", "--worker_gpu=0", f"--tables={work}/test.tsv", "--input_schema=idx:str:1,text:str:1",
            "--output_schema=idx,text,gen_imgbase64", f"--outputs={work}/out.tsv", "--first_sequence=text",
            f"--checkpoint_dir={checkpoint}", "--random_seed=42", "--logging_steps=100", "--save_checkpoint_steps=500",
            "--sequence_length=32", "--micro_batch_size=16", "--app_name=latent_diffusion",
            f"--user_defined_parameters={parameters}", *more]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "test.tsv").write_text("a\t红色的圆形\nb\tＡ猫\nc\t狗\n", encoding="utf-8")
    return tmp_path


def pixels(cell: str | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(cell)))).astype(int)


def rows_of(work: Path) -> list[list[str]]:
    return [line.split("\t") for line in (work / "out.tsv").read_text("utf-8").splitlines()]


def test_the_pictures_of_the_original(case: Path, checkpoint: Path, inputs: dict[str, Any], work: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing.pipelines import latent_rows

    expected = json.loads((case / "expected" / "predictor_rows.json").read_text())
    (work / "test.tsv").write_text(f"7\t{inputs['prompt']}\n", encoding="utf-8")
    drawn = latent_rows.predictor_rows
    # the original's noise cannot be had from a seed
    monkeypatch.setattr(latent_rows, "predictor_rows", lambda *args, seed, **more: drawn(
        *args, latents=inputs["x_T"], **more))
    assert cli.main(words(work, checkpoint, SMALL.replace("steps=2", "steps=10"))) == 0
    found = rows_of(work)
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:2] == [theirs["idx"], theirs["text"]]
        difference = np.abs(pixels(ours[2]) - pixels(theirs["gen_imgbase64"]))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def test_every_image_has_a_row_and_a_file(checkpoint: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(work, checkpoint, f"{SMALL} n_iter=2 write_image=True image_prefix={work}/pictures/", "--append_cols=text")
    assert cli.main(line) == 0
    assert "Wrote" in (printed := capsys.readouterr()).out and "12 rows" in printed.out
    rows = rows_of(work)
    assert [row[0] for row in rows] == [idx for idx in "abc" for _ in range(4)]
    assert all(row[1] == row[3] for row in rows) and rows[4][1] == "Ａ猫"
    assert len({row[2] for row in rows}) == 12
    # a folder for each iteration, as the original counted them
    assert sorted(path.name for path in (work / "pictures").iterdir()) == list("012345")
    for number, row in enumerate(rows):
        folder = work / f"pictures/{number // 2}"
        assert (folder / f"{number % 2:04}.png").read_bytes() == base64.b64decode(row[2])
        assert (folder / "prompt.txt").read_text("utf-8") == f"{row[1]}\n"
    # the second text's pictures do not depend on the texts beside it
    (work / "out.tsv").unlink()
    assert cli.main([*line, "--micro_batch_size=1", "--force"]) == 0
    assert rows_of(work) == rows
    (work / "out.tsv").unlink()
    assert cli.main(line) == 1
    assert f"{work}/pictures/0, where the first pictures would go, exists" in capsys.readouterr().err


def test_a_run_goes_on_in_the_middle_of_a_text(checkpoint: Path, work: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    line = words(work, checkpoint, f"{SMALL} write_image=1 image_prefix={work}/p", "--micro_batch_size=1")
    assert cli.main(line) == 0
    whole, pictures = (work / "out.tsv").read_bytes(), {path: path.read_bytes() for path in work.glob("p*/*")}
    assert len(pictures) == 9
    (work / "out.tsv").unlink()
    draw = latent.LatentPredictor.rows

    def stops(self: Any, records: Any, first: int) -> Any:
        if first == 2:
            raise KeyboardInterrupt
        return draw(self, records, first)

    monkeypatch.setattr(latent.LatentPredictor, "rows", stops)
    assert cli.main([*line, "--force"]) == 130
    monkeypatch.undo()
    partial = work / "out.tsv.partial"
    partial.write_bytes(b"".join(partial.read_bytes().splitlines(keepends=True)[:3]))
    (work / "p1/0001.png").write_bytes(b"")
    assert cli.main([*line, "--resume"]) == 0
    assert "Going on after 3 of 6 rows." in capsys.readouterr().err
    assert (work / "out.tsv").read_bytes() == whole
    assert {path: path.read_bytes() for path in work.glob("p*/*")} == pictures


@pytest.mark.parametrize("parameters, sentence", [
    ("n_samples=0", "n_samples is at least 1, not 0"), ("ddim_eta=0.5", "only 0 can be sampled"),
    ("n_sample=2", "no 'n_sample'; the nearest is 'n_samples'"), ("do_sr=perhaps", "do_sr is True or False"),
    ("H=60", "no multiple of 8"), ("max_generated_num=2", "the key here is 'n_samples'"),
])
def test_what_cannot_be_drawn(parameters: str, sentence: str, checkpoint: Path, work: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(work, checkpoint, parameters)) == 1
    assert sentence in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["test.tsv"]


def test_models_of_the_other_app(checkpoint: Path, painter_checkpoint: Path, work: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(work, painter_checkpoint)) == 1
    assert "is no latent diffusion of EasyNLP" in capsys.readouterr().err
    line = [word for word in words(work, checkpoint, "") if not word.startswith("--app_name")]
    assert cli.main(line) == 1
    assert "is no painter" in capsys.readouterr().err


def test_super_resolution(checkpoint: Path, work: Path) -> None:
    (work / "test.tsv").write_text("1\t猫\n", encoding="utf-8")
    assert cli.main(words(work, checkpoint, f"{SMALL} do_sr=True")) == 0
    assert [pixels(row[2]).shape for row in rows_of(work)] == [(256, 256, 3)] * 2
