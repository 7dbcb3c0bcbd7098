"""painter: a VQGAN whose codes a GPT writes after the text (EasyNLP's app ``text2image_generation``).

The GPT becomes ``transformers.GPT2Model`` with a head of its own, the VQGAN becomes ``diffusers.VQModel``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ConversionError, FormatError
from ..family import Family, Form, Options, Signature
from ..json_files import as_json
from ..sides import Blob, Component, Legacy, Modern, content
from ..tensors import Tensor
from .bert_tokenizers import tokenizer_component, vocabulary_of
from .painter_sizes import PainterDimensions, dimensions, square, strip, transformer_table, vqgan_table

LEFTOVERS = ("first_stage_model.loss.", "first_stage_model.colorize", "first_stage_model.quantize.used")
"""Training leftovers that the original ignored; they are kept aside and go back."""


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
                                     strip(modern, "transformer.")),
            "tokenizer": tokenizer_component(form.files["vocab.txt"], size.text_length),
            "vqvae": Component("diffusers", "VQModel", _vqvae_config(size), strip(modern, "vqvae.")),
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
    if not square(size.image_length):
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
