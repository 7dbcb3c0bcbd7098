"""The text side of chinese-ldm: a CLIP text transformer that hands on one vector, and its BERT vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ..errors import ConversionError, FormatError
from ..keymap import FORKED, SAME, TRANSPOSED, KeyMap, State, key, linear, norm, stack
from ..sides import Blob, content
from .latent_diffusion import require_neutral

PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
"""Where the original expects its special tokens; 102 is a constant in its encoder."""


@dataclass(frozen=True)
class TextDimensions:
    """Sizes of the text encoder; ``length`` is in tokens, ``output`` the width of the context."""

    vocab_size: int
    length: int
    width: int
    layers: int
    heads: int
    output: int
    normalize: bool
    n_repeat: int


def text_from_state(state: State, params: Mapping[str, Any]) -> TextDimensions:
    """Sizes from a legacy state dict whose keys begin at ``embedding_table``; ``params`` are the original's.

    Raises:
        ConversionError: a tensor that decides a size is missing or malformed.
        FormatError: the configuration contradicts the tensors, or asks for what has no modern class.
    """
    inner = params.get("text_encoder") or {}
    require_neutral(inner, {"return_full_embed": (False,)}, "the text encoder")
    vocab_size, width = _shape(state, "embedding_table")
    length, _ = _shape(state, "positional_embedding")
    _, output = _shape(state, "text_projection")
    layers = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})
    if "heads" not in inner:
        raise FormatError("config.json has no cond_stage_config.params.text_encoder.heads, and the tensors do not "
                          "show it; add it.")
    heads = int(inner["heads"])
    if heads < 1 or width % heads:
        raise FormatError(f"The text encoder is {width} wide and config.json says heads {heads}, which does not "
                          "divide it; correct it.")
    if (asked := params.get("max_length")) not in (None, length):
        raise FormatError(f"config.json says max_length {asked}, and the text encoder has {length} positions; the "
                          "original adds them without cutting, so both must be equal.")
    return TextDimensions(vocab_size, length, width, layers, heads, output, bool(params.get("normalize", True)),
                          int(params.get("n_repeat", 1)))


def text_from_config(config: Mapping[str, Any]) -> TextDimensions:
    """Sizes from the config of a ``WukongTextEncoder``."""
    try:
        vocab_size, length, width, layers, heads, output = (int(config[name]) for name in (
            "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "projection_dim"))
    except KeyError as missing:
        raise FormatError(f"text_encoder/config.json has no {missing}; convert the checkpoint anew.") from None
    return TextDimensions(vocab_size, length, width, layers, heads, output, bool(config.get("normalize", True)),
                          int(config.get("n_repeat", 1)))


def text_table(size: TextDimensions) -> KeyMap:
    """OpenAI's first CLIP names left, transformers' right."""
    width = size.width
    projections = tuple(f"self_attn.{name}_proj" for name in "qkv")
    block = (
        norm("ln_1", "layer_norm1", width) + norm("ln_2", "layer_norm2", width)
        + key("attn.in_proj_weight", tuple(f"{name}.weight" for name in projections), FORKED, (3 * width, width))
        + key("attn.in_proj_bias", tuple(f"{name}.bias" for name in projections), FORKED, (3 * width,))
        + linear("attn.out_proj", "self_attn.out_proj", width, width)
        + linear("mlp.c_fc", "mlp.fc1", width, 4 * width) + linear("mlp.c_proj", "mlp.fc2", 4 * width, width)
    )
    return (
        key("embedding_table", "embeddings.token_embedding.weight", SAME, (size.vocab_size, width))
        + key("positional_embedding", "embeddings.position_embedding.weight", SAME, (size.length, width))
        + stack(block.under(f"transformer.resblocks.{i}", f"encoder.layers.{i}") for i in range(size.layers))
        + norm("ln_final", "final_layer_norm", width)
        + key("text_projection", "text_projection.weight", TRANSPOSED, (width, size.output))
    )


def text_config(size: TextDimensions) -> dict[str, Any]:
    """The config of the ``WukongTextEncoder``."""
    return {
        "architectures": ["WukongTextEncoder"], "model_type": "danqing_wukong_text", "vocab_size": size.vocab_size,
        "max_position_embeddings": size.length, "hidden_size": size.width, "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "projection_dim": size.output,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-7, "attention_dropout": 0.0, "pad_token_id": 0,
        "bos_token_id": 101, "eos_token_id": 102, "normalize": size.normalize, "n_repeat": size.n_repeat,
    }


def text_params(size: TextDimensions) -> dict[str, Any]:
    """The parameters of the original's ``FrozenWukongCLIPTextEmbedder``."""
    return {
        "max_length": size.length, "n_repeat": size.n_repeat, "normalize": size.normalize,
        "text_encoder": {"context_length": size.length, "vocab_size": size.vocab_size, "output_dim": size.output,
                         "width": size.width, "layers": size.layers, "heads": size.heads},
    }


def vocabulary_problems(vocabulary: Blob, vocab_size: int) -> list[str]:
    """What would make this vocabulary give other ids than the original's, or ids without an embedding."""
    try:
        words = [line.strip() for line in StringIO(content(vocabulary).decode(), newline=None)]
    except UnicodeDecodeError:
        return ["vocab.txt is no UTF-8 text; copy it from the checkpoint's source."]
    problems = [f"vocab.txt has {words[at] if at < len(words) else 'nothing'} at number {at}, where the text encoder "
                f"expects {word}; it belongs to another checkpoint."
                for word, at in PLACES.items() if words[at:at + 1] != [word]]
    if len(words) > vocab_size:
        problems.append(f"vocab.txt has {len(words)} words and the text encoder {vocab_size} embeddings; it belongs to "
                        "another checkpoint.")
    return problems


def _shape(state: State, name: str) -> tuple[int, int]:
    if name not in state:
        raise ConversionError(
            f"The checkpoint has no tensor cond_stage_model.model.{name}; its text encoder is not whole.",
            missing=[name])
    shape = tuple(state[name].shape)
    if len(shape) != 2:
        raise ConversionError(f"The tensor cond_stage_model.model.{name} has shape {list(shape)}, where two axes are "
                              "expected.", problems=[name])
    return shape[0], shape[1]


