"""A model on either hub runs there by the lines that people know, with the real clients and in fresh interpreters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing_pack.pushing import push

pytestmark = pytest.mark.slow
NAME = "org/painter"

LOAD = """
import sys, danqing
pipe = danqing.load(sys.argv[1], device="cpu")
image = pipe(prompt="宽松T恤", seed=0) if False else pipe("宽松T恤").images[0]
print(pipe.danqing_family, image.size)
"""

MODELSCOPE = """
from modelscope.pipelines import pipeline
drawn = pipeline("text-to-image-synthesis", "org/painter", model_revision="v1.0.0")({"text": "宽松T恤"})
print(drawn["output_imgs"][0].shape)
"""

STOCK = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("org/sd", revision="v1.0.0")
print(type(pipe).__name__, pipe("一只猫", num_inference_steps=1, output_type="np").images.shape)
"""


@pytest.mark.parametrize("revision", ["", "@v1.0.0"])
def test_danqing_load(place: Any, hub: str, model: Path, revision: str) -> None:
    push(model, f"{hub}:{NAME}", tag="v1.0.0")
    assert place.run("-c", LOAD, f"{hub}:{NAME}{revision}").stdout.splitlines()[-1].startswith("painter (")
    if hub == "hf":
        place.double.forget()           # the cache answers where the hub does not
        done = place.run("-c", LOAD, f"{hub}:{NAME}{revision}", HF_HUB_OFFLINE="1")
        assert done.stdout.splitlines()[-1].startswith("painter (") and place.double.requests == []


def test_danqing_load_of_a_foreign_repository(place: Any, hub: str, painter_checkpoint: Path) -> None:
    place.double.fill(hub, NAME, painter_checkpoint)
    assert place.run("-c", LOAD, f"{hub}:{NAME}").stdout.splitlines()[-1].startswith("painter (")


def test_modelscope_pipeline(place: Any, model: Path) -> None:
    push(model, f"ms:{NAME}", tag="v1.0.0")
    assert place.run("-c", MODELSCOPE).stdout.splitlines()[-1] == "(256, 256, 3)"


def test_modelscope_pipeline_of_a_legacy_folder(place: Any, painter_copy: Path) -> None:
    push(painter_copy, f"ms:{NAME}", tag="v1.0.0", card=False)
    assert place.run("-c", MODELSCOPE).stdout.splitlines()[-1] == "(256, 256, 3)"


def test_stable_diffusion_pipeline(place: Any, golden: Path, tmp_path: Path) -> None:
    from danqing_pack import convert

    convert(golden / "diffusers-2023/pipeline", tmp_path / "sd", to="diffusers")
    push(tmp_path / "sd", "hf:org/sd", tag="v1.0.0", card=False)
    line = place.run("-c", STOCK).stdout.splitlines()[-1]
    assert line.startswith("StableDiffusionPipeline (1, ")
