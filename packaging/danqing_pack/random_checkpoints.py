"""Checkpoints of random weights, of any family, tiny or at full size: for tests, benches, and trying things out.

Every tensor is drawn from the hash of its name, so the same family and size give the same bytes everywhere, and nothing
larger than one tensor is in memory. The pictures are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np

from .conversion import target_form
from .detection import Opened
from .errors import RequestError, listing
from .families import FAMILIES, chinese_ldm, pai_diffusion, painter_sizes
from .families.autoencoders import AutoencoderDimensions
from .families.chinese_ldm_config import legacy_config
from .families.clip_text import ClipTextDimensions
from .families.esrgan import UpscalerDimensions, upscaler_table
from .families.latent_diffusion import UNetDimensions
from .families.noise_schedules import NoiseSchedule
from .families.painter import causal_mask
from .families.wukong import TextDimensions
from .family import Form, Options
from .json_files import as_json
from .keymap import KeyMap
from .layouts import LAYOUTS
from .layouts.layout import Progress
from .sides import Legacy, Modern
from .staging import CHECKPOINT, staged_folder
from .tensors import Tensor

SIZES = ("tiny", "full")
LAYOUT = {"pai-diffusion": "diffusers"}
"""How a family lies on the hubs, where that is not EasyNLP's folder."""
SPECIALS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
LATIN = [chr(code) for code in range(33, 127) if not chr(code).isupper()]


def write(family: str, target: str | Path, size: str = "tiny", *, layout: str | None = None, dtype: str | None = None,
          force: bool = False, progress: Progress | None = None) -> Path:
    """Write a random checkpoint of ``family`` to the new folder ``target``; its path.

    Args:
        size: ``tiny`` (about a million parameters) or ``full`` (as published).
        layout: one of the family's; EasyNLP's folder by default, for pai-diffusion the diffusers folder.
        dtype: fp32 (default), fp16 or bf16.

    Raises:
        RequestError: a word that is unknown, or the target exists.
    """
    if family not in MAKERS or size not in SIZES:
        raise RequestError(f"There are no random checkpoints of {family}, {size}; choose one of "
                           f"{listing(sorted(MAKERS))} and one of {listing(SIZES)}.")
    name = layout or LAYOUT.get(family, "easynlp")
    found = next((each for each in LAYOUTS if each.name == name), None)
    if found is None:
        raise RequestError(f"There is no layout {name}; choose one of {listing([each.name for each in LAYOUTS])}.")
    kind = next(each for each in FAMILIES if each.name == family)
    nowhere = Opened(Path(), found, MAKERS[family](size == "full"), kind, ())
    with staged_folder(target, force=force, marks=CHECKPOINT) as folder:
        found.contents(target_form(nowhere, found, Options(), dtype)).write(folder, progress)
    return Path(target)


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """float32 of this shape. Matrices and convolutions keep the scale of their input, norms and biases do nothing."""
    def draw() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if len(shape) < 2:
            return np.full(shape, float(name.endswith("weight")), np.float32)
        key = int.from_bytes(sha256(name.encode()).digest()[:16], "little")
        values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)
        values *= np.float32(prod(shape[1:]) ** -0.5)
        return values

    return Tensor.derived(np.dtype("<f4"), shape, draw)


def _state(table: KeyMap) -> dict[str, Tensor]:
    """Every legacy key of a table; each states its shape."""
    return {name: random_tensor(name, row.shape) for row in table.rows for name in row.legacy if row.shape is not None}


def vocabulary(words: int) -> bytes:
    """``vocab.txt`` of a BERT: special tokens at their places, Latin letters and digits, then Chinese characters."""
    ahead = [SPECIALS.get(place, f"[unused{place}]") for place in range(104)]
    latin = [*LATIN, *(f"##{letter}" for letter in LATIN if letter.isalnum())]
    chinese = (chr(0x4E00 + index) for index in range(words))
    lines = [*ahead, *latin, *chinese][:words]
    return "".join(f"{line}\n" for line in lines).encode()


def _painter(full: bool) -> Legacy:
    levels = (128, 128, 256, 256, 512) if full else (32, 32, 64)
    codes, words, text, side = (16384, 21128, 32, 16) if full else (64, 600, 16, 8)
    attention = (False,) * (len(levels) - 1) + (True,)
    vqgan = AutoencoderDimensions(levels, attention, 2 if full else 1, 256 if full else 32, 3, 3)
    size = painter_sizes.PainterDimensions(
        vocab_size=codes + words, image_vocab_size=codes, block_size=text + side * side, text_length=text,
        image_length=side * side, layers=12 if full else 2, heads=12 if full else 4, width=768 if full else 64,
        n_unmasked=0, entity_dim=0, codes=codes, code_width=256 if full else 32, attention_dropout=0.0,
        embedding_dropout=0.0, residual_dropout=0.0, vqgan=vqgan)
    table = painter_sizes.transformer_table(size).under("transformer", "transformer") + painter_sizes.vqgan_table(size).under(
        "first_stage_model", "vqvae")
    masks = {f"transformer.blocks.{i}.attn.mask": Tensor.of(causal_mask(size)) for i in range(size.layers)}
    config = {"model_type": "artist", "vocab_size": size.vocab_size, "img_vocab_size": codes, "text_vocab_size": words,
              "block_size": size.block_size, "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width,
              "n_unmasked": 0}
    stated = {"user_defined_parameters": f"text_len={text} img_len={side * side}"}
    return Legacy(config, _state(table) | masks, {
        "config.json": as_json(config), "vocab.txt": vocabulary(words), "train_config.json": as_json(stated)})


def _latent_sizes(full: bool, context: int, pixels: int) -> tuple[UNetDimensions, AutoencoderDimensions]:
    """The UNet and the autoencoder of Stable Diffusion 1.x, or small ones of the same build."""
    channels = (320, 640, 1280, 1280) if full else (32, 64, 64, 64)
    levels = (128, 256, 512, 512) if full else (32, 32, 32, 32)
    attention, layers = (True, True, True, False), 2 if full else 1
    unet = UNetDimensions(4, 4, channels, attention, (8,) * 4, layers, 1, context, pixels // 8)
    return unet, AutoencoderDimensions(levels, (False,) * 4, 2 if full else 1, 4, 3, 3, double_z=True)


def _chinese_ldm(full: bool) -> Legacy:
    text = TextDimensions(vocab_size=21128 if full else 600, length=32, width=768 if full else 32,
                          layers=12 if full else 2, heads=12 if full else 4, output=768 if full else 32,
                          normalize=True, n_repeat=1)
    unet, autoencoder = _latent_sizes(full, text.output, 256 if full else 64)
    size = chinese_ldm.ChineseLDMDimensions(unet, autoencoder, text, 0.18215, 1000, "plain", True)
    schedule = NoiseSchedule(start=0.00085, end=0.012)
    buffers = {name: Tensor.of(values) for name, values in schedule.buffers().items()}
    config = legacy_config(size, schedule)
    upscaler = UpscalerDimensions(64 if full else 8, 23 if full else 1, 32 if full else 4, 3)
    return Legacy(
        config, _state(chinese_ldm.network_table(size)) | buffers,
        {"config.json": as_json(config), "vocab.txt": vocabulary(text.vocab_size)},
        {chinese_ldm.UPSCALER: _state(upscaler_table(upscaler))})


def _pai_diffusion(full: bool) -> Modern:
    text = ClipTextDimensions(vocab_size=21128 if full else 600, text_length=32, width=768 if full else 32,
                              layers=12 if full else 2, heads=12 if full else 4, feed_forward=3072 if full else 128)
    unet, vae = _latent_sizes(full, text.width, 512 if full else 64)
    size = pai_diffusion.PaiDimensions(unet, vae, text)
    params = {"unet_config": {"params": {"num_heads": unet.heads[0], "image_size": unet.sample_size}}}
    files = {"vocab.txt": vocabulary(text.vocab_size),
             f"{pai_diffusion.CLIP_FOLDER}config.json": as_json(text.transformers_config())}
    legacy = Legacy({"model": {"params": params}}, _state(pai_diffusion.whole_table(size)), files)
    return replace(pai_diffusion.to_modern(legacy, Options()), files={})


MAKERS: dict[str, Callable[[bool], Form]] = {
    "painter": _painter, "chinese-ldm": _chinese_ldm, "pai-diffusion": _pai_diffusion,
}
