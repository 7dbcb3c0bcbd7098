"""fp16 training: the scale of the gradients, as accelerate keeps it on a GPU, through steps, clipping and interruptions.

torch scales gradients on a CPU as well, so the way through the loop can be walked without a GPU; accelerate just does
not set it up there. Where there is a GPU, the same runs on it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from danqing.mini.making import write_tables
from danqing.train.loop import Loop, LoopOptions
from danqing.train.painter import PainterOptions, train_painter
from diffusers import VQModel
from safetensors.torch import load_file

STAGE = dict(block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=8, num_vq_embeddings=16, vq_embed_dim=4,
             down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64)
FEW = LoopOptions(steps=8, batch_size=2, accumulation=2, learning_rate=1e-2, log_every=1, save_every=4)


@pytest.fixture
def options(tmp_path: Path) -> PainterOptions:
    write_tables(tmp_path, rows=12, seed=1, validation_rows=4)
    torch.manual_seed(0)
    VQModel(**STAGE).save_pretrained(tmp_path / "stage")
    (tmp_path / "sizes.json").write_text(json.dumps({"n_layer": 1, "n_head": 2, "n_embd": 16}))
    return PainterOptions(data=f"{tmp_path}/train.tsv", model=f"{tmp_path}/sizes.json", output=f"{tmp_path}/out",
                          first_stage=f"{tmp_path}/stage", vocab=f"{tmp_path}/vocab.txt", loop=FEW)


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """accelerate on the CPU, set up as it sets itself up on a GPU; the scalers that were made."""
    made: list[Any] = []
    real = accelerate.Accelerator

    def accelerator(*, mixed_precision: str, kwargs_handlers: list[Any]) -> Any:
        found = real(mixed_precision="fp16", cpu=True, kwargs_handlers=kwargs_handlers)
        found.native_amp = True
        found.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        made.append(found.scaler)
        return found

    monkeypatch.setattr(accelerate, "Accelerator", accelerator)
    return made


def losses(output: str | Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(output) / "log.jsonl").read_text().splitlines()]


def interrupted(options: PainterOptions) -> None:
    step = Loop.step

    def stops(self: Any, model: Any, optimizer: Any, found: Any, number: int) -> float:
        if number == 6:
            raise KeyboardInterrupt
        return step(self, model, optimizer, found, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step", stops)
        train_painter(options)
    train_painter(replace(options, loop=replace(options.loop, resume=True)))


def scale(output: str | Path) -> dict[str, Any]:
    return dict(torch.load(Path(output) / "checkpoints/step-00000008/scaler.pt"))


def test_the_scale_is_part_of_a_checkpoint(options: PainterOptions, scaling: list[Any]) -> None:
    broken = replace(options, output=f"{options.output}-broken")
    train_painter(options)
    interrupted(broken)
    assert losses(broken.output) == losses(options.output)
    one, two = (load_file(Path(each.output) / "model/transformer/model.safetensors") for each in (options, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert scale(options.output) == scale(broken.output)
    assert scale(options.output)["scale"] == 2.0**12        # it grew twice in eight steps, and never once too often


def test_scaled_steps_are_the_steps_of_full_precision(options: PainterOptions, scaling: list[Any]) -> None:
    loop = replace(FEW, clip=0.05)      # far below the gradients: clipping what is still scaled would show
    train_painter(replace(options, loop=loop))
    scaled = losses(options.output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerate, "Accelerator", accelerate.accelerator.Accelerator)
        train_painter(replace(options, output=f"{options.output}-full", loop=loop))
    assert scaled == pytest.approx(losses(f"{options.output}-full"), abs=5e-3)
    assert scaled[0] - scaled[-1] > 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(options: PainterOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)     # an earlier test may have chosen the CPU
    half = replace(options, loop=replace(FEW, precision="fp16"))
    broken = replace(half, output=f"{options.output}-broken")
    train_painter(half)
    interrupted(broken)
    assert losses(broken.output) == pytest.approx(losses(half.output), abs=1e-3)
    assert scale(broken.output) == scale(half.output)
