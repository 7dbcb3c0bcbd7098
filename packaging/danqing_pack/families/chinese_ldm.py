"""chinese-ldm: latent diffusion under one pooled text vector (EasyNLP's app ``latent_diffusion``).

The UNet, the KL autoencoder and the text encoder become diffusers' and transformers' own, in a stock
``StableDiffusionPipeline``; the upscaler lies beside them. What the original sampled with decides: stored buffers
before config.json, EMA weights where it used them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dtypes import TORCH
from ..errors import ConversionError, FormatError, RequestError, listing
from ..family import Family, Form, Options, Signature
from ..json_files import as_json
from ..keymap import KeyMap, State
from ..sides import Component, Legacy, Modern, content
from ..tensors import Tensor
from .autoencoders import AutoencoderDimensions, sizes_from_config, sizes_from_state
from .bert_tokenizers import tokenizer_component
from .chinese_ldm_config import legacy_config
from .esrgan import upscaler_component, upscaler_from_config, upscaler_table
from .latent_diffusion import (
    UNetDimensions,
    kl_config,
    kl_table,
    require_neutral,
    unet_from_config,
    unet_from_state,
    unet_table,
)
from .noise_schedules import BUFFERS, NoiseSchedule, schedule_from_config, schedule_from_scheduler, scheduler_config
from .wukong import (
    TextDimensions,
    text_config,
    text_from_config,
    text_from_state,
    text_table,
    vocabulary_problems,
)

UNET, EMA, VAE, TEXT = "model.diffusion_model.", "model_ema.", "first_stage_model.", "cond_stage_model.model."
EXTRA = "model."
"""What EasyNLP's trainer puts before every key once more; the original cannot read such a file."""
UPSCALER = "RRDB_ESRGAN_x4.pth"
LEFTOVERS = ("first_stage_model.loss.", "cond_stage_model.logit_scale", "cond_stage_model.model.logit_scale", "logvar",
             "lvlb_weights")
"""What the original ignored or used in training alone; it is kept aside and goes back."""
SCALE = "scale_factor"
"""A buffer that the file holds where the factor was measured, and a parameter in config.json."""
COUNTERS = ("model_ema.decay", "model_ema.num_updates")
AUTOENCODER_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "double_z": (True,), "tanh_out": (False,), "give_pre_end": (False,), "use_linear_attn": (False,),
    "attn_type": ("vanilla",), "resamp_with_conv": (True,),
}


@dataclass(frozen=True)
class ChineseLDMDimensions:
    """Sizes of a chinese-ldm. ``scale_factor`` multiplies latents; ``weights`` says which the UNet runs with."""

    unet: UNetDimensions
    autoencoder: AutoencoderDimensions
    text: TextDimensions
    scale_factor: float
    timesteps: int
    weights: str
    upscaler: bool

    @property
    def text_length(self) -> int:
        """Positions for text, [CLS] and [SEP] included."""
        return self.text.length

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels, where a call names none."""
        return self.unet.sample_size * self.autoencoder.factor

    def describe(self) -> str:
        """One line for ``danqing detect``."""
        return (
            f"{self.text.length} text tokens in {self.text.n_repeat} x {self.text.output} context, "
            f"{self.image_size} x {self.image_size} pixels at f{self.autoencoder.factor}, UNet of "
            f"{'/'.join(str(each) for each in self.unet.channels)} channels, {self.weights} weights"
            f"{', x4 upscaler' if self.upscaler else ''}"
        )


# ---------------------------------------------------------------- dimensions

def dimensions(form: Form, options: Options) -> ChineseLDMDimensions:
    """Read every size from what lies there."""
    if options.text_length is not None and options.text_length != (found := _sizes(form, options)).text.length:
        raise RequestError(f"The text encoder has {found.text.length} positions, which --text-length "
                           f"{options.text_length} cannot change; leave the option out.")
    return _sizes(form, options)


def _sizes(form: Form, options: Options) -> ChineseLDMDimensions:
    if isinstance(form, Modern):
        return _modern_sizes(form)
    state, params = _flat(form), _params(form.config)
    conditioning = params.get("conditioning_key", "concat")
    if conditioning != "crossattn":
        raise FormatError(f"config.json says conditioning_key {conditioning}; only crossattn can be represented.")
    require_neutral(_part(params, "first_stage").get("ddconfig") or {}, AUTOENCODER_NEUTRAL, "the autoencoder")
    autoencoder = sizes_from_state(_strip(state, VAE))
    moments = state.get(f"{VAE}quant_conv.weight")
    if moments is not None and moments.shape[0] != 2 * autoencoder.latent_channels:
        raise FormatError(f"The autoencoder has an embed_dim of {moments.shape[0] // 2} and z_channels of "
                          f"{autoencoder.latent_channels}; diffusers has only networks where both are equal.")
    schedule = schedule_from_config(params)
    stored = state.get("alphas_cumprod")
    return ChineseLDMDimensions(
        unet_from_state(_strip(state, UNET), _part(params, "unet")), autoencoder,
        text_from_state(_strip(state, TEXT), _part(params, "cond_stage")), _scale_factor(state, params),
        schedule.timesteps if stored is None else stored.size, _chosen_weights(state, params, options),
        UPSCALER in form.attachments)


def _modern_sizes(form: Modern) -> ChineseLDMDimensions:
    unet, vae, text, scheduler = (form.components[name].config or {} for name in (
        "unet", "vae", "text_encoder", "scheduler"))
    return ChineseLDMDimensions(
        unet_from_config(unet), sizes_from_config(vae, double_z=True), text_from_config(text),
        float(vae.get("scaling_factor", 0.18215)), int(scheduler.get("num_train_timesteps", 1000)),
        "ema" if any(name.startswith(UNET) for name in form.unused) else "plain", "upscaler" in form.attachments)


def _flat(form: Legacy) -> State:
    """The state dict without the trainer's extra prefix."""
    if not any(name.startswith(EXTRA + VAE) for name in form.tensors):
        return form.tensors
    bare = sorted(name for name in form.tensors if not name.startswith(EXTRA))
    if bare:
        raise ConversionError(
            f"The weights were saved with {EXTRA} before their keys, but not before {listing(bare)}; the file is mixed "
            "from two checkpoints.", problems=[f"{name} has no place" for name in bare])
    return {name.removeprefix(EXTRA): tensor for name, tensor in form.tensors.items()}


def _params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (config.get("model") or {}).get("params")
    if not isinstance(found, Mapping):
        raise FormatError("config.json has no model.params, where the sizes of the networks stand; copy it from the "
                          "checkpoint's source.")
    return found


def _part(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = (params.get(f"{name}_config") or {}).get("params")
    if not isinstance(found, Mapping):
        raise FormatError(f"config.json has no model.params.{name}_config.params; copy it from the checkpoint's "
                          "source.")
    return found


def _strip(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _scale_factor(state: State, params: Mapping[str, Any]) -> float:
    """The stored buffer is what the original multiplied with."""
    stored = state.get(SCALE)
    return float(params.get(SCALE, 1.0)) if stored is None else float(stored.array().astype(np.float64).item())


def _chosen_weights(state: State, params: Mapping[str, Any], options: Options) -> str:
    """``ema`` or ``plain``: what the original sampled with, unless the user says otherwise."""
    averaged = any(name.startswith(EMA) and name not in COUNTERS for name in state)
    if options.weights == "ema" and not averaged:
        raise RequestError("The checkpoint holds no EMA weights; leave out --weights, or name plain.")
    if options.weights != "auto":
        return options.weights
    return "ema" if averaged and params.get("use_ema", True) else "plain"


# ---------------------------------------------------------------- the key tables

def averaged_table(size: UNetDimensions) -> KeyMap:
    """Where the EMA copy keeps each key of the UNet: under its path below ``model.``, without a single dot."""
    return KeyMap(tuple(
        replace(row, legacy=tuple(EMA + f"diffusion_model.{name}".replace(".", "") for name in row.legacy))
        for row in unet_table(size).rows
    )).under("", "unet")


def network_table(size: ChineseLDMDimensions) -> KeyMap:
    """Every network of the checkpoint's own file."""
    unet = averaged_table(size.unet) if size.weights == "ema" else unet_table(size.unet).under(UNET[:-1], "unet")
    return (
        unet + kl_table(size.autoencoder).under(VAE[:-1], "vae")
        + text_table(size.text).under(TEXT[:-1], "text_encoder")
    )


# ---------------------------------------------------------------- legacy to modern

def to_modern(form: Form, options: Options) -> Modern:
    """A stock ``StableDiffusionPipeline``; a modern form is checked against its tables and returned."""
    size = dimensions(form, options)
    if isinstance(form, Modern):
        _checked_state(form, size)
        return form
    state, params = _flat(form), _params(form.config)
    if "vocab.txt" not in form.files:
        raise FormatError("The folder has no vocab.txt, without which no prompt can be read; copy it from the "
                          "checkpoint's pretrained folder.", missing="vocab.txt")
    if problems := vocabulary_problems(form.files["vocab.txt"], size.text.vocab_size):
        raise FormatError(" ".join(problems), problems=problems)
    mapped, unused, remade = _set_aside(state, params, size)
    modern = network_table(size).to_modern(mapped, "pytorch_model.bin")
    scheduler = scheduler_config(schedule_from_config(params), _array(state.get("alphas_cumprod")))
    networks = {"unet": ("diffusers", "UNet2DConditionModel", size.unet.diffusers_config()),
                "vae": ("diffusers", "AutoencoderKL", kl_config(size.autoencoder, size.image_size, size.scale_factor)),
                "text_encoder": ("danqing.components", "WukongTextEncoder", text_config(size.text))}
    files = {f"legacy/{name}": blob for name, blob in form.files.items() if name != "vocab.txt"}
    return Modern(
        class_name="StableDiffusionPipeline",
        components={
            **{name: Component(*entry, _strip(modern, f"{name}.")) for name, entry in networks.items()},
            "scheduler": Component("danqing.components", "LegacyPLMSScheduler", scheduler),
            "tokenizer": tokenizer_component(
                form.files["vocab.txt"], size.text.length, "danqing.components", "WukongTokenizer"),
        },
        attachments={"upscaler": upscaler_component(form.attachments[UPSCALER], UPSCALER)} if size.upscaler else {},
        settings={"feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None],
                  "requires_safety_checker": False},
        files={} if options.drop_unused else files,
        unused={} if options.drop_unused else unused,
        remade=remade,
    )


def _set_aside(
    state: State, params: Mapping[str, Any], size: ChineseLDMDimensions
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """What the tables carry, what is kept, and the buffers that come out the same when they are computed again."""
    twin = UNET if size.weights == "ema" else EMA
    computed = schedule_from_config(params).buffers()
    mapped, unused, remade = {}, {}, {}
    for name, tensor in state.items():
        if name == SCALE and tensor.ndim == 0 or name in BUFFERS and _same_bits(tensor, computed[name]):
            remade[name] = tensor.dtype.name
        elif name in (SCALE, *BUFFERS, *COUNTERS) or name.startswith((twin, *LEFTOVERS)):
            unused[name] = tensor
        else:
            mapped[name] = tensor
    return mapped, unused, remade


def _same_bits(tensor: Tensor, computed: np.ndarray[Any, Any]) -> bool:
    again = Tensor.of(computed).cast(tensor.dtype).array()
    return tuple(tensor.shape) == again.shape and tensor.array().tobytes() == again.tobytes()


def _array(tensor: Tensor | None) -> np.ndarray[Any, Any] | None:
    return None if tensor is None else tensor.array().astype(np.float32)


# ---------------------------------------------------------------- modern to legacy

def to_legacy(form: Form, options: Options) -> Legacy:
    """What EasyNLP reads: flat, without the trainer's extra prefix; what was kept aside returns."""
    if isinstance(form, Legacy):
        to_modern(form, options)
        return Legacy(form.config, _flat(form), form.files, form.attachments, manifest=form.manifest, left=form.left)
    size = dimensions(form, options)
    tensors = _checked_state(form, size)
    kept = {name.removeprefix("legacy/"): blob for name, blob in form.files.items() if name.startswith("legacy/")}
    scheduler = schedule_from_scheduler(form.components["scheduler"].config or {})
    config = _read(kept["config.json"]) if "config.json" in kept else legacy_config(size, scheduler)
    tensors |= _remade(form, size, schedule_from_config(_params(config))) | dict(form.unused)
    vocabulary = form.components["tokenizer"].files.get("vocab.txt")
    if vocabulary is None:
        raise FormatError("The folder has no tokenizer/vocab.txt, which EasyNLP needs; copy it there.",
                          missing="tokenizer/vocab.txt")
    attachments = {UPSCALER: form.attachments["upscaler"].tensors} if size.upscaler else {}
    return Legacy(config, tensors, {"config.json": as_json(config), "vocab.txt": vocabulary, **kept}, attachments)


def _checked_state(form: Modern, size: ChineseLDMDimensions) -> dict[str, Tensor]:
    """The networks under their legacy names, every key and shape checked, the upscaler's too."""
    state = {f"{name}.{each}": tensor for name in ("unet", "vae", "text_encoder")
             for each, tensor in form.components[name].tensors.items()}
    if upscaler := form.attachments.get("upscaler"):
        upscaler_table(upscaler_from_config(upscaler.config or {})).to_legacy(upscaler.tensors, "upscaler")
    return network_table(size).to_legacy(state, "the diffusers folder")


def _remade(form: Modern, size: ChineseLDMDimensions, schedule: NoiseSchedule) -> dict[str, Tensor]:
    """The buffers that were not worth a file. A folder of which nothing is known gets the whole schedule."""
    wanted = form.remade if form.remade is not None else {} if form.manifest else dict.fromkeys(BUFFERS, "float32")
    values = schedule.buffers() | {SCALE: np.asarray(size.scale_factor, np.float64)}
    return {name: Tensor.of(values[name]).cast(TORCH[kind]) for name, kind in wanted.items()}


def _read(blob: Any) -> dict[str, Any]:
    found = json.loads(content(blob))
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- checking

def problems(form: Form, options: Options) -> list[str]:
    """What ``danqing check`` says beyond what a conversion would refuse."""
    if isinstance(form, Legacy):
        return [] if UPSCALER in form.attachments else [
            f"The folder has no {UPSCALER}, which the original opens in any case; copy it from the checkpoint's "
            "source."]
    vocabulary = form.components["tokenizer"].files.get("vocab.txt")
    return vocabulary_problems(vocabulary, dimensions(form, options).text.vocab_size) if vocabulary is not None else []


def notes(form: Form, options: Options) -> list[str]:
    """Which of the two sets of weights the UNet has now, and what else a user should know."""
    if isinstance(form, Modern):
        return []
    state, params = _flat(form), _params(form.config)
    chosen = _chosen_weights(state, params, options)
    lines = [f"The UNet has the checkpoint's {'EMA' if chosen == 'ema' else 'plain'} weights."]
    averaged = any(name.startswith(EMA) and name not in COUNTERS for name in state)
    if chosen == "plain" and not averaged and params.get("use_ema", True):
        lines.append("config.json asks for EMA weights (use_ema, true where it is absent), and the file has none: the "
                     "original would have run with random numbers.")
    if state is not form.tensors:
        lines.append(f"The trainer's extra {EXTRA} was taken off every key; the original could not read the file.")
    if UPSCALER not in form.attachments:
        lines.append(f"There is no {UPSCALER}, so there is no upscaler.")
    return lines


CHINESE_LDM = Family(
    name="chinese-ldm",
    title="latent diffusion with one text vector (EasyNLP latent_diffusion: pai-diffusion-general, chinese-ldm-*)",
    signature=Signature(
        legacy_keys=("model.diffusion_model.time_embed.0.weight", "first_stage_model.quant_conv.weight",
                     "cond_stage_model.model.text_projection"),
        legacy_prefixes=("", EXTRA),
        modern_components={"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "WukongTextEncoder"},
    ),
    tasks=("text-to-image-synthesis", "text2image_generation"),
    layouts=("easynlp", "diffusers"),
    dimensions=dimensions, to_modern=to_modern, to_legacy=to_legacy, problems=problems, notes=notes,
)
