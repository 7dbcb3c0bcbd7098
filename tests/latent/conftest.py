"""Reference data of latent diffusion, the original rebuilt, and checkpoints of any size as its trainer wrote them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
CASE = HERE.parent / "golden" / "easynlp" / "latent_diffusion_tiny"
UNET: dict[str, Any] = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2],
    "num_res_blocks": 1, "channel_mult": [1, 2], "use_spatial_transformer": True, "transformer_depth": 1,
    "context_dim": 16, "num_heads": 4,
}
TEXT: dict[str, Any] = {
    "context_length": 12, "vocab_size": 794, "output_dim": 16, "width": 16, "layers": 1, "heads": 2,
}
SCHEDULE: dict[str, Any] = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000}

State = dict[str, torch.Tensor]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"latent_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def original() -> ModuleType:
    """The networks and the sampler of the original, rebuilt."""
    return _module("original")


@pytest.fixture(scope="session")
def case() -> Path:
    """The folder of the reference case; read only."""
    return CASE


@pytest.fixture(scope="session")
def inputs() -> dict[str, Any]:
    """Texts, prompt and sizes of the reference case, and the noise `x_T` [2, 4, 8, 8]."""
    (noise,) = load_file(CASE / "inputs" / "x_T.safetensors").values()
    return {**json.loads((CASE / "inputs" / "inputs.json").read_text()), "x_T": noise}


@pytest.fixture(scope="session")
def expected() -> Callable[[str], State]:
    """The tensors of one file of the reference case."""
    return lambda name: load_file(CASE / "expected" / f"{name}.safetensors")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The reference checkpoint as EasyNLP wrote it; read only."""
    return CASE / "checkpoint"


@pytest.fixture(scope="session")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a diffusers folder; read only."""
    from danqing_pack import convert

    target = tmp_path_factory.mktemp("latent") / "diffusers"
    convert(checkpoint, target, to="diffusers")
    return target


@pytest.fixture(scope="session")
def pipe(folder: Path) -> Any:
    """The reference checkpoint as a stock pipeline."""
    import danqing

    loaded = danqing.load(folder, device="cpu", dtype="fp32")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def make_checkpoint(original: ModuleType, tmp_path: Path) -> Callable[..., tuple[Path, State]]:
    """Writes a random checkpoint: ``make_checkpoint(unet={...}, text={...}, cond={...}, params={...}, change=...)``.

    ``change`` may alter the state dict before it is written; ``wrap`` is what the file then holds. Returns the folder
    and the state dict under the names of the original, before ``change``.
    """
    def make(
        name: str = "legacy", *, unet: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None,
        cond: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None,
        change: Callable[[State], State] = lambda state: state, wrap: Callable[[State], Any] = lambda state: state,
        upscaler: bool = True,
    ) -> tuple[Path, State]:
        unet, text = {**UNET, **(unet or {})}, {**TEXT, **(text or {})}
        unet = {key: value for key, value in unet.items() if value is not None}
        torch.manual_seed(7)
        state = random_state(original, unet, text)
        folder = tmp_path / name
        folder.mkdir()
        torch.save(wrap(change(dict(state))), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(config(unet, text, cond or {}, params or {})))
        (folder / "vocab.txt").write_bytes((CASE / "checkpoint" / "vocab.txt").read_bytes())
        if upscaler:
            (folder / "RRDB_ESRGAN_x4.pth").write_bytes((CASE / "checkpoint" / "RRDB_ESRGAN_x4.pth").read_bytes())
        return folder, state

    return make


def random_state(original: ModuleType, unet: Mapping[str, Any], text: Mapping[str, Any]) -> State:
    """A state dict whose autoencoder and schedule are those of the reference case."""
    stored: State = torch.load(CASE / "checkpoint" / "pytorch_model.bin")
    state = {key: value for key, value in stored.items() if not key.startswith(("model.", "cond_stage_model."))}
    state |= {f"model.diffusion_model.{key}": value for key, value in original.UNet(**unet).state_dict().items()}
    inner = original.TextTransformer(**text).state_dict()
    return state | {f"cond_stage_model.model.{key}": value for key, value in inner.items()}


def config(
    unet: Mapping[str, Any], text: Mapping[str, Any], cond: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """EasyNLP's config.json."""
    stored = json.loads((CASE / "checkpoint" / "config.json").read_text())["model"]["params"]
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        **stored, **SCHEDULE, "unet_config": {"params": dict(unet)}, **params,
        "cond_stage_config": {"params": {"text_encoder": dict(text), "max_length": text["context_length"], **cond}},
    }}}
