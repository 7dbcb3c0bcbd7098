"""pai-diffusion: Stable Diffusion 1.x with a Chinese text encoder, published in 2023 as diffusers folders.

Its modern form is a stock ``StableDiffusionPipeline``. A folder of 2023 is that form under older names and is renewed;
a single file (``model.ckpt``) and EasyNLP's app StableDiffusion are its legacy form. What only a diffusers folder can
hold travels with a single file under ``config/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import FormatError
from ..family import Family, Form, Options, Signature
from ..json_files import as_json, parse_json
from ..keymap import KeyMap
from ..sides import Blob, Component, Legacy, Modern, content
from ..tensors import Tensor
from . import pai_renewal as renewal
from .autoencoders import AutoencoderDimensions, sizes_from_config, sizes_from_state
from .clip_text import (
    POSITION_IDS,
    ClipTextDimensions,
    clip_text_sizes,
    clip_text_table,
    counts_positions,
    position_ids,
    prefixed,
)
from .latent_diffusion import UNetDimensions, kl_config, kl_table, unet_from_config, unet_from_state, unet_table
from .noise_schedules import BUFFERS, schedule_from_config, scheduler_config

UNET, VAE, TEXT = "model.diffusion_model", "first_stage_model", "cond_stage_model.transformer"
PREFIXES = {"unet": UNET, "vae": VAE, "text_encoder": TEXT}
ASIDE = (*BUFFERS, "model_ema.", "first_stage_model.loss.", "cond_stage_model.logit_scale", "logvar", "scale_factor")
"""What training left in a file beside the networks: kept, and given back."""
UNET_DEFAULTS = {"num_heads": 8, "image_size": 64}
"""Of Stable Diffusion 1.x, for a file that comes without configuration."""
SCHEDULE_DEFAULTS = {"linear_start": 0.00085, "linear_end": 0.012}
CONFIG = "config/"
INDEX = f"{CONFIG}model_index.json"
ATTACHED = "config/{}/model.safetensors"
"""Weights of a component that the file itself has no room for."""
CLIP_FOLDER = "clip-vit-large-patch14/"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class PaiDimensions:
    """Sizes of the three networks."""

    unet: UNetDimensions
    vae: AutoencoderDimensions
    text: ClipTextDimensions

    def describe(self) -> str:
        """One line for ``danqing detect``."""
        side = self.unet.sample_size * self.vae.factor
        return (f"{self.text.text_length} text tokens, vocabulary of {self.text.vocab_size}, {side} x {side} pixels, "
                f"UNet of {'-'.join(map(str, self.unet.channels))} channels")


# ---------------------------------------------------------------- dimensions

def dimensions(form: Form, options: Options) -> PaiDimensions:
    """Every size, from tensors where they show it and from the configuration where only that says it."""
    if isinstance(form, Modern):
        _require_pipeline(form)
        unet, vae, text = (form.components[name] for name in PREFIXES)
        return PaiDimensions(
            unet_from_config(unet.config or {}), sizes_from_config(vae.config or {}, double_z=True),
            clip_text_sizes(prefixed(text.tensors), text.config or {}))
    parts = _parts(form)
    params = _params(form)
    given = _configs(form)
    unet_params = UNET_DEFAULTS | _unet_params(given.get("unet", {})) | params.get("unet_config", {}).get("params", {})
    return PaiDimensions(
        unet_from_state(parts["unet"], unet_params), sizes_from_state(parts["vae"]),
        clip_text_sizes(parts["text_encoder"], given.get("text_encoder", {})))


def _require_pipeline(form: Modern) -> None:
    if not form.class_name.startswith("StableDiffusion") or "XL" in form.class_name:
        raise FormatError(f"The folder is a {form.class_name}; of the pipelines with a CLIPTextModel only Stable "
                          "Diffusion 1.x belongs to pai-diffusion.", class_name=form.class_name)
    missing = [name for name in ("vae", "tokenizer", "scheduler") if name not in form.components]
    if missing:
        raise FormatError(f"model_index.json names no {', '.join(missing)}; restore it from the source.",
                          missing=missing)


def _parts(form: Legacy) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network, without its prefix and without what training left behind."""
    kept = {name: tensor for name, tensor in form.tensors.items() if not _is_aside(name)}
    return {part: {name.removeprefix(f"{prefix}."): tensor for name, tensor in kept.items()
                   if name.startswith(f"{prefix}.")} for part, prefix in PREFIXES.items()}


def _is_aside(name: str) -> bool:
    return any(name.startswith(each) if each.endswith(".") else name == each for each in ASIDE)


def _params(form: Legacy) -> dict[str, Any]:
    """``model.params`` of EasyNLP's config.json."""
    model = form.config.get("model")
    params = model.get("params") if isinstance(model, Mapping) else None
    return dict(params) if isinstance(params, Mapping) else {}


def _configs(form: Legacy) -> dict[str, dict[str, Any]]:
    """The configuration of each network, where files beside the weights have it."""
    names = {part: f"{CONFIG}{part}/config.json" for part in PREFIXES}
    found = {part: _json(form, name) for part, name in names.items() if name in form.files}
    if "text_encoder" not in found and f"{CLIP_FOLDER}config.json" in form.files:
        whole = _json(form, f"{CLIP_FOLDER}config.json")
        found["text_encoder"] = {**whole, **whole.get("text_config", {})}
    return found


def _unet_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the original calls the entries that tensors do not show."""
    names = {"num_heads": "attention_head_dim", "image_size": "sample_size"}
    return {ours: config[theirs] for ours, theirs in names.items() if isinstance(config.get(theirs), int)}


def _json(form: Legacy, name: str) -> dict[str, Any]:
    return parse_json(content(form.files[name]), name)


# ---------------------------------------------------------------- key tables

def tables(size: PaiDimensions) -> dict[str, KeyMap]:
    """The key table of each network, from its prefix on."""
    return {"unet": unet_table(size.unet), "vae": kl_table(size.vae), "text_encoder": clip_text_table(size.text)}


def whole_table(size: PaiDimensions) -> KeyMap:
    """All three under their prefixes: the single file on the left, components on the right."""
    table = KeyMap()
    for part, rows in tables(size).items():
        table += rows.under(PREFIXES[part], part)
    return table


# ---------------------------------------------------------------- to the modern form

def to_modern(form: Form, options: Options) -> Modern:
    """A stock pipeline under today's names; raises ConversionError where a tensor is missing, unknown or misshapen."""
    size = dimensions(form, options)
    modern = _from_legacy(form, size, options) if isinstance(form, Legacy) else renewal.renewed(
        form, size.text.text_length)
    for part, table in tables(size).items():
        table.to_legacy(modern.components[part].tensors, part)
    _require_text_length(modern, size)
    return modern


def _require_text_length(form: Modern, size: PaiDimensions) -> None:
    limit = renewal.text_limit(form.components["tokenizer"])
    if limit is not None and limit > size.text.text_length:
        raise FormatError(
            f"The tokenizer gives up to {limit} tokens and the text encoder has {size.text.text_length} positions; set "
            f"model_max_length in tokenizer_config.json to {size.text.text_length}.", limit=limit)


def _from_legacy(form: Legacy, size: PaiDimensions, options: Options) -> Modern:
    state, unused, remade = _set_aside(form, size)
    modern = whole_table(size).to_modern(state, "the file")
    weights = {part: {name.removeprefix(f"{part}."): tensor for name, tensor in modern.items()
                      if name.startswith(f"{part}.")} for part in PREFIXES}
    index = _json(form, INDEX) if INDEX in form.files else {}
    built = _configured(form, index) if index else _assumed(form, size)
    parts = {name: replace(part, tensors=weights[name]) if name in weights else part
             for name, part in built.components.items()}
    whole = replace(built, components=parts, unused={} if options.drop_unused else unused, remade=remade)
    return renewal.renewed(whole, size.text.text_length)


def _set_aside(form: Legacy, size: PaiDimensions) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """The state without leftovers; the position buffer is remade on the way back where that gives the same bits."""
    state, unused, remade = {}, {}, {}
    for name, tensor in form.tensors.items():
        if name == f"{TEXT}.{POSITION_IDS}" and counts_positions(tensor, size.text.text_length):
            remade[name] = tensor.dtype.name
        elif name == f"{TEXT}.{POSITION_IDS}" or _is_aside(name):
            unused[name] = tensor
        else:
            state[name] = tensor
    return state, unused, remade


def _configured(form: Legacy, index: Mapping[str, Any]) -> Modern:
    """Components as the diffusers folder beside the weights describes them."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and not name.startswith("_")}
    components, own = {}, {f"{CONFIG}model_index.json"}
    for name, entry in entries.items():
        folder = f"{CONFIG}{name}/"
        files = {each.removeprefix(folder): blob for each, blob in form.files.items() if each.startswith(folder)}
        own |= {folder + each for each in files}
        config = next((files.pop(each) for each in ("config.json", "scheduler_config.json") if each in files), None)
        weights = form.attachments.get(ATTACHED.format(name), {})
        if entry[1] is not None:
            library, class_name = entry
            components[name] = Component(
                library, class_name, parse_json(content(config), f"{name}/config.json") if config else None, weights, files)
    settings = {name: value for name, value in index.items() if not name.startswith("_") and name not in components}
    rest = {name.removeprefix(CONFIG): blob for name, blob in form.files.items()
            if name.startswith(CONFIG) and name not in own}
    return Modern(str(index.get("_class_name", "StableDiffusionPipeline")), components, settings=settings, files=rest)


def _assumed(form: Legacy, size: PaiDimensions) -> Modern:
    """Components of Stable Diffusion 1.x around the sizes of the file; the tokenizer must lie beside it."""
    params = _params(form)
    given = {name: value for name, value in params.items() if value is not None}
    schedule = schedule_from_config(SCHEDULE_DEFAULTS | given)
    stored = form.tensors.get("alphas_cumprod")
    scale = form.tensors.get("scale_factor")
    factor = float(scale.array()) if scale is not None else float(params.get("scale_factor") or 0.18215)
    side = size.unet.sample_size * size.vae.factor
    scheduler = {**scheduler_config(schedule, stored.array() if stored is not None else None),
                 "_class_name": "PNDMScheduler", "clip_sample": False}
    stated = _configs(form).get("text_encoder", {})
    text = size.text.transformers_config() | {name: stated[name] for name in TOKEN_IDS if name in stated}
    kept = {f"legacy/{name}": blob for name, blob in form.files.items()
            if name == "config.json" or name.startswith(CLIP_FOLDER)}
    return Modern("StableDiffusionPipeline", {
        "unet": Component("diffusers", "UNet2DConditionModel", size.unet.diffusers_config()),
        "vae": Component("diffusers", "AutoencoderKL", kl_config(size.vae, side, factor)),
        "text_encoder": Component("transformers", "CLIPTextModel", text),
        "tokenizer": renewal.tokenizer_beside(form.files, CLIP_FOLDER, size.text.text_length),
        "scheduler": Component("diffusers", "PNDMScheduler", scheduler),
    }, settings={"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False},
        files=kept)


# ---------------------------------------------------------------- to the legacy form

def to_legacy(form: Form, options: Options) -> Legacy:
    """The single file: the three networks under their prefixes, everything else beside it."""
    if isinstance(form, Legacy):
        to_modern(form, options)
        return form
    modern = to_modern(form, options)
    size = dimensions(modern, options)
    state = {f"{part}.{name}": tensor for part in PREFIXES for name, tensor in modern.components[part].tensors.items()}
    tensors = whole_table(size).to_legacy(state, "the diffusers folder")
    remade = {f"{TEXT}.{POSITION_IDS}": "int64"} if form.remade is None else form.remade
    tensors |= {name: position_ids(size.text.text_length, np.dtype(kind)) for name, kind in remade.items()}
    tensors |= form.unused
    attachments = {ATTACHED.format(name): part.tensors for name, part in modern.components.items()
                   if part.tensors and name not in PREFIXES}
    return Legacy({}, tensors, _files_beside(modern), attachments, "state_dict")


def _files_beside(form: Modern) -> dict[str, Blob]:
    """The diffusers folder without its weights, below ``config/``, and the vocabulary."""
    index: dict[str, Any] = {"_class_name": form.class_name, **form.settings}
    files: dict[str, Blob] = {}
    for name, part in form.components.items():
        index[name] = [part.library, part.class_name]
        files |= {f"{CONFIG}{name}/{each}": blob for each, blob in part.files.items()}
        if part.config is not None:
            config = "scheduler_config.json" if name == "scheduler" else "config.json"
            files[f"{CONFIG}{name}/{config}"] = as_json(part.config)
    files |= {f"{CONFIG}{name}": blob for name, blob in form.files.items() if name != "configuration.json"}
    vocabulary = renewal.vocabulary(form.components["tokenizer"])
    if vocabulary is not None:
        files["vocab.txt"] = vocabulary
    return {**files, INDEX: as_json(index)}


# ---------------------------------------------------------------- checking

def problems(form: Form, options: Options) -> list[str]:
    """What ``danqing check`` says beyond what a conversion would refuse."""
    modern, size = to_modern(form, options), dimensions(form, options)
    found = []
    if size.unet.context != size.text.width:
        found.append(f"The UNet attends to vectors of width {size.unet.context} and the text encoder gives "
                     f"{size.text.width}; they belong to different checkpoints.")
    vocabulary = renewal.vocabulary(modern.components["tokenizer"])
    words = len(content(vocabulary).splitlines()) if vocabulary is not None else 0
    if words > size.text.vocab_size:
        found.append(f"vocab.txt has {words} words and the text encoder {size.text.vocab_size} embeddings; the "
                     "vocabulary belongs to another checkpoint.")
    if "safety_checker" in modern.components and "feature_extractor" not in modern.components:
        found.append("The folder has a safety_checker and no feature_extractor, without which it sees no image.")
    return found


def notes(form: Form, options: Options) -> list[str]:
    """What a user should know of a file that came without its configuration, or with two sets of weights."""
    if isinstance(form, Modern):
        return []
    found = []
    if f"{CONFIG}model_index.json" not in form.files and not form.config:
        found.append("The file says nothing of its configuration: taken are 8 attention heads, 512 x 512 pixels and "
                     "the PNDM scheduler of Stable Diffusion 1.x, without a safety checker.")
    if any(name.startswith("model_ema.") for name in form.tensors):
        found.append("Used the plain weights of the UNet; its running average (model_ema) was kept aside.")
    return found


PAI_DIFFUSION = Family(
    name="pai-diffusion",
    title="Stable Diffusion 1.x with a Chinese text encoder (pai-diffusion-artist, -food, -general-xlarge; EasyNLP's "
          "stable-diffusion-general is read)",
    signature=Signature(
        legacy_keys=(f"{UNET}.time_embed.0.weight", f"{TEXT}.text_model.embeddings.token_embedding.weight"),
        modern_components={"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"},
    ),
    tasks=("text-to-image-synthesis", "text2image_generation"),
    layouts=("diffusers", "single-file"),
    dimensions=dimensions, to_modern=to_modern, to_legacy=to_legacy, problems=problems, notes=notes,
)
