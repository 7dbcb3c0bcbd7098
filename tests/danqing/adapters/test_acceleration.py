"""Speed-ups change rounding and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.adapters import acceleration
from danqing.adapters.acceleration import Speedups, accelerate, pick
from danqing.adapters.lora import apply_loras
from danqing_pack.errors import RequestError


def global_state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
        torch.backends.cudnn.benchmark, torch.is_grad_enabled(), torch.random.get_rng_state().sum().item(),
    )


@pytest.mark.parametrize("speedups", [
    Speedups(channels_last=True), Speedups(fused_qkv=True), Speedups(channels_last=True, fused_qkv=True),
])
def test_the_same_image(pipe: Any, equals_run: Callable[..., None], speedups: Speedups) -> None:
    before = global_state()
    assert accelerate(pipe, speedups) is speedups
    equals_run(pipe, "pndm_negative")
    assert global_state() == before


def test_bf16_is_near(pipe: Any) -> None:
    def draw() -> Any:
        return pipe("猫", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images

    plain = draw()
    accelerate(pipe, Speedups(torch.bfloat16, channels_last=True))
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}
    assert abs(draw() - plain).max() < 0.1


def test_loras_are_fused_first(pipe: Any, reference: Path, equals_run: Callable[..., None]) -> None:
    """Fused projections read the base weights alone and would lose a LoRA in silence."""
    apply_loras(pipe, [(reference / "lora_attn_procs", 0.5)])
    accelerate(pipe, Speedups(fused_qkv=True))
    equals_run(pipe, "lora_0.5")


def test_a_lora_after_fusing_is_refused(pipe: Any, reference: Path) -> None:
    accelerate(pipe, Speedups(fused_qkv=True))
    with pytest.raises(RequestError, match="before the pipeline is made faster"):
        apply_loras(pipe, [(reference / "lora_attn_procs", 1.0)])


@pytest.mark.parametrize(("gain", "words"), [(2.5, "bfloat16, channels-last"), (0.4, "nothing that would pay")])
def test_what_is_picked_on_a_cpu(monkeypatch: pytest.MonkeyPatch, gain: float, words: str) -> None:
    monkeypatch.setattr(acceleration, "bf16_gain", lambda: gain)
    assert str(pick("cpu")) == words


def test_a_small_network_stays_as_it_is(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "bf16_gain", lambda: 2.5)
    assert accelerate(pipe) == Speedups() and pipe.unet.dtype == torch.float32
    assert pick("cpu", parameters=10**9).dtype == torch.bfloat16


def test_the_probe_measures() -> None:
    assert 0.001 < acceleration.bf16_gain(size=64, rounds=1) < 1000


def test_requests_that_cannot_be_met(pipe: Any) -> None:
    with pytest.raises(RequestError, match="no speed level 'ludicrous'"):
        pick("cpu", "ludicrous")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="need a CUDA device"):
        accelerate(pipe, Speedups(graphs=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("speedups", [Speedups(graphs=True), Speedups(channels_last=True, fused_qkv=True, graphs=True)])
def test_graphs_give_the_same_image(pipe: Any, equals_run: Callable[..., None], speedups: Speedups) -> None:
    def draw(prompt: str, **options: Any) -> torch.Tensor:
        start = torch.Generator().manual_seed(0)
        image: torch.Tensor = pipe(prompt, num_inference_steps=4, generator=start, output_type="pt", **options).images
        return image.cpu()

    pipe.to("cuda")
    cases: list[dict[str, Any]] = [{}, {"num_images_per_prompt": 2}, {"guidance_scale": 1.0}]
    plain = [draw("猫", **options) for options in cases]
    accelerate(pipe, speedups)
    for options, wanted in [*zip(cases, plain, strict=True)] * 2:
        assert (draw("猫", **options) - wanted).abs().max() < 2e-3
