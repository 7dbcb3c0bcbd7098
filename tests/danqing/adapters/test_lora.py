"""LoRA files of 2023 and of today: applied, counted, scaled, fused, refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.adapters.lora import adapter_tensors, apply_loras, fuse_loras
from danqing.building import torch_tensor
from danqing_pack.errors import ConversionError, FormatError
from danqing_pack.loras import open_lora
from safetensors.torch import save_file

OLD_FILES = ("lora_attn_procs", "lora_attn_procs/pytorch_lora_weights.bin")


@pytest.fixture
def unet_output(
    inputs: dict[str, torch.Tensor], text_context: torch.Tensor
) -> Callable[[Any], torch.Tensor]:
    def run(pipe: Any) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = pipe.unet(inputs["unet_sample"], 501, text_context).sample
        return out
    return run


@pytest.fixture
def modern_state(reference: Path) -> dict[str, torch.Tensor]:
    lora = open_lora(reference / "lora_attn_procs")
    return {key: torch_tensor(tensor) for key, tensor in lora.modern().items()}


@pytest.mark.parametrize("name", OLD_FILES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_old_files_apply_whole(
    pipe: Any, reference: Path, expected: Callable[[str], Any], unet_output: Callable[[Any], torch.Tensor],
    name: str, scale: float,
) -> None:
    (applied,) = apply_loras(pipe, [(reference / name, scale)])
    assert applied.tensors == 256
    wanted = expected("lora_unet.safetensors")
    key = next(key for key in wanted if str(scale) in key)
    assert (unet_output(pipe) - wanted[key]).abs().max() < 1e-5


def test_a_checkpoint_of_accelerate(
    pipe: Any, reference: Path, unet_output: Callable[[Any], torch.Tensor]
) -> None:
    """Held against the arithmetic itself: W x + scale * up(down(x))."""
    path = reference / "lora_checkpoint/checkpoint-5"
    layers = {key.removeprefix("unet."): torch_tensor(tensor) for key, tensor in open_lora(path).modern().items()}
    plain = copy.deepcopy(pipe.unet)
    (applied,) = apply_loras(pipe, [(path, 0.7)])
    assert (applied.name, applied.tensors) == ("checkpoint-5", 256)
    found, pipe.unet = unet_output(pipe), plain
    for name, module in plain.named_modules():
        if f"{name}.lora_A.weight" in layers:
            module.weight.data += 0.7 * layers[f"{name}.lora_B.weight"] @ layers[f"{name}.lora_A.weight"]
    assert (unet_output(pipe) - found).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_image_of_2023(pipe: Any, reference: Path, equals_run: Callable[..., None], scale: float) -> None:
    apply_loras(pipe, [(reference / "lora_attn_procs", scale)])
    equals_run(pipe, f"lora_{scale}")


def test_fused_is_the_same_image(pipe: Any, reference: Path, equals_run: Callable[..., None]) -> None:
    apply_loras(pipe, [(reference / "lora_attn_procs", 0.5)])
    fuse_loras(pipe)
    assert not any("lora" in name for name, _ in pipe.unet.named_parameters())
    equals_run(pipe, "lora_0.5")


def test_stock_loading_applies_nothing_in_silence(
    pipe: Any, reference: Path, unet_output: Callable[[Any], torch.Tensor]
) -> None:
    """Why the tensors are counted: should diffusers learn the old form one day, this test says so."""
    before = unet_output(pipe)
    pipe.load_lora_weights(str(reference / "lora_attn_procs"), weight_name="pytorch_lora_weights.bin")
    assert torch.equal(unet_output(pipe), before)


def test_two_at_once_and_one_after_another(
    pipe: Any, reference: Path, unet_output: Callable[[Any], torch.Tensor]
) -> None:
    """Half and half is whole, in one call or in two; the second call keeps the scale of the first."""
    apply_loras(pipe, [(reference / "lora_attn_procs", 1.0)])
    whole = unet_output(pipe)
    pipe.unload_lora_weights()
    names = [one.name for one in apply_loras(pipe, [(reference / "lora_attn_procs", 0.5), (reference / "lora_attn_procs", 0.5)])]
    assert len(set(names)) == 2
    assert torch.allclose(unet_output(pipe), whole, atol=1e-5)
    pipe.unload_lora_weights()
    apply_loras(pipe, [(reference / "lora_attn_procs", 0.5)])
    apply_loras(pipe, [(reference / "lora_attn_procs/pytorch_lora_weights.bin", 0.5)])
    assert torch.allclose(unet_output(pipe), whole, atol=1e-5)


def test_no_random_number_is_drawn(pipe: Any, reference: Path) -> None:
    before = torch.random.get_rng_state()
    apply_loras(pipe, [(reference / "lora_attn_procs", 1.0)])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_todays_form(
    pipe: Any, tmp_path: Path, modern_state: dict[str, torch.Tensor], equals_run: Callable[..., None]
) -> None:
    save_file(modern_state, tmp_path / "pytorch_lora_weights.safetensors")
    assert apply_loras(pipe, [(tmp_path, 1.0)])[0].tensors == 256
    equals_run(pipe, "lora_1.0")


def test_kohya(
    pipe: Any, tmp_path: Path, modern_state: dict[str, torch.Tensor], equals_run: Callable[..., None]
) -> None:
    """alpha is half the rank, so the file means scale 0.5."""
    state = {}
    for key, value in modern_state.items():
        path, _, side = key.removeprefix("unet.").removesuffix(".weight").rpartition(".")
        layer = "lora_unet_" + path.replace(".", "_")
        state[f"{layer}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        state[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(state, tmp_path / "style.safetensors")
    (applied,) = apply_loras(pipe, [(tmp_path / "style.safetensors", 1.0)])
    assert (applied.name, applied.tensors) == ("style", 256)
    equals_run(pipe, "lora_0.5")


def test_text_encoder_layers_count(pipe: Any, tmp_path: Path) -> None:
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    save_file({f"{layer}.lora_A.weight": torch.ones(4, 32), f"{layer}.lora_B.weight": torch.ones(32, 4)},
              tmp_path / "text.safetensors")
    ids = pipe.tokenizer("猫", return_tensors="pt").input_ids
    before = pipe.text_encoder(ids)[0]
    (applied,) = apply_loras(pipe, [(tmp_path / "text.safetensors", 1.0)])
    assert applied.tensors == 2 and len(adapter_tensors(pipe.text_encoder, "text")) == 2
    assert not torch.allclose(pipe.text_encoder(ids)[0], before)
    fuse_loras(pipe)
    assert not torch.allclose(pipe.text_encoder(ids)[0], before)


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: state | {"unet.mid_block.nothing.to_q.lora_A.weight": torch.ones(4, 32)}, "nothing.to_q is no layer"),
    (lambda state: {key: value for i, (key, value) in enumerate(state.items()) if i}, "has no lora_A"),
    (lambda state: state | {next(iter(state)): torch.ones(4, 99)}, "wide, its lora_A 99"),
    (lambda state: state | {"transformer.to_q.lora_A.weight": torch.ones(4, 32)}, "transformer.to_q.lora_A.weight"),
])
def test_a_lora_of_another_model(
    pipe: Any, tmp_path: Path, modern_state: dict[str, torch.Tensor], unet_output: Callable[[Any], torch.Tensor],
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str,
) -> None:
    before = unet_output(pipe)
    save_file(modern_state, tmp_path / "good.safetensors")
    save_file(change(modern_state), tmp_path / "bad.safetensors")
    with pytest.raises(ConversionError, match=message):
        apply_loras(pipe, [(tmp_path / "good.safetensors", 1.0), (tmp_path / "bad.safetensors", 1.0)])
    assert torch.equal(unet_output(pipe), before)


def test_what_is_no_lora(pipe: Any, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="neither a LoRA file nor a folder with one"):
        apply_loras(pipe, [(tmp_path, 1.0)])
    with pytest.raises(FormatError, match="none of them a LoRA's"):
        apply_loras(pipe, [(reference / "pipeline/unet/diffusion_pytorch_model.bin", 1.0)])
    with pytest.raises(FormatError, match="no flat dictionary"):
        apply_loras(pipe, [(reference / "lora_checkpoint/checkpoint-5/scheduler.bin", 1.0)])


def test_half_precision(pipe: Any, reference: Path) -> None:
    pipe.to(dtype=torch.bfloat16)
    apply_loras(pipe, [(reference / "lora_attn_procs", 1.0)])
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.bfloat16}
