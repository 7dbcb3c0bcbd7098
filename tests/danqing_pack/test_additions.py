"""ControlNets, LoRAs and learned words as files: recognised as what they are, renewed without a changed value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import convert, loras, pickles
from danqing_pack.additions import recognise
from danqing_pack.errors import ConversionError, DanqingError, RequestError, UnsafeError
from danqing_pack.tensors import Tensor, open_safetensors, write_safetensors

LORA = "lora_attn_procs/pytorch_lora_weights.bin"


@pytest.fixture
def reference(golden: Path) -> Path:
    return golden / "diffusers-2023"


@pytest.mark.parametrize(("name", "kind", "words"), [
    ("controlnet", "controlnet", "16-32-32-32 channels and a context 32 wide, float16"),
    ("lora_attn_procs", "lora", "attention processors, rank 4, 256 tensors"),
    (LORA, "lora", "attention processors, rank 4, 256 tensors"),
    ("lora_checkpoint/checkpoint-5", "lora", "attention processors, rank 4, 256 tensors"),
    ("textual_inversion", "textual-inversion", "<小奶猫> (1), vectors 32 wide"),
])
def test_what_it_is(reference: Path, name: str, kind: str, words: str) -> None:
    found = recognise(reference / name)
    assert found is not None and found.kind == kind and words in found.describe()
    assert found.to_json()["tensors"] == len(found.tensors)


@pytest.mark.parametrize("name", ["pipeline", "pipeline/unet", "single_file/model.ckpt", "README.md", "absent",
                                  "lora_checkpoint/checkpoint-5/scheduler.bin"])
def test_what_it_is_not(reference: Path, name: str) -> None:
    assert recognise(reference / name) is None


def test_an_easynlp_folder_is_no_lora(painter_checkpoint: Path) -> None:
    assert recognise(painter_checkpoint) is None


def test_a_lora_under_todays_names(reference: Path, tmp_path: Path) -> None:
    old = pickles.load(reference / LORA)
    done = convert(reference / LORA, tmp_path / "new", to="diffusers")
    assert done.describe().endswith("lora, diffusers layout, 1 files, 0.1 MB.")
    new = open_safetensors(tmp_path / "new/pytorch_lora_weights.safetensors")
    attention = "mid_block.attentions.0.transformer_blocks.0.attn1"
    pairs = {"to_q_lora.down": "to_q.lora_A", "to_q_lora.up": "to_q.lora_B", "to_out_lora.up": "to_out.0.lora_B"}
    for before, after in pairs.items():
        assert np.array_equal(old[f"{attention}.processor.{before}.weight"].array(),
                              new[f"unet.{attention}.{after}.weight"].array())
    assert len(old) == len(new) == 256
    back = loras.to_legacy(new)
    assert back.keys() == old.keys()
    assert all(np.array_equal(back[name].array(), old[name].array()) for name in old)


def test_the_newer_old_form_has_a_prefix(reference: Path, tmp_path: Path) -> None:
    old = pickles.load(reference / LORA)
    write_safetensors(tmp_path / "lora.safetensors", {f"unet.{name}": tensor for name, tensor in old.items()})
    assert loras.open_lora(tmp_path / "lora.safetensors").modern().keys() == loras.to_modern(old).keys()


def test_a_controlnet_keeps_config_and_values(reference: Path, tmp_path: Path) -> None:
    convert(reference / "controlnet", tmp_path / "new", to="diffusers")
    old = pickles.load(reference / "controlnet/diffusion_pytorch_model.bin")
    new = open_safetensors(tmp_path / "new/diffusion_pytorch_model.safetensors")
    assert old.keys() == new.keys() and all(np.array_equal(old[name].array(), new[name].array()) for name in old)
    again = recognise(tmp_path / "new")
    assert again is not None and again.config == recognise(reference / "controlnet").config  # type: ignore[union-attr]


def test_learned_words_as_safetensors(reference: Path, tmp_path: Path) -> None:
    convert(reference / "textual_inversion", tmp_path / "new", to="diffusers", dtype="fp16")
    new = open_safetensors(tmp_path / "new/learned_embeds.safetensors")
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in new.items()} == {"<小奶猫>": ((1, 32), "float16")}


def test_a_dry_run_writes_nothing(reference: Path, tmp_path: Path) -> None:
    planned = convert(reference / "controlnet", tmp_path / "new", to="diffusers", dry_run=True)
    assert set(planned.files) == {"config.json", "diffusion_pytorch_model.safetensors"} and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"to": "easynlp"}, RequestError, "no easynlp layout"),
    ({"to": "diffusers", "dtype": "fp8"}, RequestError, "no dtype fp8"),
])
def test_requests_that_cannot_be_met(
    reference: Path, tmp_path: Path, options: dict[str, Any], error: type[DanqingError], message: str
) -> None:
    with pytest.raises(error, match=message):
        convert(reference / LORA, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_mixed_file_lists_what_is_strange(reference: Path, tmp_path: Path) -> None:
    state = dict(pickles.load(reference / LORA))
    state["text.bias"] = Tensor.of(np.zeros(3, np.float32))
    with pytest.raises(ConversionError, match=r"mixes attention processors with other keys: text\.bias"):
        loras.to_modern(state)
    with pytest.raises(ConversionError, match="no place for unet.conv_in.lora_A.weight"):
        loras.to_legacy({"unet.conv_in.lora_A.weight": state["text.bias"]})


def test_kohya_is_left_as_it_is(tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    write_safetensors(tmp_path / "style.safetensors", {
        f"{layer}.lora_down.weight": Tensor.of(np.ones((4, 8), np.float32)),
        f"{layer}.lora_up.weight": Tensor.of(np.ones((8, 4), np.float32))})
    with pytest.raises(ConversionError, match="leave it so"):
        convert(tmp_path / "style.safetensors", tmp_path / "new", to="diffusers")


def test_code_in_a_lora_is_named(tmp_path: Path) -> None:
    import torch

    torch.save({"layer": torch.nn.Linear(1, 1)}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(UnsafeError, match="torch.nn.modules.linear.Linear"):
        recognise(tmp_path)
