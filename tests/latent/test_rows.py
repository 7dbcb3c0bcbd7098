"""EasyNLP's rows, ModelScope's tasks and the command line over a chinese-ldm."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import danqing
import numpy as np
import pytest
import torch
from danqing.cli import main
from danqing.pipelines.latent_rows import predictor_rows
from danqing_pack.errors import DanqingError, RequestError
from PIL import Image

State = dict[str, torch.Tensor]
SMALL = {"n_samples": 2, "scale": 5.0, "H": 64, "W": 64, "ddim_steps": 10}


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(row["gen_imgbase64"])))).astype(int)


@pytest.fixture(scope="module")
def rows(folder: Path) -> Any:
    made = danqing.pipeline("chinese-ldm-general", folder, device="cpu", pipeline_params=SMALL)
    made.pipe.set_progress_bar_config(disable=True)
    return made


def test_the_predictors_rows(rows: Any, case: Path, inputs: dict[str, Any]) -> None:
    expected = json.loads((case / "expected" / "predictor_rows.json").read_text())
    found = predictor_rows(rows.pipe, [{"idx": "7", "text": inputs["prompt"]}], latents=inputs["x_T"], **SMALL)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["idx"], ours["text"], type(ours["gen_imgbase64"]).__name__) == (
            theirs["idx"], theirs["text"], theirs["gen_imgbase64_type"])
        difference = np.abs(pixels(ours) - pixels(theirs))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def test_pixels_are_truncated(rows: Any, inputs: dict[str, Any]) -> None:
    for index, row in enumerate(rows(inputs["prompt"], latents=inputs["x_T"])):
        exact = row["image_tensor"][index].permute(1, 2, 0).numpy() * 255
        assert np.array_equal(pixels(row), exact.astype(np.uint8))


def test_one_row_for_each_image(rows: Any) -> None:
    found = rows(["猫", "狗"], n_samples=2, n_iter=2, ddim_steps=1, seed=3)
    assert [(row["idx"], row["text"]) for row in found] == [(0, "猫")] * 4 + [(1, "狗")] * 4
    assert all(row["image_tensor"].shape == (2, 3, 64, 64) for row in found)
    first, second, third = (row["image_tensor"] for row in found[:3])
    assert first is second and third is not second


def test_an_image_draws_alone_what_it_draws_among_others(rows: Any) -> None:
    among = rows(["猫", "狗"], ddim_steps=2, seed=3)[3]
    alone = rows("狗", ddim_steps=2, seed=6, n_samples=1)[0]
    assert np.abs(pixels(among) - pixels(alone)).max() <= 1


def test_the_upscaled_rows(rows: Any, inputs: dict[str, Any], expected: Callable[[str], State]) -> None:
    found = rows(inputs["prompt"], latents=inputs["x_T"], do_sr=True)
    assert pixels(found[0]).shape == (256, 256, 3)
    torch.testing.assert_close(found[0]["image_tensor"][:1, :, :64, :64],
                               expected("sample_super_res_crop")["images_super_res_crop"], atol=1e-4, rtol=0)


def test_the_words_of_the_command_line(rows: Any, inputs: dict[str, Any]) -> None:
    words = {"n_samples": "2", "scale": "5.0", "H": "64", "W": "64", "ddim_steps": "2", "do_sr": "False",
             "ddim_eta": "0"}
    numbers = {**SMALL, "ddim_steps": 2}
    assert rows("猫", latents=inputs["x_T"], **words)[0]["gen_imgbase64"] == rows(
        "猫", latents=inputs["x_T"], **numbers)[0]["gen_imgbase64"]


@pytest.mark.parametrize(("wrong", "words"), [
    ({"ddim_eta": 0.5}, "only 0 can be sampled"), ({"H": 60}, "no multiple of 8"), ({"n_samples": 0}, "at least 1"),
    ({"scale": 0.5}, "below 1"), ({"ddim_steps": "many"}, "whole number"), ({"do_sr": "perhaps"}, "True or False"),
    ({"colour": 1}, "no parameter colour"), ({"ddim_steps": 300}, "300 steps would reach"),
    ({"seed": 1, "generator": torch.Generator()}, "exclude each other"), ({"n_iter": 1.5}, "whole number"),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else None)
def test_what_cannot_be_drawn(wrong: dict[str, Any], words: str, rows: Any) -> None:
    with pytest.raises(RequestError, match=words):
        rows("猫", **wrong)


# ---------------------------------------------------------------- upscaling elsewhere

def test_modelscope(folder: Path, checkpoint: Path, rows: Any, inputs: dict[str, Any]) -> None:
    from modelscope.pipelines import pipeline

    call = {"height": 64, "width": 64, "num_inference_steps": 10, "guidance_scale": 5.0, "latents": inputs["x_T"][:1]}
    images = pipeline("text-to-image-synthesis", str(folder), device="cpu")
    plain = images({"text": inputs["prompt"], **call})["output_imgs"]
    large = images({"text": inputs["prompt"], "upscale": True, **call})["output_imgs"]
    assert [each.shape for each in (*plain, *large)] == [(64, 64, 3), (256, 256, 3)]
    expected = rows(inputs["prompt"], latents=inputs["x_T"][:1], n_samples=1, do_sr=True)[0]
    assert np.abs(large[0][..., ::-1].astype(int) - pixels(expected)).max() <= 1

    listed = pipeline("text2image_generation", str(checkpoint), pipeline_name="danqing", device="cpu")
    for size, upscale in ((64, False), (256, True)):
        (row,) = listed([inputs["prompt"]], upscale=upscale, **call)
        (picture,) = row["gen_imgbase64"]
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        assert isinstance(picture, str) and found.shape == (size, size, 3)
        theirs = rows(inputs["prompt"], latents=inputs["x_T"][:1], n_samples=1, do_sr=upscale)[0]
        assert np.array_equal(found, pixels(theirs))


def test_generate(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "一只猫", "-m", str(folder), "--steps", "2", "--width", "64", "--height", "64",
               "--seed", "3", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "plain")]) in (0, None)
    assert main([*command, "-o", str(tmp_path / "large"), "--upscale"]) in (0, None)
    (plain,), (large,) = (list((tmp_path / name).glob("*.png")) for name in ("plain", "large"))
    assert Image.open(plain).size == (64, 64) and Image.open(large).size == (256, 256)
    assert "upscale" in Image.open(large).text


def test_a_model_without_an_upscaler(
    painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "out")]
    code = main(["generate", "猫", "-m", str(painter_checkpoint), *out, "--upscale", "--device", "cpu"])
    assert code == 1 and "has no upscaler" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pipeline_of_somebody_else(folder: Path) -> None:
    from danqing.upscaling import upscaler_of
    from diffusers import StableDiffusionPipeline

    with pytest.raises(DanqingError, match=r"not made by danqing\.load"):
        upscaler_of(StableDiffusionPipeline.from_pretrained(folder))
