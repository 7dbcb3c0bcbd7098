"""The rebuilt original gives the numbers of the original, and its module names are those of the reference file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def networks(original: ModuleType, checkpoint: Path) -> tuple[Any, Any, torch.Tensor]:
    state = torch.load(checkpoint / "pytorch_model.bin")
    params = json.loads((checkpoint / "config.json").read_text())["model"]["params"]

    def filled(network: Any, prefix: str) -> Any:
        network.load_state_dict({
            key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
        return network.eval().requires_grad_(False)

    unet = filled(original.UNet(**params["unet_config"]["params"]), "model.diffusion_model.")
    text = filled(original.TextTransformer(**params["cond_stage_config"]["params"]["text_encoder"]),
                  "cond_stage_model.model.")
    return unet, text, state["alphas_cumprod"]


def test_unet(networks: Any, expected: Callable[[str], Any]) -> None:
    data = expected("unet")
    for step in (1, 101, 501, 951, 999):
        found = networks[0](data["x"], torch.full((2,), step), data["context"])
        torch.testing.assert_close(found, data[f"eps_t{step}"], atol=2e-5, rtol=0)


def test_text(networks: Any, expected: Callable[[str], Any]) -> None:
    data = expected("text")
    torch.testing.assert_close(networks[1](data["input_ids"]), data["cond"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        networks[1](data["input_ids"], normalize=False)[:, 0], data["projected_unnormalised"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [10, 20])
def test_sampler(
    steps: int, networks: Any, original: ModuleType, expected: Callable[[str], Any], inputs: dict[str, Any]
) -> None:
    unet, _, alphas = networks
    text, data = expected("text"), expected("sample")
    context = torch.cat([text["uncond"].expand(2, -1, -1), text["cond"][:1].expand(2, -1, -1)])

    def guided(x: torch.Tensor, step: int) -> torch.Tensor:
        without, given = unet(torch.cat([x, x]), torch.full((4,), step), context).chunk(2)
        return without + 5.0 * (given - without)

    latents, grid = original.plms(guided, alphas, steps, inputs["x_T"])
    assert grid == sorted(data[f"timesteps_steps{steps}"].flatten().tolist(), reverse=True)
    torch.testing.assert_close(latents, data[f"latents_steps{steps}"], atol=1e-3, rtol=0)
