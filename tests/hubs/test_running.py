"""A model on either hub runs there by the lines that people know, with the real clients and in fresh interpreters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing_pack.pushing import push

pytestmark = pytest.mark.slow

LOAD = """
import sys, danqing
for name in sys.argv[1:]:
    pipe = danqing.load(name, device="cpu")
    print("loaded", name, pipe.danqing_family)
print("drawn", pipe("宽松T恤").images[0].size)
"""

MODELSCOPE = """
from modelscope.pipelines import pipeline
for name in ("org/painter", "org/legacy"):
    drawn = pipeline("text-to-image-synthesis", name, model_revision="v1.0.0")({"text": "宽松T恤"})
    print("drawn", name, drawn["output_imgs"][0].shape)
"""

STOCK = """
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("org/sd", revision="v1.0.0")
print("drawn", type(pipe).__name__, pipe("一只猫", num_inference_steps=1, output_type="np").images.shape)
"""


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("loaded", "drawn"))]


def test_danqing_load(place: Any, model: Path, painter_checkpoint: Path) -> None:
    """Pushed ones by branch and tag, foreign ones, and from the cache where the network is forbidden."""
    names = ["hf:org/painter", "ms:org/painter@v1.0.0", "hf:org/foreign", "ms:org/foreign"]
    for hub in ("hf", "ms"):
        push(model, f"{hub}:org/painter", tag="v1.0.0")
        place.double.fill(hub, "org/foreign", painter_checkpoint)
    expected = [f"loaded {name} painter" for name in names]
    assert lines(place.run("-c", LOAD, *names).stdout) == [*expected, "drawn (256, 256)"]
    place.double.requests.clear()
    done = place.run("-c", LOAD, "hf:org/painter", HF_HUB_OFFLINE="1")
    assert lines(done.stdout) == [expected[0], "drawn (256, 256)"] and place.double.requests == []


def test_modelscope_pipeline(place: Any, model: Path, painter_copy: Path) -> None:
    push(model, "ms:org/painter", tag="v1.0.0")
    push(painter_copy, "ms:org/legacy", tag="v1.0.0", card=False)
    assert lines(place.run("-c", MODELSCOPE).stdout) == [
        "drawn org/painter (256, 256, 3)", "drawn org/legacy (256, 256, 3)"]


def test_stable_diffusion_pipeline(place: Any, golden: Path, tmp_path: Path) -> None:
    from danqing_pack import convert

    convert(golden / "diffusers-2023/pipeline", tmp_path / "sd", to="diffusers")
    push(tmp_path / "sd", "hf:org/sd", tag="v1.0.0")
    assert lines(place.run("-c", STOCK).stdout)[0].startswith("drawn StableDiffusionPipeline (1, ")
    assert b"org/sd" in place.double.content("hf", "org/sd")["README.md"]
