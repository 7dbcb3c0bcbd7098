"""The options of ``danqing generate`` for diffusion models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing.adapters import options
from danqing.cli import main
from danqing.orders import SharedPipeline
from PIL import Image

Run = Callable[..., list[Path]]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photograph of something with edges."""
    pixels = np.zeros((72, 80, 3), np.uint8)
    pixels[20:50, 10:40] = (200, 40, 90)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def generate(reference: Path, tmp_path: Path) -> Run:
    def run(*arguments: object, prompts: tuple[str, ...] = ("一只小奶猫",), code: int = 0) -> list[Path]:
        out = tmp_path / "out"
        before = set(out.glob("0*.png"))
        words = ["generate", *prompts, "-m", reference / "pipeline", "-o", out, "--seed", "5", "--device", "cpu",
                 "--steps", "2", *arguments]
        assert main([str(word) for word in words]) == code
        return sorted(path for path in set(out.glob("0*.png")) - before if "sheet" not in path.name)
    return run


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)).astype(int)


def test_text_to_image_with_everything(generate: Run, reference: Path) -> None:
    (plain,) = generate()
    (path,) = generate("--negative-prompt", "模糊", "--guidance", 5, "--scheduler", "unipc", "--width", 64, "--height", 96,
                       "--lora", f"{reference / 'lora_attn_procs'}:0.5", "--embedding", reference / "textual_inversion",
                       prompts=("一只<小奶猫>",))
    image = Image.open(path)
    assert image.size == (64, 96) and Image.open(plain).size == (64, 64)
    assert image.text["prompt"] == "一只<小奶猫>" and image.text["scheduler"] == "unipc"  # type: ignore[attr-defined]
    assert json.loads(image.text["lora"]) == ["lora_attn_procs:0.5"]  # type: ignore[attr-defined]
    assert str(reference) not in json.dumps(image.text)  # type: ignore[attr-defined]


def test_image_to_image_follows_the_image(generate: Run, picture: Path) -> None:
    (faint,), (strong,) = (generate("--image", picture, "--strength", strength) for strength in (0.5, 1.0))
    assert Image.open(faint).size == (80, 72)
    assert np.abs(pixels(faint) - pixels(strong)).mean() > 1


def test_inpainting_takes_a_mask_of_another_size(generate: Run, picture: Path, mask: Path) -> None:
    (path,) = generate("--image", picture, "--mask", mask, "--strength", "0.8")
    assert Image.open(path).size == (80, 72)


@pytest.mark.parametrize("extra", [[], ["--control-image-from", "canny"]])
def test_a_controlnet(generate: Run, reference: Path, picture: Path, extra: list[str]) -> None:
    (path,) = generate("--controlnet", reference / "controlnet", "--control-image", picture, *extra)
    (with_image,) = generate("--controlnet", reference / "controlnet", "--control-image", picture, "--image", picture, *extra)
    assert Image.open(path).size == (64, 64) and Image.open(with_image).size == (80, 72)


def test_an_image_is_the_same_alone_and_among_others(generate: Run, picture: Path, mask: Path) -> None:
    for arguments in ([], ["--image", picture], ["--image", picture, "--mask", mask]):
        together = generate(*arguments, "--num-images", 2)
        alone = [generate(*arguments, "--seed", seed)[0] for seed in (5, 6)]
        assert all(np.abs(pixels(one) - pixels(other)).max() <= 1 for one, other in zip(together, alone, strict=True))


def test_fast_says_what_it_picked_for_a_small_model(generate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    generate("--fast")
    assert capsys.readouterr().err == "--fast changes nothing here: nothing it knows makes this model faster on this device.\n"


def test_a_long_prompt_is_quoted_once(generate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    generate(prompts=("猫" * 30 + "狗狗",))
    assert capsys.readouterr().err == "The prompt is longer than the 32 tokens that this model reads; left out: “狗狗”.\n"


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--mask", "m.png"], "--mask needs --image"),
    (["--strength", "0.5"], "--strength needs --image"),
    (["--control-image", "m.png"], "--control-image needs --controlnet"),
    (["--controlnet", "net"], "--controlnet needs --control-image"),
    (["--width", "100"], "--width 100 is no multiple of 8; the nearest is 96"),
    (["--height", "0"], "no multiple of 8"),
    (["--steps", "0"], "--steps 0 draws nothing"),
    (["--image", "absent.png"], "There is no file absent.png"),
    (["--image", "absent.png", "--strength", "1.5"], "--strength 1.5 is out of range"),
    (["--lora", "/absent.bin"], "There is nothing at /absent.bin"),
    (["--embedding", "/absent.bin"], "There is nothing at /absent.bin"),
])
def test_one_sentence_for_bad_input(
    generate: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    assert generate(*arguments, code=1) == []
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("danqing: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_painter_takes_none_of_it(painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "猫", "-m", str(painter_checkpoint), "-o", str(tmp_path / "out"), "--steps", "3", "--fast"]) == 1
    assert "takes no --steps, --fast; only diffusion models do" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "wanted"), [
    ("a/b", ("a/b", 1.0)), ("a/b:0.8", ("a/b", 0.8)), ("hf:org/name", ("hf:org/name", 1.0)),
    ("hf:org/name:0.5", ("hf:org/name", 0.5)), ("a:-1", ("a", -1.0)), (":0.5", (":0.5", 1.0)),
])
def test_a_lora_and_its_scale(text: str, wanted: tuple[str, float]) -> None:
    assert options.split_lora(text) == wanted


def test_a_keyword_that_stock_pipelines_would_pass_over(pipe: Any) -> None:
    with pytest.raises(Exception, match="takes no keyword num_steps"):
        SharedPipeline(pipe, {}).draw("猫", num_steps=3)


def test_every_option_is_recorded_or_loaded() -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    given = {action.dest for action in parser._actions} - {"help"}
    assert given == {*options.KEYWORDS, *options.IMAGES, "scheduler", "lora", "embedding", "controlnet", "fast"}
