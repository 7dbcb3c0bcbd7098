"""The text encoder of Stable Diffusion 1.x, ``transformers.CLIPTextModel``: its sizes and its key table.

Its names are the same on both sides, ``text_model.`` in front; models that today's transformers build from nothing are
saved without that prefix, and those of 2023 carry the buffer ``position_ids`` besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import DType
from ..errors import ConversionError
from ..keymap import SAME, KeyMap, State, key, linear, norm, stack
from ..tensors import Tensor

PREFIX = "text_model."
POSITION_IDS = "text_model.embeddings.position_ids"
HEAD_WIDTH = 64
"""Width of an attention head in every CLIP, for files that do not say."""


@dataclass(frozen=True)
class ClipTextDimensions:
    """Sizes of the text encoder; ``text_length`` counts positions, [CLS] and [SEP] included."""

    vocab_size: int
    text_length: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    def transformers_config(self) -> dict[str, Any]:
        """The config of the ``CLIPTextModel``; beginning, end and padding are BERT's."""
        return {
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": self.vocab_size,
            "max_position_embeddings": self.text_length, "hidden_size": self.width, "projection_dim": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward, "hidden_act": self.activation, "layer_norm_eps": self.epsilon,
            "attention_dropout": 0.0, "bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0,
        }


def clip_text_sizes(state: State, config: Mapping[str, Any]) -> ClipTextDimensions:
    """Sizes from a state dict with the prefix ``text_model.``; heads and activation from the config where it has them.

    Raises:
        ConversionError: a tensor that decides a size is missing or malformed.
    """
    vocab_size, width = _shape(state, "text_model.embeddings.token_embedding.weight")
    text_length, _ = _shape(state, "text_model.embeddings.position_embedding.weight")
    feed_forward, _ = _shape(state, "text_model.encoder.layers.0.mlp.fc1.weight")
    layers = len({name.split(".")[3] for name in state if name.startswith("text_model.encoder.layers.")})
    heads = config.get("num_attention_heads") or max(1, width // HEAD_WIDTH)
    return ClipTextDimensions(
        vocab_size, text_length, width, layers, int(heads), feed_forward, str(config.get("hidden_act", "quick_gelu")),
        float(config.get("layer_norm_eps", 1e-5)))


def _shape(state: State, name: str) -> tuple[int, int]:
    if name not in state:
        raise ConversionError(f"The checkpoint has no tensor {name}; its text encoder is not whole.", missing=[name])
    shape = state[name].shape
    if len(shape) != 2:
        raise ConversionError(f"The tensor {name} has shape {list(shape)}, where two axes are expected.",
                              problems=[name])
    return shape[0], shape[1]


def prefixed(state: State) -> dict[str, Tensor]:
    """The state with ``text_model.`` in front of every key, however it was saved."""
    return {name if name.startswith(PREFIX) else PREFIX + name: tensor for name, tensor in state.items()}


def clip_text_table(size: ClipTextDimensions) -> KeyMap:
    """The whole encoder, every key with the shape it must have."""
    def same(name: str, features_in: int, features_out: int) -> KeyMap:
        return linear(name, name, features_in, features_out)

    width = size.width
    layer = (
        stack(same(f"self_attn.{name}", width, width) for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
        + stack(norm(name, name, width) for name in ("layer_norm1", "layer_norm2"))
        + same("mlp.fc1", width, size.feed_forward) + same("mlp.fc2", size.feed_forward, width)
    )
    table = (
        key("embeddings.token_embedding.weight", "embeddings.token_embedding.weight", SAME, (size.vocab_size, width))
        + key("embeddings.position_embedding.weight", "embeddings.position_embedding.weight", SAME,
              (size.text_length, width))
        + stack(layer.under(name, name) for name in (f"encoder.layers.{i}" for i in range(size.layers)))
        + norm("final_layer_norm", "final_layer_norm", width)
    )
    return table.under("text_model", "text_model")


def position_ids(length: int, dtype: DType) -> Tensor:
    """The buffer [1, length] that counts positions; half-precision exports cast it along."""
    return Tensor.of(np.arange(length, dtype=np.int64)[None]).cast(dtype)


def counts_positions(tensor: Tensor, length: int) -> bool:
    """Whether a stored buffer is the one that ``position_ids`` remakes bit for bit."""
    made = position_ids(length, tensor.dtype)
    return tensor.shape == made.shape and bool((tensor.array() == made.array()).all())
