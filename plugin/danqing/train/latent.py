"""Fine-tunes the UNet of a chinese-ldm: it learns to name the noise in latents, given the text.

Autoencoder and text encoder stay as they are. The random numbers of a picture (its latents' sample, its time and its
noise) follow from the seed, the step and its place in the batch, so there is no state to resume.

Source: the training of EasyNLP's `latent_diffusion`. It trained the plain weights and went on sampling with an EMA copy
that nobody updated; here the weights that the checkpoint samples with are trained, and the result has no other ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from danqing_pack.conversion import convert
from danqing_pack.errors import FormatError
from danqing_pack.examples import Examples, open_examples
from danqing_pack.families.chinese_ldm import COUNTERS, EMA, UNET
from danqing_pack.json_files import as_json
from danqing_pack.staging import scratch_folder
from danqing_pack.tensors import open_safetensors, write_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.places import find_model
from danqing.progress import library_bars

from .data import as_input, picture_of
from .loop import Loop, parameter_groups
from .options import LatentOptions as LatentOptions
from .writing import note

TWINS = (UNET, EMA, *COUNTERS)
"""The other copy of the UNet that a checkpoint may keep aside."""


def open_latent(model: str) -> Any:
    """The pipeline to train, in fp32 on the CPU."""
    from danqing.loading import load

    pipe: Any = load(model, device="cpu", dtype="fp32")
    if getattr(pipe, "danqing_family", None) != "chinese-ldm":
        raise FormatError(f"{model} is no latent diffusion of EasyNLP: name a chinese-ldm checkpoint.", path=model)
    return pipe


def train_latent(options: LatentOptions) -> dict[str, float]:
    """Run the recipe; the last validation's (else training's) values."""
    examples = open_examples(options.data, **options.reading)
    held = open_examples(options.validation, **options.reading) if options.validation else None
    loop = Loop(options.loop, Path(options.output), len(examples))
    loop.agree(options)
    loop.seed()
    pipe = open_latent(options.model)
    for frozen in (pipe.vae, pipe.text_encoder):
        frozen.requires_grad_(False).eval().to(loop.accelerator.device)
    if options.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    source = NoisyLatents(pipe, loop, options.random_crop)
    optimizer = torch.optim.AdamW(parameter_groups(pipe.unet, options.loop.weight_decay),
                                  lr=options.loop.learning_rate, betas=options.loop.betas)
    model, optimizer = loop.accelerator.prepare(pipe.unet, optimizer)
    first, values = loop.restore(), dict[str, float]()
    model.train()
    for step in range(first, loop.total):
        loss = loop.step(model, optimizer, _losses(model, source, examples, loop, step), step)
        done = step + 1
        if done % options.loop.log_every == 0 or done == loop.total:
            values = {"loss": loss}
            loop.log(done, values)
        if held is not None and (done % options.loop.validate_every == 0 or done == loop.total):
            values = {"loss": validate(model, source, held)}
            loop.log(done, values, "validation")
            loop.consider(done, values["loss"], pipe.unet)
        if done % options.loop.save_every == 0 or done == loop.total:
            loop.save(done)
    if loop.main:
        write_latent(pipe.unet, options, loop.chosen(pipe.unet))
    loop.close()
    return values


class NoisyLatents:
    """What the UNet sees of a table's rows."""

    def __init__(self, pipe: Any, loop: Loop, random_crop: bool = False) -> None:
        self.pipe, self.loop, self.random_crop = pipe, loop, random_crop
        self.size = int(pipe.vae.config.sample_size)
        self._scale = float(pipe.vae.config.scaling_factor)

    @torch.no_grad()
    def batch(self, examples: Examples, rows: Sequence[int], turns: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Keywords of the UNet and the noise [B, channels, h, w] that it should name. `turns` seed the rows' numbers."""
        device, scheduler = self.loop.accelerator.device, self.pipe.scheduler
        pixels = self._pixels(examples, rows, turns).to(device, self.pipe.vae.dtype)
        moments = self.pipe.vae.encode(pixels).latent_dist
        drawn, noise, times = self._numbers(turns, moments.mean.shape[1:])
        latents = self._scale * (moments.mean + moments.std * drawn.to(device))
        noise, times = noise.to(device), times.to(device)
        context, _ = self.pipe.encode_prompt([examples.text(row) for row in rows], device, 1, False)
        noisy = scheduler.add_noise(latents, noise, times).to(self.pipe.unet.dtype)
        return {"sample": noisy, "timestep": times, "encoder_hidden_states": context}, noise

    def _pixels(self, examples: Examples, rows: Sequence[int], turns: Sequence[str]) -> Tensor:
        chances = [random.Random(turn) if self.random_crop else None for turn in turns]
        return as_input(torch.stack([
            picture_of(examples[row].image_bytes, self.size, examples.where(row), chance)
            for row, chance in zip(rows, chances, strict=True)]))

    def _numbers(self, turns: Sequence[str], shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """Two normal tensors [B, channels, h, w] and the times [B]."""
        steps, drawn, noise, times = int(self.pipe.scheduler.config.num_train_timesteps), [], [], []
        for turn in turns:
            generator = torch.Generator().manual_seed(random.Random(turn).getrandbits(63))
            drawn.append(torch.randn(shape, generator=generator))
            noise.append(torch.randn(shape, generator=generator))
            times.append(torch.randint(0, steps, (), generator=generator))
        return torch.stack(drawn), torch.stack(noise), torch.stack(times)


def _losses(model: nn.Module, source: NoisyLatents, examples: Examples, loop: Loop, step: int) -> Iterator[Tensor]:
    process = loop.accelerator.process_index
    for turn, rows in enumerate(loop.micro_batches(step)):
        turns = [f"{loop.options.seed} {step} {turn} {process} {place}" for place in range(len(rows))]
        batch, noise = source.batch(examples, rows, turns)
        with loop.accelerator.autocast():
            yield F.mse_loss(model(**batch).sample.float(), noise)


@torch.no_grad()
def validate(model: nn.Module, source: NoisyLatents, examples: Examples) -> float:
    """Mean squared error of the named noise over a table, each row always with the same random numbers."""
    model.eval()
    total, size, loop = 0.0, source.loop.options.batch_size, source.loop
    for start in range(0, len(examples), size):
        rows = range(start, min(start + size, len(examples)))
        batch, noise = source.batch(examples, rows, [f"validation {row}" for row in rows])
        with loop.accelerator.autocast():
            total += float(F.mse_loss(model(**batch).sample.float(), noise)) * len(rows)
    model.train()
    return total / len(examples)


def write_latent(unet: Any, options: LatentOptions, step: int) -> None:
    """The base with the trained UNet in `output/model`; replaces it."""
    target = Path(options.output) / "model"
    with scratch_folder(target) as scratch, library_bars():
        base = scratch / "base"
        convert(find_model(options.model), base, to="diffusers", dtype="fp32")
        _forget_twins(base)
        unet.save_pretrained(base / "unet")
        convert(base, target, to=options.output_layout, dtype=options.output_dtype, force=True)
    note(target, {"recipe": "latent", "weights_of_step": step, **asdict(options)})


def _forget_twins(folder: Path) -> None:
    """One UNet alone is left, and config.json says so: the original would sample with an EMA copy that is not there."""
    unused, config = folder / "legacy/unused.safetensors", folder / "legacy/config.json"
    if unused.is_file():
        kept = {name: tensor for name, tensor in open_safetensors(unused).items() if not name.startswith(TWINS)}
        write_safetensors(folder / "legacy/kept.safetensors", kept)
        (folder / "legacy/kept.safetensors").replace(unused)
    if config.is_file():
        tree = json.loads(config.read_text("utf-8"))
        tree["model"]["params"]["use_ema"] = False
        config.write_bytes(as_json(tree))
