"""The convolutional autoencoder of taming-transformers and latent diffusion: its sizes and its key table.

VQGAN and KL autoencoder share encoder and decoder; what lies between them (codebook, moments) is the family's.
Legacy names are CompVis's, modern names those of ``diffusers.VQModel`` and ``diffusers.AutoencoderKL``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConversionError, FormatError
from ..keymap import SQUEEZED, KeyMap, State, conv, module, norm, stack

NORM_GROUPS = 32
"""Groups of every group norm in the original; stored nowhere."""


@dataclass(frozen=True)
class AutoencoderDimensions:
    """Sizes of encoder and decoder, highest resolution first; ``factor`` is pixels per latent."""

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers_per_block: int
    latent_channels: int
    in_channels: int
    out_channels: int
    double_z: bool = False
    """Whether the encoder writes mean and log-variance, as a KL autoencoder does."""

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.channels) - 1))

    def diffusers_config(self) -> dict[str, Any]:
        """The part of a ``VQModel`` or ``AutoencoderKL`` config that these sizes decide."""
        return {
            "block_out_channels": list(self.channels), "layers_per_block": self.layers_per_block,
            "latent_channels": self.latent_channels, "in_channels": self.in_channels,
            "out_channels": self.out_channels, "norm_num_groups": NORM_GROUPS,
            "down_block_types": ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in self.attention],
            "up_block_types": ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(self.attention)],
        }


def sizes_from_state(state: State) -> AutoencoderDimensions:
    """Sizes from the shapes of a legacy state dict whose keys begin at ``encoder.``.

    Raises:
        ConversionError: a tensor that decides a size is missing or malformed.
        FormatError: a first level wider than the first convolution, which diffusers cannot express.
    """
    levels = len({name.split(".")[2] for name in state if name.startswith("encoder.down.")})
    blocks = len({name.split(".")[4] for name in state if name.startswith("encoder.down.0.block.")})
    first, in_channels = _conv_shape(state, "encoder.conv_in.weight")
    channels = tuple(_conv_shape(state, f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels))
    moments, _ = _conv_shape(state, "encoder.conv_out.weight")
    _, latent_channels = _conv_shape(state, "decoder.conv_in.weight")
    out_channels, _ = _conv_shape(state, "decoder.conv_out.weight")
    if not channels:
        raise ConversionError("The checkpoint has no key encoder.down.0, so its autoencoder is not whole.")
    if first != channels[0]:
        raise FormatError(
            f"The autoencoder's first level has {channels[0]} channels after a convolution of {first} (ch_mult begins "
            f"with {channels[0] / first:g}); diffusers has no such network, only those whose ch_mult begins with 1.",
            channels=channels)
    return AutoencoderDimensions(
        channels, tuple(f"encoder.down.{level}.attn.0.norm.weight" in state for level in range(levels)), blocks,
        latent_channels, in_channels, out_channels, double_z=moments == 2 * latent_channels)


def sizes_from_config(config: Mapping[str, Any], double_z: bool = False) -> AutoencoderDimensions:
    """Sizes from the config of a ``VQModel`` or ``AutoencoderKL``."""
    try:
        return AutoencoderDimensions(
            tuple(config["block_out_channels"]),
            tuple(name.startswith("Attn") for name in config["down_block_types"]),
            config["layers_per_block"], config["latent_channels"], config.get("in_channels", 3),
            config.get("out_channels", 3), double_z)
    except KeyError as missing:
        raise FormatError(f"The autoencoder's config.json has no {missing}; restore it from the folder it came from.") \
            from None


def _conv_shape(state: State, name: str) -> tuple[int, int]:
    if name not in state:
        raise ConversionError(f"The checkpoint has no tensor {name}; its autoencoder is not whole.", missing=[name])
    shape = state[name].shape
    if len(shape) != 4:
        raise ConversionError(f"The tensor {name} has shape {list(shape)}, where a convolution is expected.",
                              problems=[name])
    return shape[0], shape[1]


# ---------------------------------------------------------------- the key table

def autoencoder_table(size: AutoencoderDimensions) -> KeyMap:
    """Encoder and decoder, every key with the shape it must have."""
    return encoder_table(size) + decoder_table(size)


def resnet(channels_in: int, channels_out: int) -> KeyMap:
    """A residual block; its shortcut exists where the width changes."""
    shortcut = KeyMap() if channels_in == channels_out else conv(
        "nin_shortcut", "conv_shortcut", channels_in, channels_out, 1)
    return (
        norm("norm1", "norm1", channels_in)
        + conv("conv1", "conv1", channels_in, channels_out)
        + norm("norm2", "norm2", channels_out)
        + conv("conv2", "conv2", channels_out, channels_out)
        + shortcut
    )


def attention(channels: int) -> KeyMap:
    """A single-head attention whose projections were 1x1 convolutions."""
    pairs = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
    return norm("norm", "group_norm", channels) + stack(
        module(legacy, modern, (channels, channels, 1, 1), op=SQUEEZED) for legacy, modern in pairs)


def middle(channels: int) -> KeyMap:
    """The blocks at the lowest resolution."""
    return (
        resnet(channels, channels).under("mid.block_1", "mid_block.resnets.0")
        + attention(channels).under("mid.attn_1", "mid_block.attentions.0")
        + resnet(channels, channels).under("mid.block_2", "mid_block.resnets.1")
    )


def encoder_table(size: AutoencoderDimensions) -> KeyMap:
    """Levels go down in resolution on both sides."""
    last, width = len(size.channels) - 1, size.channels[0]
    parts = [conv("conv_in", "conv_in", size.in_channels, width)]
    for level, channels in enumerate(size.channels):
        old, new = f"down.{level}", f"down_blocks.{level}"
        for block in range(size.layers_per_block):
            parts.append(resnet(width, channels).under(f"{old}.block.{block}", f"{new}.resnets.{block}"))
            width = channels
            if size.attention[level]:
                parts.append(attention(width).under(f"{old}.attn.{block}", f"{new}.attentions.{block}"))
        if level < last:
            parts.append(conv(f"{old}.downsample.conv", f"{new}.downsamplers.0.conv", width, width))
    moments = size.latent_channels * (2 if size.double_z else 1)
    parts += [middle(width), norm("norm_out", "conv_norm_out", width), conv("conv_out", "conv_out", width, moments)]
    return stack(parts).under("encoder", "encoder")


def decoder_table(size: AutoencoderDimensions) -> KeyMap:
    """Legacy levels count from the highest resolution, modern blocks from the lowest."""
    last, width = len(size.channels) - 1, size.channels[-1]
    parts = [conv("conv_in", "conv_in", size.latent_channels, width), middle(width)]
    for level in range(last, -1, -1):
        channels, old, new = size.channels[level], f"up.{level}", f"up_blocks.{last - level}"
        for block in range(size.layers_per_block + 1):
            parts.append(resnet(width, channels).under(f"{old}.block.{block}", f"{new}.resnets.{block}"))
            width = channels
            if size.attention[level]:
                parts.append(attention(width).under(f"{old}.attn.{block}", f"{new}.attentions.{block}"))
        if level:
            parts.append(conv(f"{old}.upsample.conv", f"{new}.upsamplers.0.conv", width, width))
    parts += [norm("norm_out", "conv_norm_out", width), conv("conv_out", "conv_out", width, size.out_channels)]
    return stack(parts).under("decoder", "decoder")
