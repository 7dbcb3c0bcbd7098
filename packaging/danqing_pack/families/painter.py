"""painter: a VQGAN whose codes a GPT writes after the text (EasyNLP's app ``text2image_generation``).

The GPT becomes ``transformers.GPT2Model`` with a head of its own, the VQGAN becomes ``diffusers.VQModel``. Dimensions
come from tensor shapes and the stored mask first, from config.json second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np

from ..errors import ConversionError, FormatError, RequestError
from ..family import Family, Form, Options, Signature
from ..json_files import as_json
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
    stack,
)
from ..sides import Blob, Component, Legacy, Modern, content
from ..tensors import Tensor
from .autoencoders import AutoencoderDimensions, autoencoder_table, sizes_from_config, sizes_from_state
from .bert_tokenizers import tokenizer_component, vocabulary_of

CONFIG_DEFAULTS: dict[str, Any] = {
    "n_head": 12, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "n_unmasked": 0,
}
LEFTOVERS = ("first_stage_model.loss.", "first_stage_model.colorize", "first_stage_model.quantize.used")
"""Training leftovers that the original ignored; they are kept aside and go back."""


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
        sizes_from_state(_strip(state, "first_stage_model.")),
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
    if name not in state:
        raise ConversionError(f"The checkpoint has no tensor {name}; it is not a whole painter.", missing=[name])
    shape = tuple(state[name].shape)
    if len(shape) != ndim:
        raise ConversionError(f"The tensor {name} has shape {list(shape)}, where {ndim} axes are expected.",
                              problems=[name])
    return shape


def _strip(state: State, prefix: str) -> dict[str, Tensor]:
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
        if asked < 1 or not _square(block_size - asked):
            raise RequestError(f"--text-length {asked} leaves {block_size - asked} of {block_size} positions for the "
                               "image, which is no square; give the length that the checkpoint was trained with.")
        return asked, block_size - asked
    if {"text_length", "image_length"} <= set(stated):
        return int(stated["text_length"]), int(stated["image_length"])
    trained = _user_parameters(form.files.get("train_config.json"))
    if trained and {"text_len", "img_len"} <= set(trained):
        return int(trained["text_len"]), int(trained["img_len"])
    for text in (n_unmasked, 32):
        if text > 0 and _square(block_size - text):
            return text, block_size - text
    raise FormatError(
        f"No file says how many of the {block_size} positions are text; name the length with --text-length.",
        block_size=block_size)


def _square(number: int) -> bool:
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


# ---------------------------------------------------------------- legacy to modern

def to_modern(form: Form, options: Options) -> Modern:
    """A painter as components for diffusers; a modern one is checked against its table and returned."""
    size = dimensions(form, options)
    _require_consistent(size)
    if isinstance(form, Modern):
        _require_vocabulary(vocabulary_of(form.components["tokenizer"]), size)
        transformer_table(size).to_legacy(form.components["transformer"].tensors, "transformer/model.safetensors")
        vqgan_table(size).to_legacy(form.components["vqvae"].tensors, "vqvae/diffusion_pytorch_model.safetensors")
        return _without_code(form)
    if "vocab.txt" not in form.files:
        raise FormatError("The folder has no vocab.txt, without which no prompt can be read; copy it from the "
                          "checkpoint's pretrained folder.", missing="vocab.txt")
    _require_vocabulary(form.files["vocab.txt"], size)
    state, unused, remade = _set_aside(form, size)
    table = transformer_table(size).under("transformer", "transformer") + vqgan_table(size).under(
        "first_stage_model", "vqvae")
    modern = table.to_modern(state, "pytorch_model.bin")
    files = {f"legacy/{name}": blob for name, blob in form.files.items() if name != "vocab.txt"}
    return Modern(
        class_name="PainterPipeline",
        components={
            "transformer": Component("danqing.components", "PainterTransformer", _transformer_config(size),
                                     _strip(modern, "transformer.")),
            "tokenizer": tokenizer_component(form.files["vocab.txt"], size.text_length),
            "vqvae": Component("diffusers", "VQModel", _vqvae_config(size), _strip(modern, "vqvae.")),
        },
        files={"config.json": _root_config(size)} | ({} if options.drop_unused else files),
        unused={} if options.drop_unused else unused,
        remade=remade,
    )


def _without_code(form: Modern) -> Modern:
    """A folder that brings its own pipeline as code, in the words of one that does not: nothing of it is executed."""
    brought = form.components["transformer"]
    if form.class_name == "PainterPipeline":
        return form
    plain = replace(brought, library="danqing.components",
                    files={name: blob for name, blob in brought.files.items() if not name.endswith(".py")})
    return replace(form, class_name="PainterPipeline", components={**form.components, "transformer": plain})


def _require_consistent(size: PainterDimensions) -> None:
    problems = []
    if size.text_length + size.image_length > size.block_size:
        problems.append(f"{size.text_length} text and {size.image_length} image tokens exceed {size.block_size} positions")
    if not _square(size.image_length):
        problems.append(f"{size.image_length} image tokens are no square")
    if size.image_vocab_size > size.codes:
        problems.append(f"the head writes {size.image_vocab_size} codes, the codebook has {size.codes}")
    if size.vocab_size < size.image_vocab_size:
        problems.append(f"{size.vocab_size} embeddings cannot hold {size.image_vocab_size} image codes")
    if problems:
        raise FormatError(f"The parts of this painter do not fit each other: {'; '.join(problems)}.", problems=problems)


def _require_vocabulary(vocabulary: Blob, size: PainterDimensions) -> None:
    if found := vocabulary_problems(vocabulary, size):
        raise FormatError(" ".join(found), problems=found)


def _set_aside(form: Legacy, size: PainterDimensions) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """The state without buffers and leftovers; what cannot be remade bit for bit is kept."""
    state, unused, remade = {}, {}, {}
    whole = causal_mask(size)
    for name, tensor in form.tensors.items():
        if name.startswith("transformer.blocks.") and name.endswith(".attn.mask"):
            found = tensor.array()
            if found.shape == whole.shape and bool((found == whole).all()):
                remade[name] = tensor.dtype.name
            elif _same_effect(found, whole):
                unused[name] = tensor
            else:
                raise ConversionError(f"The buffer {name} is no causal mask with a free prefix of {size.n_unmasked} "
                                      "tokens, and no other mask can be represented.", problems=[name])
        elif name.startswith(LEFTOVERS):
            unused[name] = tensor
        else:
            state[name] = tensor
    return state, unused, remade


def causal_mask(size: PainterDimensions) -> np.ndarray[Any, Any]:
    """minGPT's mask buffer [1, 1, block, block]: lower triangle and a free top-left square, ones and zeros."""
    mask = np.tril(np.ones((size.block_size, size.block_size), np.float32))
    mask[: size.n_unmasked, : size.n_unmasked] = 1
    return mask[None, None]


def _same_effect(found: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> bool:
    """The original asked only where the mask is zero."""
    return found.shape == whole.shape and bool(((found == 0) == (whole == 0)).all())


def _transformer_config(size: PainterDimensions) -> dict[str, Any]:
    return {
        "architectures": ["PainterTransformer"], "model_type": "danqing_painter_transformer",
        "vocab_size": size.vocab_size, "image_vocab_size": size.image_vocab_size,
        "text_length": size.text_length, "image_length": size.image_length, "n_positions": size.block_size,
        "n_embd": size.width, "n_layer": size.layers, "n_head": size.heads, "n_unmasked": size.n_unmasked,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-5, "attn_pdrop": size.attention_dropout,
        "embd_pdrop": size.embedding_dropout, "resid_pdrop": size.residual_dropout, "entity_dim": size.entity_dim,
        "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
    }


def _vqvae_config(size: PainterDimensions) -> dict[str, Any]:
    return {
        "_class_name": "VQModel", "act_fn": "silu", **size.vqgan.diffusers_config(),
        "num_vq_embeddings": size.codes, "vq_embed_dim": size.code_width, "sample_size": size.image_size,
        "norm_type": "group", "lookup_from_codebook": False, "force_upcast": False, "mid_block_add_attention": True,
        "scaling_factor": 0.18215,
    }


def _root_config(size: PainterDimensions) -> bytes:
    """What ``transformers.pipeline`` looks at in the root of the folder."""
    return as_json({"architectures": ["PainterForText2ImageGeneration"], "model_type": "danqing_painter",
                  "text_length": size.text_length, "image_length": size.image_length})


# ---------------------------------------------------------------- modern to legacy

def to_legacy(form: Form, options: Options) -> Legacy:
    """A painter as EasyNLP wrote it; what was kept aside returns, masks are remade."""
    size = dimensions(form, options)
    _require_consistent(size)
    if isinstance(form, Legacy):
        to_modern(form, options)
        return form
    table = transformer_table(size).under("transformer", "transformer") + vqgan_table(size).under(
        "first_stage_model", "vqvae")
    state = {f"{name}.{each}": tensor for name in ("transformer", "vqvae")
             for each, tensor in form.components[name].tensors.items()}
    tensors = table.to_legacy(state, "the diffusers folder")
    dtype = tensors["transformer.tok_emb.weight"].dtype.name
    everywhere = {f"transformer.blocks.{i}.attn.mask": dtype for i in range(size.layers)}
    for name, kind in (everywhere if form.remade is None else form.remade).items():
        tensors[name] = Tensor.of(causal_mask(size)).cast(np.dtype(kind))
    tensors |= form.unused
    kept = {name.removeprefix("legacy/"): blob for name, blob in form.files.items() if name.startswith("legacy/")}
    vocabulary = vocabulary_of(form.components["tokenizer"])
    _require_vocabulary(vocabulary, size)
    return Legacy(_legacy_config(size), tensors, {
        "config.json": as_json(_legacy_config(size)), "vocab.txt": vocabulary, **kept})


def _legacy_config(size: PainterDimensions) -> dict[str, Any]:
    return {
        "model_type": "artist", "vocab_size": size.vocab_size, "img_vocab_size": size.image_vocab_size,
        "text_vocab_size": size.vocab_size - size.image_vocab_size, "block_size": size.block_size,
        "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width, "n_unmasked": size.n_unmasked,
        "attn_pdrop": size.attention_dropout, "embd_pdrop": size.embedding_dropout,
        "resid_pdrop": size.residual_dropout,
    }


# ---------------------------------------------------------------- checking

def problems(form: Form, options: Options) -> list[str]:
    """What ``danqing check`` says beyond what a conversion would refuse: nothing, a painter's conversion refuses it all."""
    return []


def vocabulary_problems(vocabulary: Blob, size: PainterDimensions) -> list[str]:
    """What would make this vocabulary useless, or give ids without an embedding."""
    try:
        words = content(vocabulary).decode().splitlines()
    except UnicodeDecodeError:
        return ["vocab.txt is no UTF-8 text; copy it from the checkpoint's source."]
    found, text_vocab = [], size.vocab_size - size.image_vocab_size
    if missing := [word for word in ("[PAD]", "[UNK]") if word not in words]:
        found.append(f"vocab.txt has no {' and no '.join(missing)}; copy it whole from the checkpoint's source.")
    if len(words) > text_vocab:
        found.append(f"vocab.txt has {len(words)} words and the checkpoint {text_vocab} text embeddings; the vocabulary "
                     "belongs to another checkpoint.")
    return found


PAINTER = Family(
    name="painter",
    title="VQGAN + GPT (EasyNLP text2image_generation: pai-painter, pai-artist)",
    signature=Signature(
        legacy_keys=("transformer.tok_emb.weight", "transformer.head.weight",
                     "first_stage_model.quantize.embedding.weight"),
        modern_components={"transformer": "PainterTransformer", "vqvae": "VQModel"},
    ),
    tasks=("text-to-image-synthesis", "text2image_generation"),
    layouts=("easynlp", "diffusers"),
    dimensions=dimensions, to_modern=to_modern, to_legacy=to_legacy, problems=problems,
)
