"""Image to image, inpainting and ControlNet over the components of one pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing.adapters.controlnet import load_controlnet
from danqing.adapters.schedulers import make_scheduler
from danqing.adapters.variants import CLASS_NAMES, fit_image, open_image, open_mask, variant
from danqing_pack.errors import FormatError, RequestError
from PIL import Image


@pytest.fixture
def prompt(expected: Callable[[str], Any]) -> dict[str, Any]:
    runs = expected("runs.json")
    return {
        "prompt": runs["prompt"], "negative_prompt": runs["negative_prompt"],
        "guidance_scale": runs["guidance_scale"], "num_inference_steps": runs["num_inference_steps"],
    }


def test_image_to_image(
    pipe: Any, prompt: dict[str, Any], inputs: dict[str, torch.Tensor], expected: Callable[[str], Any]
) -> None:
    seed = expected("runs.json")["runs"]["img2img"]["generator_seed"]
    image = variant(pipe, image=True)(
        **prompt, image=inputs["image"], strength=0.75, output_type="np", generator=torch.Generator().manual_seed(seed)
    ).images
    assert np.abs(image - expected("images.safetensors")["img2img.image"].numpy()).max() < 2e-4


@pytest.mark.parametrize(("run", "scheduler", "strength"), [
    ("inpaint4_pndm_0.8", "pndm", 0.8), ("inpaint4_pndm_1.0", "pndm", 1.0), ("inpaint4_ddim_0.8", "ddim", 0.8),
])
def test_inpainting(
    pipe: Any, prompt: dict[str, Any], inputs: dict[str, torch.Tensor], expected: Callable[[str], Any],
    run: str, scheduler: str, strength: float,
) -> None:
    pipe.scheduler = make_scheduler(scheduler, pipe.scheduler.config)
    image = variant(pipe, image=True, mask=True)(
        **prompt, image=inputs["image"], mask_image=inputs["mask"], strength=strength, output_type="np",
        height=64, width=64, generator=torch.Generator().manual_seed(1242),
    ).images
    assert np.abs(image - expected("inpaint_0_18_2.safetensors")[f"{run}.image"].numpy()).max() < 5e-4


@pytest.mark.parametrize(("run", "scale"), [("controlnet", 1.0), ("controlnet_scale_0.5", 0.5)])
def test_controlnet(
    pipe: Any, reference: Path, inputs: dict[str, torch.Tensor], equals_run: Callable[..., None], run: str, scale: float
) -> None:
    steered = variant(pipe, controlnet=load_controlnet(reference / "controlnet", torch.float32))
    equals_run(steered, run, image=inputs["control_image"], controlnet_conditioning_scale=scale)


@pytest.mark.parametrize(("image", "mask", "control"), CLASS_NAMES)
def test_every_variant_runs(
    pipe: Any, reference: Path, inputs: dict[str, torch.Tensor], image: bool, mask: bool, control: bool
) -> None:
    controlnet = load_controlnet(reference / "controlnet", torch.float32) if control else None
    made = variant(pipe, image, mask, controlnet)
    assert type(made).__name__ == CLASS_NAMES[image, mask, control]
    assert made.unet is pipe.unet and made.safety_checker is pipe.safety_checker
    options: dict[str, Any] = {"prompt": "猫", "num_inference_steps": 2, "output_type": "np"}
    options |= {"image": inputs["image"]} if image else {}
    options |= {"mask_image": inputs["mask"], "height": 64, "width": 64} if mask else {}
    options |= {"control_image" if image else "image": inputs["control_image"]} if control else {}
    assert made(**options).images.shape == (1, 64, 64, 3)


def test_a_half_precision_pipeline_stays_so(pipe: Any, reference: Path) -> None:
    """``from_pipe`` alone would cast everything to float32."""
    pipe.to(dtype=torch.bfloat16)
    controlnet = load_controlnet(reference / "controlnet", torch.bfloat16)
    for made in (variant(pipe, image=True), variant(pipe, controlnet=controlnet)):
        assert {part.dtype for part in (made.unet, made.vae, made.text_encoder, made.safety_checker)} == {torch.bfloat16}
    assert controlnet.dtype == torch.bfloat16


def test_the_same_pipeline_and_a_kept_controlnet(pipe: Any, reference: Path) -> None:
    assert variant(pipe) is pipe
    steered = variant(pipe, controlnet=load_controlnet(reference / "controlnet", torch.float32))
    assert variant(steered) is steered
    assert variant(steered, image=True).controlnet is steered.controlnet


def test_progress_bars_stay_off(pipe: Any, capfd: pytest.CaptureFixture[str], inputs: dict[str, torch.Tensor]) -> None:
    variant(pipe, image=True)("猫", image=inputs["image"], num_inference_steps=2, output_type="np")
    assert capfd.readouterr().err == ""


def test_a_mask_alone(pipe: Any) -> None:
    with pytest.raises(RequestError, match="give the image as well"):
        variant(pipe, mask=True)


def test_images_from_files(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 10, 10))
    clear.save(tmp_path / "clear.png")
    opened = open_image(tmp_path / "clear.png")
    assert opened.getpixel((15, 5)) == (255, 255, 255) and opened.getpixel((5, 5)) == (0, 0, 255)

    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (10, 20)

    Image.new("RGB", (4, 4), "white").save(tmp_path / "mask.png")
    assert open_mask(tmp_path / "mask.png").getpixel((0, 0)) == 255
    drawn = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawn.putpixel((1, 1), (0, 0, 0, 255))
    drawn.save(tmp_path / "drawn.png")
    mask = open_mask(tmp_path / "drawn.png")
    assert (mask.getpixel((1, 1)), mask.getpixel((2, 2))) == (255, 0)


def test_sizes() -> None:
    assert fit_image(Image.new("RGB", (101, 66))).size == (96, 64)
    assert fit_image(Image.new("RGB", (101, 66)), 64, 128).size == (64, 128)
    with pytest.raises(RequestError, match="5 x 66 pixels is too small"):
        fit_image(Image.new("RGB", (5, 66)))


@pytest.mark.parametrize(("content", "said"), [
    (b"", "cannot be read as an image"), (b"no image", "cannot be read as an image"), (None, "There is no file"),
])
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(FormatError, match=said):
        open_image(tmp_path / "image.png")
