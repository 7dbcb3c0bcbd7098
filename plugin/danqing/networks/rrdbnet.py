"""RRDBNet, the generator of ESRGAN: dense residual blocks, then two doublings.

Key names and arithmetic are those of ESRGAN's first release, so its files load as they are. Colours are RGB in and out;
the network itself was trained on BGR, so it swaps on both ends.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """Five convolutions, each over everything before it; a fifth of the last one is added to the input."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for i in range(5):
            width_out = features if i == 4 else growth
            self.add_module(f"conv{i + 1}", nn.Conv2d(features + i * growth, width_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, h, w] -> the same."""
        seen = [x]
        for i in range(4):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{i + 1}")(torch.cat(seen, 1)), 0.2))
        out: Tensor = self.get_submodule("conv5")(torch.cat(seen, 1)) * 0.2 + x
        return out


class ResidualDenseBlock(nn.Module):
    """Three dense blocks with a residual of a fifth around them."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.RDB1 = DenseBlock(features, growth)
        self.RDB2 = DenseBlock(features, growth)
        self.RDB3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, h, w] -> the same."""
        out: Tensor = self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x
        return out


class RRDBNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Four times the width and height: ``features`` channels, ``blocks`` residual blocks, ``growth`` more a layer."""

    __module__ = "danqing.components"
    scale = 4

    config: Any

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, features: int = 64, blocks: int = 23, growth: int = 32, channels: int = 3) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conv_first = nn.Conv2d(channels, features, 3, padding=1)
        self.RRDB_trunk = nn.Sequential(*(ResidualDenseBlock(features, growth) for _ in range(blocks)))
        self.trunk_conv = nn.Conv2d(features, features, 3, padding=1)
        self.upconv1 = nn.Conv2d(features, features, 3, padding=1)
        self.upconv2 = nn.Conv2d(features, features, 3, padding=1)
        self.HRconv = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, channels, 3, padding=1)

    @property
    def reach(self) -> int:
        """How far, in pixels of the input, one pixel of ``trunk`` looks to each side."""
        return 15 * int(self.config.blocks) + 2

    def trunk(self, images: Tensor) -> Tensor:
        """RGB [B, 3, h, w] in [0, 1] -> features [B, features, h, w]."""
        first = self.conv_first(images.flip(1))
        out: Tensor = first + self.trunk_conv(self.RRDB_trunk(first))
        return out

    def tail(self, features: Tensor) -> Tensor:
        """Features [B, features, h, w] -> RGB [B, 3, 4h, 4w], not clamped; looks 2 input pixels to each side."""
        for upconv in (self.upconv1, self.upconv2):
            features = F.leaky_relu(upconv(F.interpolate(features, scale_factor=2, mode="nearest")), 0.2)
        out: Tensor = self.conv_last(F.leaky_relu(self.HRconv(features), 0.2))
        return out.flip(1)

    def forward(self, images: Tensor) -> Tensor:
        """RGB [B, 3, h, w] in [0, 1] -> RGB [B, 3, 4h, 4w], not clamped."""
        return self.tail(self.trunk(images))
