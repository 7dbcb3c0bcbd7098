"""Random painters of any size, as EasyNLP would have written them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import pickles
from danqing_pack.families.autoencoders import AutoencoderDimensions
from danqing_pack.families.painter import causal_mask
from danqing_pack.families.painter_sizes import PainterDimensions, transformer_table, vqgan_table
from danqing_pack.tensors import Tensor

VQGAN: dict[str, Any] = {
    "channels": (32, 64), "attention": (False, True), "layers_per_block": 1, "latent_channels": 8, "in_channels": 3,
    "out_channels": 3,
}
SIZES: dict[str, Any] = {
    "vocab_size": 16 + 24, "image_vocab_size": 16, "block_size": 32 + 16, "text_length": 32, "image_length": 16,
    "layers": 2, "heads": 2, "width": 8, "n_unmasked": 0, "entity_dim": 0, "codes": 16, "code_width": 8,
    "attention_dropout": 0.0, "embedding_dropout": 0.0, "residual_dropout": 0.0,
}

MakePainter = Callable[..., tuple[Path, PainterDimensions, dict[str, np.ndarray]]]


def random_state(size: PainterDimensions, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random tensors under the legacy names, each drawn from a seed of its own name."""
    table = transformer_table(size).under("transformer", "x") + vqgan_table(size).under("first_stage_model", "y")
    state = {name: _random(name, row.shape or (), dtype) for row in table.rows for name in row.legacy}
    return state | {f"transformer.blocks.{i}.attn.mask": causal_mask(size).astype(dtype) for i in range(size.layers)}


def _random(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    # The leading axis of a fused row's bias is that of its weight, so shapes come from the table as they are.
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(dtype)


def config_of(size: PainterDimensions) -> dict[str, Any]:
    """EasyNLP's config.json, without what it never says."""
    return {
        "model_type": "artist", "vocab_size": size.vocab_size, "img_vocab_size": size.image_vocab_size,
        "text_vocab_size": size.vocab_size - size.image_vocab_size, "block_size": size.block_size,
        "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width, "n_unmasked": size.n_unmasked,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "easynlp_version": "0.0.3",
    }


@pytest.fixture
def make_painter(tmp_path: Path) -> MakePainter:
    """Writes a random painter: ``make_painter(vqgan={...}, extra={...}, drop=[...], dtype=..., **sizes)``.

    Returns its folder, its dimensions and its arrays.
    """
    def make(
        name: str = "legacy", *, vqgan: Mapping[str, Any] | None = None, extra: Mapping[str, np.ndarray] | None = None,
        drop: tuple[str, ...] = (), dtype: Any = np.float32, config: Mapping[str, Any] | None = None,
        train_config: Mapping[str, Any] | None = None, **sizes: Any,
    ) -> tuple[Path, PainterDimensions, dict[str, np.ndarray]]:
        size = PainterDimensions(**{**SIZES, **sizes}, vqgan=AutoencoderDimensions(**{**VQGAN, **(vqgan or {})}))
        state = {key: value for key, value in (random_state(size, dtype) | dict(extra or {})).items()
                 if not key.startswith(drop or ("\0",))}
        folder = tmp_path / name
        folder.mkdir()
        pickles.dump(folder / "pytorch_model.bin", {key: Tensor.of(value) for key, value in state.items()})
        (folder / "config.json").write_text(json.dumps({**config_of(size), **(config or {})}))
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrs"]))
        if train_config is not None:
            (folder / "train_config.json").write_text(json.dumps(train_config))
        return folder, size, state

    return make
