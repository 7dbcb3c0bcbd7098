"""A Stable Diffusion folder of 2023 under the names that libraries use today; no value changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import FormatError
from ..json_files import as_json, parse_json
from ..keymap import SQUEEZED
from ..sides import Blob, Component, Modern, content
from ..tensors import Tensor
from .bert_tokenizers import SPECIAL_TOKENS, tokenizer_component, vocabulary_of
from .clip_text import POSITION_IDS, prefixed

CLASS_NAMES = {
    "CLIPFeatureExtractor": "CLIPImageProcessor", "CLIPImageProcessorPil": "CLIPImageProcessor",
    "CLIPImageProcessorFast": "CLIPImageProcessor", "BertTokenizerFast": "BertTokenizer",
}
"""Old names, and names that depend on what was installed when a folder was saved."""
VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STALE = ("_name_or_path", "_commit_hash", "torch_dtype", "dtype")
"""Entries of a config that speak of the machine it was saved on, or repeat what the weights say."""
MOVED_END = frozenset({
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
})
"""Schedulers whose last step today goes to sigma 0, unless their config says where it went in 2023."""
CLIPPING = frozenset({"DDIMScheduler", "DDPMScheduler"})
"""Schedulers that clip to -1..1, which latents exceed, unless their config says no; most folders say so."""
NO_LIMIT = 10**6
"""transformers writes 1e30 where a tokenizer has no limit."""


def renewed(form: Modern, text_length: int) -> Modern:
    """The form with today's classes, keys and configs; ``text_length`` stands in for a limit that nobody wrote down."""
    changed = {name: _renewed_component(name, part, text_length) for name, part in form.components.items()}
    return replace(form, components=changed)


def _renewed_component(name: str, part: Component, text_length: int) -> Component:
    part = replace(part, class_name=CLASS_NAMES.get(part.class_name, part.class_name), config=_config(part))
    if name == "tokenizer":
        return _tokenizer(part, text_length)
    if name == "feature_extractor":
        return _feature_extractor(part)
    if name == "text_encoder":
        return replace(part, tensors=_without_positions(prefixed(part.tensors)))
    if name == "vae":
        return replace(part, tensors=dict(_vae_key(key, tensor) for key, tensor in part.tensors.items()))
    return replace(part, tensors=_without_positions(part.tensors)) if part.tensors else part


def _config(part: Component) -> dict[str, Any] | None:
    if part.config is None:
        return None
    config = {name: value for name, value in part.config.items() if name not in STALE}
    if part.class_name in MOVED_END:
        config.setdefault("final_sigmas_type", "sigma_min")
    if part.class_name in CLIPPING:
        config.setdefault("clip_sample", False)
    if part.class_name == "AutoencoderKL":
        config.setdefault("scaling_factor", 0.18215)
    return config


def _without_positions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the buffers that count positions, which today's models make themselves."""
    return {name: tensor for name, tensor in tensors.items()
            if name != POSITION_IDS and not name.endswith(".embeddings.position_ids")}


def _vae_key(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A key of the autoencoder; its attentions were named otherwise, and were 1x1 convolutions for a while."""
    module, _, leaf = name.rpartition(".")
    place, _, old = module.rpartition(".")
    if ".attentions." not in f"{place}." or old not in VAE_ATTENTION:
        return name, tensor
    (flat,) = SQUEEZED.forward(tensor) if tensor.ndim == 4 else (tensor,)
    return f"{place}.{VAE_ATTENTION[old]}.{leaf}", flat


def _feature_extractor(part: Component) -> Component:
    name = "preprocessor_config.json"
    if name not in part.files:
        return part
    config = parse_json(content(part.files[name]), name)
    config.pop("feature_extractor_type", None)
    kind = config.get("image_processor_type", part.class_name)
    config["image_processor_type"] = CLASS_NAMES.get(kind, kind)
    config = {key: value for key, value in config.items() if key not in STALE}
    return replace(part, files={**part.files, name: as_json(config)})


# ---------------------------------------------------------------- the tokenizer

def _tokenizer(part: Component, text_length: int) -> Component:
    """The tokenizer with its limit and its vocabulary written down."""
    config = {key: value for key, value in _tokenizer_config(part).items() if key not in ("name_or_path", *STALE)}
    if text_limit(part) is None:
        config["model_max_length"] = text_length
    config["tokenizer_class"] = part.class_name
    files: dict[str, Blob] = {**part.files, "tokenizer_config.json": as_json(config)}
    words = vocabulary(part)
    if words is not None:
        files["vocab.txt"] = words
        files.setdefault("special_tokens_map.json", as_json(SPECIAL_TOKENS))
    return replace(part, files=files)


def text_limit(part: Component) -> int | None:
    """Tokens that a tokenizer gives at most, or None where it says nothing."""
    limit = _tokenizer_config(part).get("model_max_length")
    return int(limit) if isinstance(limit, (int, float)) and 0 < limit < NO_LIMIT else None


def vocabulary(part: Component) -> Blob | None:
    """``vocab.txt`` of a Bert tokenizer; made from ``tokenizer.json`` where today's transformers saved only that."""
    return vocabulary_of(part) if part.class_name == "BertTokenizer" else part.files.get("vocab.txt")


def _tokenizer_config(part: Component) -> dict[str, Any]:
    name = "tokenizer_config.json"
    return parse_json(content(part.files[name]), name) if name in part.files else {}


def tokenizer_beside(files: Mapping[str, Blob], clip_folder: str, text_length: int) -> Component:
    """The tokenizer of a file without configuration: a Bert vocabulary, or CLIP's own as EasyNLP keeps it."""
    inside = {name.removeprefix(clip_folder): blob for name, blob in files.items() if name.startswith(clip_folder)}
    words = files.get("vocab.txt") or inside.get("vocab.txt")
    if words is not None:
        return tokenizer_component(words, text_length)
    if {"vocab.json", "merges.txt"} <= inside.keys():
        kept = {name: blob for name, blob in inside.items() if name in (
            "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")}
        return Component("transformers", "CLIPTokenizer", files=kept)
    raise FormatError("There is no vocab.txt beside the weights, without which no prompt can be read; copy it from the "
                      "checkpoint's tokenizer folder.", missing="vocab.txt")
