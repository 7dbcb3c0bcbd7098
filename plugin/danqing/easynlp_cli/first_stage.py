"""The file that `vqgan_ckpt_path` names, such as vqgan_f16_16384.bin, as a VQModel folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from danqing_pack import pickles
from danqing_pack.errors import FormatError
from danqing_pack.families.autoencoders import sizes_from_state
from diffusers.models.autoencoders.vq_model import VQModel

from danqing.train.writing import first_stage_table

LEFTOVERS = ("loss.", "quantize.used", "colorize")
"""Training's own tensors, which the original ignored in such a file."""


def write_vqgan_folder(file: Path, image_size: int, folder: Path) -> None:
    """Write the VQGAN of `file` (keys encoder., decoder., quantize., ...; flat or under `state_dict`) into `folder`.

    Raises FormatError and ConversionError: the file is damaged, or holds something else.
    """
    tree: Any = pickles.load(file)
    tree = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    state = {name: value for name, value in tree.items() if not name.startswith(LEFTOVERS)}
    book = state.get("quantize.embedding.weight")
    if book is None:
        raise FormatError(f"{file} holds no VQGAN: there is no quantize.embedding.weight in it.", path=file)
    codes, width = book.shape
    vqvae: Any = VQModel.from_config({
        **sizes_from_state(state).diffusers_config(), "num_vq_embeddings": codes, "vq_embed_dim": width,
        "sample_size": image_size})
    renamed = first_stage_table(vqvae).to_modern(state, str(file))
    vqvae.load_state_dict({name: torch.from_numpy(value.array().copy()) for name, value in renamed.items()})
    vqvae.save_pretrained(folder)
