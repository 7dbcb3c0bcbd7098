"""Folders of 2023 in ModelScope, as the article of that year called them; in a fresh interpreter, nothing else imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from danqing.hosts.modelscope_takeover import is_ours

SCRIPT = """
import json, sys
import numpy as np, torch
from safetensors.torch import load_file
from modelscope.pipelines import pipeline

folder, reference = sys.argv[1:]
runs = json.load(open(f"{reference}/expected/runs.json"))
inputs = load_file(f"{reference}/inputs.safetensors")
expected = load_file(f"{reference}/expected/images.safetensors")["ddim.image"].numpy()
p = pipeline("text-to-image-synthesis", folder, model_revision="v1.0.0", torch_type=torch.float32, use_safetensors=False)
from diffusers import DDIMScheduler
p.pipeline.scheduler = DDIMScheduler.from_config(p.pipeline.scheduler.config)
calls = []
out = p({"text": runs["prompt"], "height": 64, "width": 64, "num_inference_steps": 10, "guidance_scale": 7.5,
         "negative_prompt": runs["negative_prompt"], "num_images_per_prompt": 1, "eta": 0.0,
         "generator": torch.Generator().manual_seed(0), "latents": inputs["latents"], "output_type": "pil",
         "return_dict": True, "callback": None, "callback_steps": 1})
(image,) = out["output_imgs"]
assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
difference = np.abs(image[..., ::-1].astype(int) - np.round(expected[0] * 255).astype(int)).max()
assert difference <= 1, difference
two = p({"text": "猫", "num_inference_steps": 2, "num_images_per_prompt": 2, "negative_prompt": "狗"})["output_imgs"]
assert len(two) == 2
try:
    p({"text": "猫", "num_steps": 2})
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "diffusers-2023" / "pipeline", tmp_path / "artist"))


def configure(folder: Path, type_name: str) -> None:
    (folder / "configuration.json").write_text(json.dumps(
        {"framework": "pytorch", "task": "text-to-image-synthesis", "pipeline": {"type": type_name}}))


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["danqing", "diffusers-stable-diffusion", "chinese-stable-diffusion"])
def test_the_call_of_the_article(folder: Path, golden: Path, type_name: str) -> None:
    configure(folder, type_name)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(golden / "diffusers-2023")],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RequestError StableDiffusionPipeline takes no keyword num_steps" in done.stdout


@pytest.mark.parametrize(("change", "ours"), [
    ({}, True), ({"tokenizer": ["transformers", "BertTokenizerFast"]}, True),
    ({"tokenizer": ["transformers", "CLIPTokenizer"]}, False), ({"text_encoder": ["transformers", "ChineseCLIPTextModel"]}, False),
    ({"tokenizer": "BertTokenizer"}, False),
])
def test_which_folders_are_ours(folder: Path, change: dict[str, Any], ours: bool) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    assert is_ours(str(folder)) is is_ours([str(folder)]) is ours


@pytest.mark.parametrize("model", [None, "owner/name", ["a", "b"], 3])
def test_what_is_no_folder_is_left_alone(model: Any) -> None:
    assert not is_ours(model)


@pytest.mark.slow
def test_a_clip_folder_is_left_to_modelscope(folder: Path) -> None:
    """ModelScope then builds its own class, or says what that one lacks."""
    configure(folder, "diffusers-stable-diffusion")
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"tokenizer": ["transformers", "CLIPTokenizer"]}))
    code = ("import sys\nfrom modelscope.pipelines import pipeline\n"
            "try:\n    print(type(pipeline('text-to-image-synthesis', sys.argv[1])).__module__)\n"
            "except BaseException as error:\n    print(type(error), error)\n")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert "danqing" not in done.stdout and done.stdout.strip(), done.stderr[-2000:]
