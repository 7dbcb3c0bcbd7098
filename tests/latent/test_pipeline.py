"""The stock pipelines of diffusers over a converted folder: the original's samples, and everything else they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import danqing
import numpy as np
import pytest
import torch
from danqing_pack.errors import RequestError
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

State = dict[str, torch.Tensor]
MakeCheckpoint = Callable[..., tuple[Path, State]]


def draw(pipe: Any, inputs: dict[str, Any], **changes: Any) -> torch.Tensor:
    return pipe(**{
        "prompt": inputs["prompt"], "num_images_per_prompt": 2, "height": 64, "width": 64, "guidance_scale": 5.0,
        "latents": inputs["x_T"], "output_type": "pt", **changes}).images


# ---------------------------------------------------------------- samples

@pytest.mark.parametrize("steps", [10, 20])
def test_samples(steps: int, pipe: Any, inputs: dict[str, Any], expected: Callable[[str], State]) -> None:
    assert type(pipe) is StableDiffusionPipeline
    data = expected("sample")
    latents = draw(pipe, inputs, num_inference_steps=steps, output_type="latent")
    torch.testing.assert_close(latents, data[f"latents_steps{steps}"], atol=1e-3, rtol=0)
    images = draw(pipe, inputs, num_inference_steps=steps)
    torch.testing.assert_close(images, data[f"images_steps{steps}"], atol=1e-4, rtol=0)


def test_samples_without_guidance(pipe: Any, inputs: dict[str, Any], expected: Callable[[str], State]) -> None:
    latents = draw(pipe, inputs, num_inference_steps=10, guidance_scale=1.0, output_type="latent")
    torch.testing.assert_close(latents, expected("sample_no_guidance")["latents"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["easynlp", "bundle"])
def test_samples_from_another_layout(
    layout: str, checkpoint: Path, tmp_path: Path, inputs: dict[str, Any], expected: Callable[[str], State]
) -> None:
    place = checkpoint
    if layout == "bundle":
        from danqing_pack import pack

        place = tmp_path / "bundle.tar.gz"
        pack(checkpoint, place)
    pipe = danqing.load(place, device="cpu", dtype="fp32")
    pipe.set_progress_bar_config(disable=True)
    latents = draw(pipe, inputs, num_inference_steps=10, output_type="latent")
    torch.testing.assert_close(latents, expected("sample")["latents_steps10"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 7, 15])
def test_counts_that_do_not_divide_a_thousand(
    steps: int, pipe: Any, original: ModuleType, inputs: dict[str, Any], expected: Callable[[str], State]
) -> None:
    text = expected("text")
    context = torch.cat([text["uncond"].expand(2, -1, -1), text["cond"][:1].expand(2, -1, -1)])

    def guided(x: torch.Tensor, step: int) -> torch.Tensor:
        with torch.no_grad():
            without, given = pipe.unet(torch.cat([x, x]), step, context).sample.chunk(2)
        return without + 5.0 * (given - without)

    theirs, _ = original.plms(guided, pipe.scheduler.alphas_cumprod, steps, inputs["x_T"])
    ours = draw(pipe, inputs, num_inference_steps=steps, output_type="latent")
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)


def test_counts_that_crashed_the_original(pipe: Any, inputs: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="36 steps would reach timestep"):
        draw(pipe, inputs, num_inference_steps=36)


def test_a_call_without_a_size_draws_the_checkpoints(pipe: Any) -> None:
    assert pipe("猫", num_inference_steps=1).images[0].size == (256, 256)


# ---------------------------------------------------------------- negative prompts

@pytest.mark.parametrize("n_repeat", [1, 2])
def test_negative_prompts_are_read_whole(n_repeat: int, make_checkpoint: MakeCheckpoint) -> None:
    folder, _ = make_checkpoint(cond={"n_repeat": n_repeat})
    pipe = danqing.load(folder, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    prompts, negative = ["一只猫", "雪山"], ["模糊", "丑陋，畸形，多余的手指，低质量"]
    ids = pipe.tokenizer(negative, padding="max_length", max_length=12, truncation=True, return_tensors="pt").input_ids
    embeddings = pipe.text_encoder(ids)[0]
    assert embeddings.shape == (2, n_repeat, 16)
    call = {"num_inference_steps": 2, "height": 32, "width": 32, "guidance_scale": 5.0, "output_type": "pt",
            "latents": torch.randn(2, 4, 4, 4)}
    by_text = pipe(prompts, negative_prompt=negative, **call).images
    by_embeddings = pipe(prompts, negative_prompt_embeds=embeddings, **call).images
    assert torch.equal(by_text, by_embeddings)
    assert (pipe(prompts, **call).images - by_text).abs().max() > 1e-4
    one_other = pipe(prompts, negative_prompt=[negative[0], "丑陋"], **call).images
    assert torch.equal(one_other[0], by_text[0]) and (one_other[1] - by_text[1]).abs().max() > 1e-5


# ---------------------------------------------------------------- from an image

@pytest.mark.parametrize("steps", [7, 10])
def test_the_weaker_the_nearer(steps: int, pipe: Any, inputs: dict[str, Any]) -> None:
    """An image comes back the less changed, the smaller the strength; a strength of one starts from noise."""
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    image = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).clone()
    with torch.no_grad():
        latents = pipe.vae.encode(image * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    distances, counts = [], []
    for strength in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        calls: list[int] = []
        found = other(
            inputs["prompt"], image=image, strength=strength, num_inference_steps=steps, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0), output_type="latent",
            callback_on_step_end=lambda pipe, index, step, given, calls=calls: calls.append(int(step)) or given).images
        distances.append(float((found - latents).square().mean().sqrt()))
        counts.append(calls)
    assert distances == sorted(distances)
    assert counts[-1] == [int(step) for step in _timesteps(pipe, steps)]
    assert all(calls == counts[-1][-len(calls):] for calls in counts)


def _timesteps(pipe: Any, steps: int) -> list[int]:
    pipe.scheduler.set_timesteps(steps)
    return pipe.scheduler.timesteps.tolist()


def test_inpainting_keeps_what_is_not_masked(pipe: Any, inputs: dict[str, Any]) -> None:
    other = StableDiffusionInpaintPipeline.from_pipe(pipe)
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    found = other(
        inputs["prompt"], image=image, mask_image=mask, strength=0.6, num_inference_steps=10, height=64, width=64,
        generator=torch.Generator().manual_seed(0), output_type="latent").images
    with torch.no_grad():
        latents = pipe.vae.encode(image * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    kept, drawn = ((found - latents)[..., columns].abs().mean() for columns in (slice(4, 8), slice(0, 4)))
    assert kept < drawn


# ---------------------------------------------------------------- a folder that diffusers alone opens

STRANGER = """
import json, sys, warnings
warnings.simplefilter("error", FutureWarning)
import torch
from PIL import Image
from diffusers import (
    AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline, StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
folder, drawn = sys.argv[1], {}
image = Image.new("RGB", (64, 64), "teal")
size = {"height": 64, "width": 64}
call = {"num_inference_steps": 4, "output_type": "np"}

def run(kind, loading={}, **more):
    pipe = kind.from_pretrained(folder, **loading)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe("一只猫", negative_prompt="模糊", generator=generator, **call, **more).images
    drawn[kind.__name__] = [list(images.shape), float(images.std())]
    return pipe

pipe = run(StableDiffusionPipeline, **size)
for kind in (DiffusionPipeline, AutoPipelineForText2Image):
    run(kind, **size)
run(StableDiffusionImg2ImgPipeline, image=image, strength=0.7)
run(StableDiffusionInpaintPipeline, image=image, mask_image=Image.new("L", (64, 64), 255), **size)
control = {"controlnet": ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 32, 32))}
run(StableDiffusionControlNetPipeline, control, image=image, **size)
run(StableDiffusionControlNetImg2ImgPipeline, control, image=image, control_image=image, strength=0.7, **size)
pipe.save_pretrained(sys.argv[2])
print(json.dumps({"drawn": drawn, "types": [type(pipe.text_encoder).__name__, type(pipe.scheduler).__name__]}))
"""


@pytest.mark.slow
def test_strangers_open_the_folder(folder: Path, tmp_path: Path) -> None:
    """In a fresh interpreter that imports diffusers and nothing of ours."""
    done = subprocess.run([sys.executable, "-c", STRANGER, str(folder), str(tmp_path / "saved")], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["types"] == ["WukongTextEncoder", "LegacyPLMSScheduler"]
    assert len(said["drawn"]) == 7
    for shape, spread in said["drawn"].values():
        assert shape == [1, 64, 64, 3] and np.isfinite(spread) and spread > 0.001
    for words in ("Expected types", "not expected by", "were not used", "newly initialized", "MISSING", "UNEXPECTED"):
        assert words not in done.stderr
    _goes_back(folder, tmp_path)


def _goes_back(folder: Path, tmp_path: Path) -> None:
    """What ``save_pretrained`` wrote still is a checkpoint, and every weight of it still goes back."""
    from danqing_pack import check, convert, pickles

    assert check(tmp_path / "saved") == []
    convert(tmp_path / "saved", tmp_path / "back", to="easynlp")
    convert(folder, tmp_path / "straight", to="easynlp")
    one, other = (pickles.load(tmp_path / name / "pytorch_model.bin") for name in ("back", "straight"))
    assert one.keys() == other.keys()
    assert all(one[name].array().tobytes() == other[name].array().tobytes() for name in one)


# ---------------------------------------------------------------- learned words

def test_a_learned_word(folder: Path) -> None:
    pipe = danqing.load(folder, device="cpu")
    pipe.load_textual_inversion({"<小奶猫>": torch.randn(32)}, token="<小奶猫>")
    assert pipe.tokenizer.tokenize("一只<小奶猫>") == ["一", "只", "<小奶猫>"]
    with_word, _ = pipe.encode_prompt("一只<小奶猫>", "cpu", 1, False)
    without, _ = pipe.encode_prompt("一只猫", "cpu", 1, False)
    assert with_word.shape == (1, 1, 24) and (with_word - without).abs().max() > 0.01
