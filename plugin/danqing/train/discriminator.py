"""The patch discriminator of the optional adversarial loss: it judges overlapping patches, not whole pictures."""

from __future__ import annotations

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Three strided convolutions and two plain ones. Source: the patch discriminator of pix2pix."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, 3):
            layers += [nn.Conv2d(width * 2 ** (level - 1), width * 2**level, 4, 2, 1, bias=False),
                       nn.GroupNorm(8, width * 2**level), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 4, 1, 4, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [B, 3, H, W] -> one score for each patch, above 0 for real."""
        scores: Tensor = self.layers(pixels)
        return scores
