"""Trains the first stage of a painter: a VQGAN (`diffusers.VQModel`) from pictures alone.

The loss is reconstruction (absolute and squared) plus codebook and commitment terms, and, if wanted, a patch
discriminator. There is no perceptual term: it would need foreign weights. From scratch the first steps leave the
latents continuous; then k-means over them makes the codebook. Codes that fall out of use are revived where the
quantisation error is largest. With `codes="patches"` the codes come from the patches themselves (see `patches`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from danqing_pack.errors import FormatError, RequestError
from danqing_pack.examples import open_examples
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Pictures, as_input
from .discriminator import Critic
from .loop import Loop, parameter_groups
from .options import VqganOptions as VqganOptions
from .patches import PatchCodes, k_means, make_patch_codes, nearest
from .writing import write_first_stage


class FirstStage(nn.Module):
    """The VQGAN with what training needs to know: when each code was last used, and whether there is a codebook yet."""

    last_used: Tensor
    ready: Tensor

    def __init__(self, vqvae: VQModel, ready: bool, patches: PatchCodes | None = None) -> None:
        super().__init__()
        self.vqvae, self.patches = vqvae, patches
        self.register_buffer("last_used", torch.zeros(vqvae.quantize.n_e, dtype=torch.int64))
        self.register_buffer("ready", torch.tensor(ready))

    def forward(self, pixels: Tensor, commitment: float, name: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Float pixels [B, 3, H, W] -> reconstruction, codebook loss, latents [N, width], code ids [N].

        `name`: with fixed codes, whether the encoder takes part (it learns to name them)."""
        vqvae = self.vqvae
        if self.patches is not None:
            return self._with_patches(pixels, self.patches, name)
        latents = vqvae.encode(pixels).latents.float()
        flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        book: Tensor = vqvae.quantize.embedding.weight.float()
        if not self.ready:
            decoded = vqvae.decode(latents, force_not_quantize=True).sample.float()
            return decoded, 0.0 * book.sum(), flat.detach(), torch.zeros_like(flat[:, 0], dtype=torch.int64)
        ids = nearest(flat.detach(), book.detach())
        batch, width, height, across = latents.shape
        chosen = F.embedding(ids, book).view(batch, height, across, width).permute(0, 3, 1, 2)
        loss = F.mse_loss(chosen, latents.detach()) + commitment * F.mse_loss(latents, chosen.detach())
        straight = latents + (chosen - latents).detach()
        return vqvae.decode(straight, force_not_quantize=True).sample.float(), loss, flat.detach(), ids

    def _with_patches(self, pixels: Tensor, patches: PatchCodes, name: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids, book = patches.ids(pixels), self.vqvae.quantize.embedding.weight.detach().float()
        side = int(ids.shape[1] ** 0.5)
        chosen = F.embedding(ids, book).view(len(ids), side, side, -1).permute(0, 3, 1, 2)
        latents = self.vqvae.encode(pixels).latents.float() if name else chosen
        decoded = self.vqvae.decode(chosen, force_not_quantize=True).sample.float()
        flat = latents.detach().permute(0, 2, 3, 1).reshape(-1, book.shape[1])
        return decoded, F.mse_loss(latents, chosen), flat, ids.reshape(-1)


def quiet_start(vqvae: VQModel, offset: float = 2.0) -> None:
    """Fresh weights with every residual branch silent, so that the network begins as a chain of plain convolutions.

    Half the channels before the last group norms start `offset` above zero, half as much below: a norm over a flat
    area would otherwise erase how light it is, which makes the usual start slow on flat drawings.
    """
    for name, module in vqvae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    block: Any
    for block in (vqvae.encoder.mid_block, vqvae.decoder.up_blocks[-1]):
        bias = block.resnets[-1].conv2.bias.data
        bias[0::2], bias[1::2] = offset, -offset


def open_vqgan(model: str) -> tuple[VQModel, bool]:
    """The network that `model` names, and whether it was trained before."""
    place = Path(model)
    if place.is_file() and place.suffix == ".json":
        return _new_vqgan(place), False
    config = place / "config.json"
    if config.is_file() and json.loads(config.read_text("utf-8")).get("_class_name") == "VQModel":
        return VQModel.from_pretrained(place, local_files_only=True), True
    from danqing.loading import load

    found = getattr(load(model, device="cpu", dtype="fp32"), "vqvae", None)
    if not isinstance(found, VQModel):
        raise RequestError(f"{model} holds no VQGAN; name a painter checkpoint, a VQModel folder or its config as JSON.")
    return found, True


def _new_vqgan(place: Path) -> VQModel:
    """A network with fresh weights. Raises FormatError."""
    try:
        config = json.loads(place.read_text("utf-8"))
        known = inspect.signature(VQModel.__init__).parameters
        if unknown := [name for name in config if name not in known and not name.startswith("_")]:
            raise ValueError(f"it has no {', '.join(unknown)}")
        vqvae: VQModel = VQModel.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{place} is no VQModel config ({error}).", path=place) from None
    return vqvae


def train_vqgan(options: VqganOptions) -> dict[str, float]:
    """Run the recipe; the last validation's (else training's) values."""
    examples = open_examples(options.data, **options.reading)
    loop = Loop(options.loop, Path(options.output), len(examples))
    loop.agree(options)
    loop.seed()
    vqvae, trained = open_vqgan(options.model)
    size = options.size or int(vqvae.config["sample_size"])
    factor = 2 ** (len(vqvae.config["block_out_channels"]) - 1)
    if size < factor or size % factor:
        raise RequestError(f"--size {size} is no multiple of {factor}, the pixels of a code of this network.")
    if not trained:
        quiet_start(vqvae)
    pictures = Pictures(examples, size)
    patches = _patches(options, vqvae, pictures, loop) if options.codes == "patches" else None
    stage = FirstStage(vqvae, trained or options.continuous_steps == 0 or patches is not None, patches)
    held = Pictures(open_examples(options.validation, **options.reading), size) if options.validation else None
    model, optimizer = loop.accelerator.prepare(stage, _optimizer(stage, options))
    critic = Critic(loop) if options.adversarial_weight > 0 else None
    first, values = loop.restore(), dict[str, float]()
    stage.train()
    for step in range(first, loop.total):
        if not stage.ready and step >= options.continuous_steps:
            _make_codebook(stage, pictures, loop)
        seen: list[tuple[Tensor, Tensor]] = []
        losses = _losses(model, pictures, loop, options, step, seen, critic)
        loss = loop.step(model, optimizer, losses, step)
        if stage.ready and patches is None:
            _mind_codes(stage, optimizer, seen, loop, options, step)
        done = step + 1
        if done % options.loop.log_every == 0 or done == loop.total:
            values = {"loss": loss}
            if patches is None:
                values["used_codes"] = float((stage.last_used > done - 100).sum())
            loop.log(done, values)
        if held is not None and (done % options.loop.validate_every == 0 or done == loop.total):
            values = validate(stage, held, options.loop.batch_size)
            loop.log(done, values, "validation")
            loop.consider(done, values["absolute"], vqvae)
        if options.loop.sample_every and done % options.loop.sample_every == 0 and loop.main:
            loop.show(done, "reconstruction", _sheet(stage, held or pictures))
        if done % options.loop.save_every == 0 or done == loop.total:
            loop.save(done)
    if loop.main:
        write(vqvae, size, options, patches, loop.chosen(vqvae))
    loop.close()
    return values


def _optimizer(stage: FirstStage, options: VqganOptions) -> torch.optim.AdamW:
    groups = parameter_groups(stage, options.loop.weight_decay)
    book = stage.vqvae.quantize.embedding.weight
    groups[1]["params"] = [value for value in groups[1]["params"] if value is not book]
    groups.append({"params": [book], "weight_decay": 0.0, "peak": options.loop.learning_rate * options.codebook_rate})
    return torch.optim.AdamW(groups, lr=options.loop.learning_rate, betas=options.loop.betas)


def _losses(
    model: nn.Module, pictures: Pictures, loop: Loop, options: VqganOptions, step: int,
    seen: list[tuple[Tensor, Tensor]], critic: Critic | None,
) -> Iterator[Tensor]:
    for rows in loop.micro_batches(step):
        pixels = as_input(pictures.batch(rows)).to(loop.accelerator.device)
        with loop.accelerator.autocast():
            decoded, codebook, flat, ids = model(pixels, options.commitment, step % options.encoder_every == 0)
        seen.append((flat, ids))
        error = decoded - pixels
        loss = error.abs().mean() + options.squared_weight * error.square().mean() + codebook
        if critic is not None and step >= options.adversarial_start:
            loss = loss + options.adversarial_weight * critic.judge(pixels, decoded)
        yield loss


def _patches(options: VqganOptions, vqvae: VQModel, pictures: Pictures, loop: Loop, count: int = 4096) -> PatchCodes:
    """Codes from the table's first pictures; the codebook takes them and stays as it is."""
    book = vqvae.quantize.embedding.weight
    rows = loop.order.rows_at(0, min(count, len(pictures)))
    side = 2 ** (len(vqvae.config["block_out_channels"]) - 1)
    patches = make_patch_codes(pictures.batch(rows), side, len(book), book.shape[1], loop.options.seed)
    book.data.copy_(patches.book)
    return patches


@torch.no_grad()
def _make_codebook(stage: FirstStage, pictures: Pictures, loop: Loop, limit: int = 65536, rounds: int = 15) -> None:
    """k-means over latents of the training pictures; equal on every process, since the rows and the seed are."""
    book = stage.vqvae.quantize.embedding.weight
    generator = torch.Generator().manual_seed(loop.options.seed)
    found: list[Tensor] = []
    start = 0
    while sum(map(len, found)) < limit and start < len(pictures):
        rows = loop.order.rows_at(start, min(32, len(pictures) - start))
        latents = stage.vqvae.encode(as_input(pictures.batch(rows)).to(book.device)).latents.float()
        found.append(latents.permute(0, 2, 3, 1).reshape(-1, book.shape[1]).cpu())
        start += len(rows)
    book.copy_(k_means(torch.cat(found), len(book), generator, rounds))
    stage.ready.fill_(True)


@torch.no_grad()
def _mind_codes(
    stage: FirstStage, optimizer: Any, seen: list[tuple[Tensor, Tensor]], loop: Loop, options: VqganOptions, step: int,
    patience: int = 100,
) -> None:
    """Note which codes were used; move those unused for `patience` steps to latents that are served worst."""
    flat, ids = (loop.accelerator.gather(torch.cat(part)) for part in zip(*seen, strict=True))
    stage.last_used[ids.unique()] = step + 1
    if not options.revive_every or (step + 1) % options.revive_every or step > options.revive_until * loop.total:
        return
    book = stage.vqvae.quantize.embedding.weight
    dead = (stage.last_used < step + 1 - patience).nonzero()[:, 0][: len(flat) // 8]
    if not len(dead):
        return
    error = (flat - book[ids]).square().sum(1).cpu()
    generator = torch.Generator().manual_seed(loop.options.seed * 1_000_003 + step)
    book[dead] = flat[torch.multinomial(error + 1e-12, len(dead), generator=generator).to(flat.device)].to(book.dtype)
    stage.last_used[dead] = step + 1
    for name, value in optimizer.state[book].items():
        if name != "step":
            value[dead] = 0


@torch.no_grad()
def validate(stage: FirstStage, pictures: Pictures, batch: int) -> dict[str, float]:
    """Errors over a table, mean absolute and root mean squared, for pixels in 0..1; how many codes it uses; the share
    of places where the encoder names the code that the decoder was given (1 unless codes come from patches)."""
    stage.eval()
    absolute, squared, count, named, used = 0.0, 0.0, 0, 0.0, set[int]()
    device = stage.last_used.device
    for start in range(0, len(pictures), batch):
        pixels = as_input(pictures.batch(range(start, min(start + batch, len(pictures))))).to(device)
        decoded, _, flat, ids = stage(pixels, 0.0)
        right = nearest(flat, stage.vqvae.quantize.embedding.weight.float()) == ids
        named += float(right.float().mean()) * len(pixels)
        error = (decoded.clamp(-1, 1) - pixels) / 2
        absolute, squared = absolute + float(error.abs().sum()), squared + float(error.square().sum())
        count += error.numel()
        used.update(ids.unique().tolist())
    stage.train()
    return {"absolute": absolute / count, "rms": (squared / count) ** 0.5, "codes": float(len(used)),
            "named": named / len(pictures)}


@torch.no_grad()
def _sheet(stage: FirstStage, pictures: Pictures, count: int = 8) -> Tensor:
    pixels = as_input(pictures.batch(range(min(count, len(pictures))))).to(stage.last_used.device)
    both = torch.stack([pixels, stage(pixels, 0.0)[0]]).clamp(-1, 1)
    rows: Tensor = both.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return ((rows + 1) * 127.5).round().to(torch.uint8)


def write(vqvae: VQModel, size: int, options: VqganOptions, patches: PatchCodes | None, step: int) -> Path:
    """The trained network in `output/model`: a VQModel folder, or EasyNLP's `vqgan.bin` with its key names."""
    vqvae.register_to_config(sample_size=size)
    target = Path(options.output) / "model"
    write_first_stage(vqvae, target, options.output_layout,
                      {"recipe": "vqgan", "weights_of_step": step, **asdict(options)}, patches)
    return target
