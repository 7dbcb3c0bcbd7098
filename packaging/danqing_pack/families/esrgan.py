"""The upscaler that lies beside chinese-ldm: ESRGAN's first architecture, under the same key names on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConversionError, FormatError
from ..keymap import KeyMap, State, conv, stack
from ..sides import Component


@dataclass(frozen=True)
class UpscalerDimensions:
    """``features`` channels, ``blocks`` residual blocks, ``growth`` channels that each layer of a block adds."""

    features: int
    blocks: int
    growth: int
    channels: int


def upscaler_from_state(state: State, place: str) -> UpscalerDimensions:
    """Sizes from the shapes of a state dict.

    Raises:
        ConversionError: it is no ESRGAN of the first architecture, which has keys such as ``RRDB_trunk.0``.
    """
    first, growth = (state.get(f"{name}.weight") for name in ("conv_first", "RRDB_trunk.0.RDB1.conv1"))
    if first is None or growth is None or first.ndim != 4 or growth.ndim != 4:
        raise ConversionError(
            f"{place} is no ESRGAN of the first architecture: it has no convolutions conv_first and "
            "RRDB_trunk.0.RDB1.conv1; the original reads RRDB_ESRGAN_x4.pth only.", missing=["conv_first.weight"])
    blocks = len({name.split(".")[1] for name in state if name.startswith("RRDB_trunk.")})
    return UpscalerDimensions(first.shape[0], blocks, growth.shape[0], first.shape[1])


def upscaler_from_config(config: Mapping[str, Any]) -> UpscalerDimensions:
    """Sizes from the config of an ``RRDBNet``."""
    try:
        return UpscalerDimensions(*(int(config[name]) for name in ("features", "blocks", "growth", "channels")))
    except KeyError as missing:
        raise FormatError(f"upscaler/config.json has no {missing}; convert the checkpoint anew.") from None


def upscaler_table(size: UpscalerDimensions) -> KeyMap:
    """Every key with the shape it must have."""
    wide, growth = size.features, size.growth
    dense = stack(
        conv(f"conv{i + 1}", f"conv{i + 1}", wide + i * growth, wide if i == 4 else growth) for i in range(5))
    block = stack(dense.under(name, name) for name in ("RDB1", "RDB2", "RDB3"))
    return (
        conv("conv_first", "conv_first", size.channels, wide)
        + stack(block.under(name, name) for name in (f"RRDB_trunk.{i}" for i in range(size.blocks)))
        + stack(conv(name, name, wide, wide) for name in ("trunk_conv", "upconv1", "upconv2", "HRconv"))
        + conv("conv_last", "conv_last", wide, size.channels)
    )


def upscaler_component(state: State, place: str) -> Component:
    """The upscaler as a folder of its own."""
    size = upscaler_from_state(state, place)
    return Component("danqing.components", "RRDBNet", {"_class_name": "RRDBNet", **asdict(size)},
                     upscaler_table(size).to_modern(state, place))
