"""The patch discriminator of the optional adversarial loss: it judges overlapping patches, not whole pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .loop import Loop


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


class Critic:
    """The discriminator's side of the optional adversarial loss: hinge, one step for each micro-batch."""

    def __init__(self, loop: Loop) -> None:
        network = PatchDiscriminator()
        optimizer = torch.optim.AdamW(network.parameters(), lr=loop.options.learning_rate, betas=(0.5, 0.9))
        self.network, self.optimizer = loop.accelerator.prepare(network, optimizer)
        self.loop = loop

    def judge(self, pixels: Tensor, decoded: Tensor) -> Tensor:
        """Train on a pair of real and decoded pictures; the loss that the VQGAN should lower."""
        real, fake = self.network(pixels), self.network(decoded.detach())
        self.optimizer.zero_grad()
        self.loop.accelerator.backward(0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean()))
        self.optimizer.step()
        self.network.requires_grad_(False)
        opinion: Tensor = -self.network(decoded).mean()
        self.network.requires_grad_(True)
        return opinion
