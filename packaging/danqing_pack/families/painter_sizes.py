"""How large a painter is, and which key of the one side is which of the other.

Dimensions come from tensor shapes and the stored mask first, from config.json second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from ..errors import ConversionError, FormatError, RequestError
from ..family import Form, Options
from ..keymap import (
    BATCHED,
    JOINED,
    JOINED_TRANSPOSED,
    SAME,
    TRANSPOSED,
    KeyMap,
    State,
    conv,
    key,
    linear,
    module,
    norm,
    shape_of,
    stack,
)
from ..sides import Blob, Legacy, Modern, content
from ..tensors import Tensor
from .autoencoders import AutoencoderDimensions, autoencoder_table, sizes_from_config, sizes_from_state

CONFIG_DEFAULTS: dict[str, Any] = {
    "n_head": 12, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "n_unmasked": 0,
}


@dataclass(frozen=True)
class PainterDimensions:
    """Sizes of a painter. ``vocab_size`` counts image codes and text tokens; lengths are in tokens."""

    vocab_size: int
    image_vocab_size: int
    block_size: int
    text_length: int
    image_length: int
    layers: int
    heads: int
    width: int
    n_unmasked: int
    entity_dim: int
    codes: int
    code_width: int
    attention_dropout: float
    embedding_dropout: float
    residual_dropout: float
    vqgan: AutoencoderDimensions

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return isqrt(self.image_length) * self.vqgan.factor

    def describe(self) -> str:
        """One line for ``danqing detect``."""
        knowledge = ", knowledge variant" if self.entity_dim else ""
        return (
            f"{self.text_length} text + {self.image_length} image tokens, {self.image_size} x {self.image_size} pixels, "
            f"{self.layers} layers of width {self.width} with {self.heads} heads, {self.codes} codes{knowledge}"
        )


# ---------------------------------------------------------------- the key table

def block_table(width: int) -> KeyMap:
    """One transformer block: minGPT names left, GPT-2 names right. GPT-2 keeps linear weights transposed."""
    return (
        norm("ln1", "ln_1", width)
        + module(("attn.query", "attn.key", "attn.value"), "attn.c_attn", (width, width),
                 op=JOINED_TRANSPOSED, bias_op=JOINED)
        + linear("attn.proj", "attn.c_proj", width, width, op=TRANSPOSED)
        + norm("ln2", "ln_2", width)
        + linear("mlp.0", "mlp.c_fc", width, 4 * width, op=TRANSPOSED)
        + linear("mlp.2", "mlp.c_proj", 4 * width, width, op=TRANSPOSED)
    )


def transformer_table(size: PainterDimensions) -> KeyMap:
    """The GPT with its separate head, and the entity projection of the knowledge variant."""
    width = size.width
    return (
        key("tok_emb.weight", "gpt.wte.weight", SAME, (size.vocab_size, width))
        + key("pos_emb", "gpt.wpe.weight", BATCHED, (1, size.block_size, width))
        + stack(block_table(width).under(f"blocks.{i}", f"gpt.h.{i}") for i in range(size.layers))
        + norm("ln_f", "gpt.ln_f", width)
        + linear("head", "head", width, size.image_vocab_size, bias=False)
        + (linear("ent_emb", "ent_emb", size.entity_dim, width) if size.entity_dim else KeyMap())
    )


def vqgan_table(size: PainterDimensions) -> KeyMap:
    """The VQGAN: encoder, decoder, codebook."""
    z = size.vqgan.latent_channels
    return (
        autoencoder_table(size.vqgan)
        + key("quantize.embedding.weight", "quantize.embedding.weight", SAME, (size.codes, size.code_width))
        + conv("quant_conv", "quant_conv", z, size.code_width, 1)
        + conv("post_quant_conv", "post_quant_conv", size.code_width, z, 1)
    )


# ---------------------------------------------------------------- dimensions

def dimensions(form: Form, options: Options) -> PainterDimensions:
    """Read every size of a painter from what lies there."""
    return _legacy_dimensions(form, options) if isinstance(form, Legacy) else _modern_dimensions(form, options)


def _legacy_dimensions(form: Legacy, options: Options) -> PainterDimensions:
    state, config = form.tensors, {**CONFIG_DEFAULTS, **form.config}
    vocab_size, width = _shape(state, "transformer.tok_emb.weight", 2)
    _, block_size, _ = _shape(state, "transformer.pos_emb", 3)
    image_vocab_size, _ = _shape(state, "transformer.head.weight", 2)
    codes, code_width = _shape(state, "first_stage_model.quantize.embedding.weight", 2)
    layers = len({name.split(".")[2] for name in state if name.startswith("transformer.blocks.")})
    n_unmasked = _unmasked(form)
    text_length, image_length = _lengths(form, block_size, n_unmasked, options.text_length)
    images, texts = config.get("img_vocab_size"), config.get("text_vocab_size")
    if isinstance(images, int) and isinstance(texts, int) and images + texts == vocab_size and images != image_vocab_size:
        raise ConversionError(
            f"The tensor transformer.head.weight has {image_vocab_size} rows, where config.json and the embeddings count "
            f"{images} image codes; restore the weights from their source.", problems=["transformer.head.weight"])
    entities = state.get("transformer.ent_emb.weight")
    heads = int(config["n_head"])
    if width % heads:
        raise FormatError(
            f"The transformer is {width} wide and has n_head {heads} {'in' if 'n_head' in form.config else 'for want of one in'} "
            "config.json, which does not divide it; set n_head there as the model was trained.", width=width, heads=heads)
    return PainterDimensions(
        vocab_size, image_vocab_size, block_size, text_length, image_length, layers, heads, width, n_unmasked,
        entities.shape[1] if entities is not None and entities.ndim == 2 else 0, codes, code_width,
        config["attn_pdrop"], config["embd_pdrop"], config["resid_pdrop"],
        sizes_from_state(strip(state, "first_stage_model.")),
    )


def _modern_dimensions(form: Modern, options: Options) -> PainterDimensions:
    gpt, vqgan = (form.components[name] for name in ("transformer", "vqvae"))
    config = gpt.config or {}
    try:
        text_length, image_length = int(config["text_length"]), int(config["image_length"])
        layers, heads, width = (int(config[name]) for name in ("n_layer", "n_head", "n_embd"))
    except KeyError as missing:
        raise FormatError(f"transformer/config.json has no {missing}; convert the checkpoint anew.") from None
    if options.text_length not in (None, text_length):
        raise RequestError(f"The folder has {text_length} text tokens, which --text-length {options.text_length} cannot "
                           "change; leave the option out.")
    vocab_size, _ = _shape(gpt.tensors, "gpt.wte.weight", 2)
    block_size, _ = _shape(gpt.tensors, "gpt.wpe.weight", 2)
    image_vocab_size, _ = _shape(gpt.tensors, "head.weight", 2)
    codes, code_width = _shape(vqgan.tensors, "quantize.embedding.weight", 2)
    return PainterDimensions(
        vocab_size, image_vocab_size, block_size, text_length, image_length, layers, heads, width,
        int(config.get("n_unmasked", 0)), int(config.get("entity_dim", 0)), codes, code_width,
        config.get("attn_pdrop", 0.0), config.get("embd_pdrop", 0.0), config.get("resid_pdrop", 0.0),
        sizes_from_config(vqgan.config or {}),
    )


def _shape(state: State, name: str, ndim: int) -> tuple[int, ...]:
    return shape_of(state, name, ndim, "it is not a whole painter")


def strip(state: State, prefix: str) -> dict[str, Tensor]:
    """What lies below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _unmasked(form: Legacy) -> int:
    """The stored mask is what the original used, whatever config.json says."""
    mask = form.tensors.get("transformer.blocks.0.attn.mask")
    if mask is None:
        return int(form.config.get("n_unmasked", 0))
    rows = mask.array().reshape(mask.shape[-2:])
    ahead = int(np.count_nonzero(rows[0] != 0))
    return ahead if ahead > 1 else 0


def _lengths(form: Legacy, block_size: int, n_unmasked: int, asked: int | None) -> tuple[int, int]:
    """Text and image tokens, which no EasyNLP file states: the first source that speaks decides."""
    stated = form.manifest.get("dimensions") or {}
    if asked is not None:
        if asked < 1 or not square(block_size - asked):
            raise RequestError(f"--text-length {asked} leaves {block_size - asked} of {block_size} positions for the "
                               "image, which is no square; give the length that the checkpoint was trained with.")
        return asked, block_size - asked
    if {"text_length", "image_length"} <= set(stated):
        return int(stated["text_length"]), int(stated["image_length"])
    trained = _user_parameters(form.files.get("train_config.json"))
    if trained and {"text_len", "img_len"} <= set(trained):
        return int(trained["text_len"]), int(trained["img_len"])
    for text in (n_unmasked, 32):
        if text > 0 and square(block_size - text):
            return text, block_size - text
    raise FormatError(
        f"No file says how many of the {block_size} positions are text; name the length with --text-length.",
        block_size=block_size)


def square(number: int) -> bool:
    """Whether so many tokens make a square picture."""
    return number > 0 and isqrt(number) ** 2 == number


def _user_parameters(blob: Blob | None) -> dict[str, str]:
    """The user parameters in EasyNLP's train_config.json: a dict, or the words of the command line."""
    if blob is None:
        return {}
    try:
        found = json.loads(content(blob)).get("user_defined_parameters") or {}
    except (ValueError, AttributeError):
        return {}
    if isinstance(found, str):
        return dict(word.split("=", 1) for word in found.split() if "=" in word)
    return found if isinstance(found, dict) else {}
