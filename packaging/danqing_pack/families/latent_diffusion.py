"""The networks that every latent diffusion model shares: the UNet and the KL autoencoder, their sizes and key tables.

Legacy names are CompVis's, modern names those of ``diffusers.UNet2DConditionModel`` and ``diffusers.AutoencoderKL``.
Sizes come from tensor shapes; only the number of heads is stored nowhere but in the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConversionError, FormatError, listing
from ..keymap import KeyMap, State, conv, linear, norm, shape_of, stack
from .autoencoders import NORM_GROUPS, AutoencoderDimensions, autoencoder_table

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "use_scale_shift_norm": (False,), "resblock_updown": (False,), "num_classes": (None,), "n_embed": (None,),
    "conv_resample": (True,), "dims": (2,), "use_spatial_transformer": (True,), "use_linear_in_transformer": (False,),
}
"""Options of the original UNet that diffusers has no network for unless they have these values."""

FIXED = ("down_block_types", "up_block_types", "mid_block_type", "act_fn", "norm_eps", "use_linear_projection",
         "flip_sin_to_cos", "freq_shift")
"""Entries of a ``UNet2DConditionModel``'s config that the original leaves no choice about."""


@dataclass(frozen=True)
class UNetDimensions:
    """Sizes of a UNet, highest resolution first; ``heads`` is the number of attention heads at each level."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: tuple[int, ...]
    layers_per_block: int
    depth: int
    """Transformer blocks in each attention."""
    context: int
    """Width of the vectors that the UNet attends to."""
    sample_size: int
    """Side of the latents that a call without a size asks for."""

    def diffusers_config(self) -> dict[str, Any]:
        """The config of the ``UNet2DConditionModel``. Its ``attention_head_dim`` is, for history's sake, a count."""
        heads = self.heads[0] if len(set(self.heads)) == 1 else list(self.heads)
        down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in self.attention]
        up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(self.attention)]
        return {
            "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": heads,
            "block_out_channels": list(self.channels), "center_input_sample": False,
            "cross_attention_dim": self.context, "down_block_types": down, "downsample_padding": 1,
            "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block, "mid_block_scale_factor": 1,
            "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "norm_num_groups": NORM_GROUPS,
            "out_channels": self.out_channels, "sample_size": self.sample_size,
            "transformer_layers_per_block": self.depth, "up_block_types": up, "use_linear_projection": False,
        }


# ---------------------------------------------------------------- sizes

def unet_from_state(state: State, config: Mapping[str, Any]) -> UNetDimensions:
    """Sizes of a UNet from a legacy state dict whose keys begin at ``input_blocks.``.

    ``config`` holds the parameters of the original ``UNetModel``: ``num_heads`` or ``num_head_channels``, and
    ``image_size``; the rest is read from shapes.

    Raises:
        ConversionError: a tensor that decides a size is missing or malformed.
        FormatError: a network that diffusers does not have, by the name of what it lacks.
    """
    require_neutral(config, NEUTRAL, "the UNet")
    _require_known_blocks(state)
    levels = _levels(state)
    width, in_channels = _shape(state, "input_blocks.0.0.weight", 4)[:2]
    channels = tuple(_shape(state, f"input_blocks.{level[0]}.0.out_layers.3.weight", 4)[0] for level in levels)
    attention = tuple(f"input_blocks.{level[0]}.1.norm.weight" in state for level in levels)
    if channels[0] != width:
        raise FormatError(
            f"The UNet's channel_mult begins with {channels[0] / width:g} instead of 1 (its first convolution has "
            f"{width} channels, its first level {channels[0]}); diffusers has no such network.", channels=channels)
    if len({len(level) for level in levels}) > 1:
        raise FormatError(
            f"The UNet has {[len(level) for level in levels]} residual blocks on its levels; only one num_res_blocks "
            "for all of them can be represented.")
    depth = len({name.split(".")[3] for name in state if name.startswith("middle_block.1.transformer_blocks.")})
    return UNetDimensions(
        in_channels, _shape(state, "out.2.weight", 4)[0], channels, attention, _heads(channels, config), len(levels[0]),
        depth, _shape(state, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        int(config.get("image_size") or 32))


def unet_from_config(config: Mapping[str, Any]) -> UNetDimensions:
    """Sizes from the config of a ``UNet2DConditionModel``.

    Raises:
        FormatError: an entry is missing, or the network is none that the original code could build.
    """
    try:
        channels = tuple(config["block_out_channels"])
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        layers, depth = config["layers_per_block"], config.get("transformer_layers_per_block", 1)
        size = UNetDimensions(
            config["in_channels"], config["out_channels"], channels,
            tuple(name == "CrossAttnDownBlock2D" for name in config["down_block_types"]),
            (heads,) * len(channels) if isinstance(heads, int) else tuple(heads), layers, depth,
            config["cross_attention_dim"], config.get("sample_size") or 32)
    except (KeyError, TypeError) as error:
        raise FormatError(
            f"The UNet's config.json has no usable {error}; restore it from the folder it came from.") from None
    made = size.diffusers_config()
    foreign = sorted(
        f"{name} {config[name]!r}" for name in FIXED if name in config and _plain(config[name]) != made[name])
    foreign += [f"{name} {value!r}" for name, value in (("layers_per_block", layers),
                ("transformer_layers_per_block", depth)) if not isinstance(value, int)]
    if foreign:
        raise FormatError(f"The UNet has {listing(foreign)}, for which the original code has no network; it stays in "
                          "the diffusers layout.", problems=foreign)
    return size


def require_neutral(config: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], place: str) -> None:
    """Refuse, by name and all at once, options that would build a network which diffusers does not have."""
    foreign = [f"{name} {config[name]!r}" for name, allowed in neutral.items()
               if name in config and config[name] not in allowed]
    if foreign:
        raise FormatError(f"The configuration of {place} asks for {listing(foreign)}, which no network of diffusers "
                          "can represent.", problems=foreign)


def _require_known_blocks(state: State) -> None:
    """The same options, read from the tensors they leave behind."""
    marks = {
        "num_classes": [name for name in state if name.startswith("label_emb.")],
        "n_embed": [name for name in state if name.startswith("id_predictor.")],
        "use_spatial_transformer False": [name for name in state if name.endswith(".qkv.weight")],
    }
    emb, out = (state.get(f"middle_block.0.{name}.weight") for name in ("emb_layers.1", "out_layers.3"))
    if emb is not None and out is not None and emb.shape[:1] == (2 * out.shape[0],):
        marks["use_scale_shift_norm"] = ["middle_block.0.emb_layers.1.weight"]
    found = [f"{name} ({keys[0]})" for name, keys in marks.items() if keys]
    if found:
        raise FormatError(f"The UNet was built with {listing(found)}, which no network of diffusers can represent.",
                          problems=found)


def _levels(state: State) -> list[list[int]]:
    """The input blocks of each level, by number; a convolution that halves the picture ends a level."""
    count = len({name.split(".")[1] for name in state if name.startswith("input_blocks.")})
    levels: list[list[int]] = [[]]
    for index in range(1, count):
        if f"input_blocks.{index}.0.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(index)
    if not all(levels):
        raise ConversionError("The checkpoint's keys input_blocks do not describe levels of a UNet; it is not whole.")
    return levels


def _heads(channels: tuple[int, ...], config: Mapping[str, Any]) -> tuple[int, ...]:
    """Heads of each level: ``num_heads`` everywhere, or the width divided by ``num_head_channels``."""
    number, width = (int(config.get(name) or -1) for name in ("num_heads", "num_head_channels"))
    if number < 1 and width < 1:
        raise FormatError("The configuration of the UNet has neither num_heads nor num_head_channels, and its tensors "
                          "do not show them; add one to unet_config.params in config.json.")
    unit, name = (width, "num_head_channels") if width > 0 else (number, "num_heads")
    if uneven := [each for each in channels if each % unit]:
        raise FormatError(f"The configuration of the UNet says {name} {unit}, which does not divide its {uneven[0]} "
                          "channels; correct it in config.json.")
    return tuple(each // width if width > 0 else number for each in channels)


def _shape(state: State, name: str, ndim: int) -> tuple[int, ...]:
    return shape_of(state, name, ndim, "its UNet is not whole")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---------------------------------------------------------------- the UNet's key table

def resnet(channels_in: int, channels_out: int, time: int) -> KeyMap:
    """A residual block with the embedding of the timestep; its shortcut exists where the width changes."""
    shortcut = KeyMap() if channels_in == channels_out else conv(
        "skip_connection", "conv_shortcut", channels_in, channels_out, 1)
    return (
        norm("in_layers.0", "norm1", channels_in)
        + conv("in_layers.2", "conv1", channels_in, channels_out)
        + linear("emb_layers.1", "time_emb_proj", time, channels_out)
        + norm("out_layers.0", "norm2", channels_out)
        + conv("out_layers.3", "conv2", channels_out, channels_out)
        + shortcut
    )


def transformer(channels: int, context: int, depth: int) -> KeyMap:
    """Attention over positions and to the context, under the same names on both sides."""
    def attend(name: str, keys: int) -> KeyMap:
        return stack([
            linear("to_q", "to_q", channels, channels, bias=False), linear("to_k", "to_k", keys, channels, bias=False),
            linear("to_v", "to_v", keys, channels, bias=False), linear("to_out.0", "to_out.0", channels, channels),
        ]).under(name, name)

    block = (
        stack(norm(name, name, channels) for name in ("norm1", "norm2", "norm3"))
        + attend("attn1", channels) + attend("attn2", context)
        + linear("ff.net.0.proj", "ff.net.0.proj", channels, 8 * channels)
        + linear("ff.net.2", "ff.net.2", 4 * channels, channels)
    )
    return (
        norm("norm", "norm", channels) + conv("proj_in", "proj_in", channels, channels, 1)
        + stack(block.under(name, name) for name in (f"transformer_blocks.{i}" for i in range(depth)))
        + conv("proj_out", "proj_out", channels, channels, 1)
    )


def unet_table(size: UNetDimensions) -> KeyMap:
    """The whole UNet, every key with the shape it must have."""
    width = size.channels[0]
    return (
        linear("time_embed.0", "time_embedding.linear_1", width, 4 * width)
        + linear("time_embed.2", "time_embedding.linear_2", 4 * width, 4 * width)
        + conv("input_blocks.0.0", "conv_in", size.in_channels, width)
        + _down(size) + _middle(size) + _up(size)
        + norm("out.0", "conv_norm_out", width) + conv("out.2", "conv_out", width, size.out_channels)
    )


def _down(size: UNetDimensions) -> KeyMap:
    """Each level's blocks, then a convolution that halves the picture; all numbered in one row on the left."""
    parts, width, number = [], size.channels[0], 1
    for level, channels in enumerate(size.channels):
        for block in range(size.layers_per_block):
            parts.append(resnet(width, channels, 4 * size.channels[0]).under(
                f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}"))
            if size.attention[level]:
                parts.append(transformer(channels, size.context, size.depth).under(
                    f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{block}"))
            width, number = channels, number + 1
        if level < len(size.channels) - 1:
            parts.append(conv(f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv", width, width))
            number += 1
    return stack(parts)


def _middle(size: UNetDimensions) -> KeyMap:
    width, time = size.channels[-1], 4 * size.channels[0]
    return (
        resnet(width, width, time).under("middle_block.0", "mid_block.resnets.0")
        + transformer(width, size.context, size.depth).under("middle_block.1", "mid_block.attentions.0")
        + resnet(width, width, time).under("middle_block.2", "mid_block.resnets.1")
    )


def _up(size: UNetDimensions) -> KeyMap:
    """Each block takes what its twin on the way down gave, last one first; levels count from the lowest resolution."""
    skipped = [size.channels[0]]
    for level, channels in enumerate(size.channels):
        skipped += [channels] * size.layers_per_block + [channels] * (level < len(size.channels) - 1)
    parts, width, number, last = [], size.channels[-1], 0, len(size.channels) - 1
    for level in range(last, -1, -1):
        channels, new = size.channels[level], f"up_blocks.{last - level}"
        for block in range(size.layers_per_block + 1):
            old = f"output_blocks.{number}"
            parts.append(resnet(width + skipped.pop(), channels, 4 * size.channels[0]).under(
                f"{old}.0", f"{new}.resnets.{block}"))
            if size.attention[level]:
                parts.append(transformer(channels, size.context, size.depth).under(
                    f"{old}.1", f"{new}.attentions.{block}"))
            width, number = channels, number + 1
        if level:
            parts.append(conv(f"output_blocks.{number - 1}.{1 + size.attention[level]}.conv",
                              f"{new}.upsamplers.0.conv", width, width))
    return stack(parts)


# ---------------------------------------------------------------- the KL autoencoder

def kl_table(size: AutoencoderDimensions) -> KeyMap:
    """Encoder, decoder and the two 1x1 convolutions around the latents."""
    z = size.latent_channels
    return (
        autoencoder_table(size)
        + conv("quant_conv", "quant_conv", 2 * z, 2 * z, 1)
        + conv("post_quant_conv", "post_quant_conv", z, z, 1)
    )


def kl_config(size: AutoencoderDimensions, sample_size: int, scaling_factor: float) -> dict[str, Any]:
    """The config of the ``AutoencoderKL``: ``sample_size`` in pixels; latents are multiplied by ``scaling_factor``."""
    return {
        "_class_name": "AutoencoderKL", "act_fn": "silu", **size.diffusers_config(), "sample_size": sample_size,
        "scaling_factor": scaling_factor, "force_upcast": True, "mid_block_add_attention": True, "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
