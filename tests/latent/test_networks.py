"""UNet, autoencoder and text encoder give the original's numbers, at the reference sizes and at others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import danqing
import pytest
import torch
from danqing.components import WukongTextEncoder
from danqing_pack import convert
from danqing_pack.errors import RequestError
from safetensors import safe_open

State = dict[str, torch.Tensor]
MakeCheckpoint = Callable[..., tuple[Path, State]]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def filled(network: Any, state: State, prefix: str) -> Any:
    network.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    return network.eval()


def params(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["model"]["params"]


# ---------------------------------------------------------------- the reference checkpoint

@pytest.mark.parametrize("legacy", [False, True])
def test_text(legacy: bool, pipe: Any, checkpoint: Path, expected: Callable[[str], State]) -> None:
    encoder = (danqing.load(checkpoint, device="cpu") if legacy else pipe).text_encoder
    data = expected("text")
    output = encoder(data["input_ids"])
    assert output[0].shape == (9, 1, 24)
    close(output[0], data["cond"], 1e-5)
    close(encoder.text_projection(output.pooled), data["projected_unnormalised"], 1e-5)


def test_unet(pipe: Any, expected: Callable[[str], State]) -> None:
    data = expected("unet")
    for step in (1, 101, 501, 951, 999):
        close(pipe.unet(data["x"], step, data["context"]).sample, data[f"eps_t{step}"], 2e-5)


def test_autoencoder(pipe: Any, expected: Callable[[str], State]) -> None:
    data = expected("vae")
    posterior = pipe.vae.encode(data["image"]).latent_dist
    close(posterior.mean, data["posterior_mean"], 5e-5)
    close(posterior.logvar, data["posterior_logvar"], 5e-5)
    close(pipe.vae.decode(data["latent_in"] / pipe.vae.config.scaling_factor).sample, data["decoded"], 5e-5)


# ---------------------------------------------------------------- other sizes, against the original rebuilt

UNETS: list[dict[str, Any]] = [
    {"channel_mult": [1, 2, 3], "attention_resolutions": [4, 1], "num_res_blocks": 2},
    {"num_heads": None, "num_head_channels": 8},
    {"num_heads": -1, "num_head_channels": 16, "transformer_depth": 2},
]


@pytest.mark.parametrize("sizes", UNETS, ids=str)
def test_a_unet_of_another_size(
    sizes: dict[str, Any], original: ModuleType, make_checkpoint: MakeCheckpoint
) -> None:
    folder, state = make_checkpoint(unet=sizes)
    theirs = filled(original.UNet(**params(folder)["unet_config"]["params"]), state, "model.diffusion_model.")
    ours = danqing.load(folder, device="cpu").unet
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 16)
    for step in (1, 501, 999):
        close(ours(x, step, context).sample, theirs(x, torch.full((2,), step), context), 2e-5)


@pytest.mark.parametrize("n_repeat", [1, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_context(normalize: bool, n_repeat: int, original: ModuleType, make_checkpoint: MakeCheckpoint) -> None:
    folder, state = make_checkpoint(cond={"normalize": normalize, "n_repeat": n_repeat}, text={"layers": 2})
    text = params(folder)["cond_stage_config"]["params"]["text_encoder"]
    theirs = filled(original.TextTransformer(**text), state, "cond_stage_model.model.")
    pipe = danqing.load(folder, device="cpu")
    texts = ["一只猫", "", "远处的雪山"]
    ids = pipe.tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt").input_ids
    found = pipe.text_encoder(ids)[0]
    assert found.shape == (3, n_repeat, 16)
    close(found, theirs(ids, normalize=normalize, n_repeat=n_repeat), 1e-5)


def test_ema_weights_are_what_runs(original: ModuleType, make_checkpoint: MakeCheckpoint) -> None:
    def averaged(state: State) -> State:
        prefix = "model.diffusion_model."
        return state | {f"model_ema.{name.removeprefix('model.').replace('.', '')}": value * 1.1
                        for name, value in state.items() if name.startswith(prefix)}

    folder, state = make_checkpoint(change=averaged, params={"use_ema": True})
    unet = original.UNet(**params(folder)["unet_config"]["params"])
    theirs = filled(unet, {name: value * 1.1 for name, value in state.items()}, "model.diffusion_model.")
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 1, 16)
    expected = theirs(x, torch.tensor([501]), context)
    close(danqing.load(folder, device="cpu").unet(x, 501, context).sample, expected, 2e-5)
    plain = danqing.load(folder, device="cpu", weights="plain").unet(x, 501, context).sample
    assert (plain - expected).abs().max() > 1e-2


# ---------------------------------------------------------------- the text encoder as a class

def test_the_text_encoder_saves_and_loads(pipe: Any, folder: Path, tmp_path: Path) -> None:
    pipe.text_encoder.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as saved, \
            safe_open(folder / "text_encoder" / "model.safetensors", "pt") as written:
        assert sorted(saved.keys()) == sorted(written.keys())
        assert "encoder.layers.0.self_attn.q_proj.weight" in saved.keys() and "text_projection.weight" in saved.keys()
    again = WukongTextEncoder.from_pretrained(tmp_path)
    ids = torch.tensor([[101, 714, 102, 0]])
    assert torch.equal(again(ids)[0], pipe.text_encoder(ids)[0])
    assert again.config.model_type == "danqing_wukong_text" and again.config.layer_norm_eps == 1e-7
    assert type(again).__module__ == "danqing.components"


def test_padding_and_masks_change_nothing(pipe: Any) -> None:
    ids = torch.tensor([[101, 714, 102, 0, 0], [101, 714, 271, 102, 0]])
    whole = pipe.text_encoder(ids)[0]
    close(pipe.text_encoder(ids[:1, :3])[0], whole[:1], 1e-6)
    close(pipe.text_encoder(ids, attention_mask=(ids > 0).long())[0], whole, 0)
    assert isinstance(pipe.text_encoder(ids, return_dict=False), tuple)


def test_a_row_without_its_end_is_refused(pipe: Any) -> None:
    with pytest.raises(RequestError, match=r"no 102 \(\[SEP\]\)"):
        pipe.text_encoder(torch.tensor([[101, 714, 102], [101, 714, 714]]))


def test_reduced_precision(folder: Path, pipe: Any) -> None:
    half = danqing.load(folder, device="cpu", dtype="bf16").text_encoder
    ids = torch.tensor([[101, 714, 102]])
    assert half(ids)[0].dtype == torch.bfloat16
    close(half(ids)[0].float(), pipe.text_encoder(ids)[0], 0.05)


def test_a_text_length_cannot_be_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="32 positions"):
        convert(checkpoint, tmp_path / "out", to="diffusers", text_length=16)
