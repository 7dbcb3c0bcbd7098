"""The reference pipeline of 2023 and the outputs that its libraries gave for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing.quiet import quiet_libraries
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[2] / "golden" / "diffusers-2023"
IMAGE_TOLERANCE, LATENTS_TOLERANCE = 2e-4, 2e-3


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference data."""
    return GOLDEN


@pytest.fixture(scope="session")
def expected() -> Callable[[str], Any]:
    """Reads one file of expected outputs."""
    def read(name: str) -> Any:
        path = GOLDEN / "expected" / name
        return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="session")
def inputs() -> dict[str, torch.Tensor]:
    """Start noise, images and recorded draws."""
    return load_file(GOLDEN / "inputs.safetensors")


@pytest.fixture
def pipe() -> Iterator[Any]:
    """The 2023 folder as a stock pipeline in float32, fresh for each test, because tests change it."""
    from diffusers import StableDiffusionPipeline

    with quiet_libraries():
        made = StableDiffusionPipeline.from_pretrained(GOLDEN / "pipeline", dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    yield made


@pytest.fixture(scope="session")
def equals_run(inputs: dict[str, torch.Tensor], expected: Callable[[str], Any]) -> Callable[..., None]:
    """Makes an image with a pipeline and holds it against a run of 2023."""
    runs, images = expected("runs.json"), expected("images.safetensors")
    texts = expected("text.json")["texts"]

    def check(pipe: Any, run: str, **changes: Any) -> None:
        options: dict[str, Any] = {
            "prompt": texts[0], "negative_prompt": runs["negative_prompt"], "guidance_scale": runs["guidance_scale"],
            "num_inference_steps": runs["num_inference_steps"], "latents": inputs["latents"].clone(),
        } | changes
        given = {name: value for name, value in options.items() if value is not None}
        latents = []
        given["callback_on_step_end"] = lambda _, step, t, kept: latents.append(kept["latents"]) or {}
        image = pipe(**given, output_type="np").images
        assert np.abs(latents[-1].numpy() - images[f"{run}.latents"].numpy()).max() < LATENTS_TOLERANCE
        if f"{run}.image" in images:
            assert np.abs(image - images[f"{run}.image"].numpy()).max() < IMAGE_TOLERANCE

    return check


@pytest.fixture(scope="session")
def text_context(expected: Callable[[str], Any]) -> torch.Tensor:
    """Embeddings of the empty prompt and of prompt 0, the batch of the UNet's reference outputs."""
    embeddings = expected("text.safetensors")["embeddings"]
    return torch.stack([embeddings[3], embeddings[0]])


