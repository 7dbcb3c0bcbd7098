"""Writes what training made: a VQModel folder or EasyNLP's file of it, a painter in either layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danqing_pack import pickles
from danqing_pack.conversion import convert
from danqing_pack.families.autoencoders import autoencoder_table, sizes_from_config
from danqing_pack.families.bert_tokenizers import tokenizer_component
from danqing_pack.json_files import as_json
from danqing_pack.keymap import SAME, KeyMap, conv, key
from danqing_pack.layouts.layout import write_blob
from danqing_pack.staging import scratch_folder, staged_folder
from danqing_pack.tensors import Tensor
from diffusers.models.autoencoders.vq_model import VQModel

from danqing.progress import library_bars

from .options import require_layout
from .patches import PatchCodes

FIRST_STAGE_FILE = "vqgan.bin"


def write_first_stage(
    vqvae: VQModel, target: Path, layout: str, settings: Mapping[str, Any], patches: PatchCodes | None = None,
) -> None:
    """A VQModel folder, or for EasyNLP's `vqgan_ckpt_path` one file with the VQGAN's key names; replaces `target`."""
    require_layout(layout)
    with staged_folder(target, force=True) as folder:
        if layout == "diffusers":
            with library_bars():
                vqvae.save_pretrained(folder)
        else:
            legacy = first_stage_table(vqvae).to_legacy(_state(vqvae), "the VQModel")
            pickles.dump(folder / FIRST_STAGE_FILE, dict(legacy))
        if patches is not None:
            patches.save(folder)
    note(target, settings)


def write_painter(pipe: Any, target: Path, layout: str, dtype: str, settings: Mapping[str, Any]) -> None:
    """A painter pipeline as a checkpoint of `layout` in `dtype`; replaces `target`."""
    require_layout(layout)
    words = sorted(pipe.tokenizer.get_vocab().items(), key=lambda item: item[1])
    vocabulary = "".join(word + "\n" for word, _ in words).encode()
    tokenizer = tokenizer_component(vocabulary, pipe.transformer.config.text_length)
    with scratch_folder(target) as folder, library_bars():
        pipe.transformer.save_pretrained(folder / "transformer")
        pipe.vqvae.save_pretrained(folder / "vqvae")
        (folder / "tokenizer").mkdir()
        for name, blob in tokenizer.files.items():
            write_blob(folder / "tokenizer", name, blob)
        (folder / "model_index.json").write_bytes(as_json({
            "_class_name": "PainterPipeline", "transformer": ["danqing.components", "PainterTransformer"],
            "tokenizer": ["transformers", "BertTokenizer"], "vqvae": ["diffusers", "VQModel"]}))
        convert(folder, target, to=layout, dtype=dtype, force=True)
    note(target, settings)


def note(target: Path, settings: Mapping[str, Any]) -> None:
    """How the model was trained, beside it."""
    target.with_name("training.json").write_bytes(as_json(settings))


def first_stage_table(vqvae: VQModel) -> KeyMap:
    """EasyNLP's VQGAN names left, diffusers' right."""
    codes, width = vqvae.quantize.embedding.weight.shape
    z = int(vqvae.config["latent_channels"])
    return (autoencoder_table(sizes_from_config(dict(vqvae.config)))
            + key("quantize.embedding.weight", "quantize.embedding.weight", SAME, (codes, width))
            + conv("quant_conv", "quant_conv", z, width, 1) + conv("post_quant_conv", "post_quant_conv", width, z, 1))


def _state(vqvae: VQModel) -> dict[str, Tensor]:
    values = ((name, value.detach().float().cpu().contiguous()) for name, value in vqvae.state_dict().items())
    return {name: Tensor.of(value.numpy()) for name, value in values}
