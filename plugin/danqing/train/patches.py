"""Codes from the patches of a picture themselves: principal components and k-means, no network.

On flat drawings this replaces the long game between encoder and codebook: a patch has the same code wherever it
stands, codes are fixed before training starts, the decoder learns to paint from them, the encoder to name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "patches.safetensors"


@dataclass(frozen=True)
class PatchCodes:
    """`mean` [3 f f] and `basis` [3 f f, width] take a patch to the space of the codebook `book` [codes, width]."""

    mean: Tensor
    basis: Tensor
    book: Tensor

    def ids(self, pixels: Tensor) -> Tensor:
        """int64 [B, codes per picture] of float pixels [B, 3, H, W] in [-1, 1], row by row."""
        side = int((len(self.mean) // 3) ** 0.5)
        points = (patches_of(pixels, side) - self.mean.to(pixels)) @ self.basis.to(pixels)
        return nearest(points.flatten(0, 1), self.book.to(pixels)).view(len(pixels), -1)

    def save(self, folder: Path) -> None:
        """Beside the weights of the VQModel."""
        save_file({"mean": self.mean, "basis": self.basis, "book": self.book}, folder / FILE)


def load_patch_codes(folder: Path) -> PatchCodes | None:
    """What `save` wrote, or None where there is none."""
    return PatchCodes(**load_file(folder / FILE)) if (folder / FILE).is_file() else None


def patches_of(pixels: Tensor, side: int) -> Tensor:
    """[B, 3, H, W] -> [B, patches, 3 side side]."""
    batch, channels, height, width = pixels.shape
    cut = pixels.reshape(batch, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side * side)


def nearest(points: Tensor, book: Tensor) -> Tensor:
    """int64 [N]: the entry of `book` [K, width] nearest to each of `points` [N, width]."""
    return (book.square().sum(1) - 2 * points @ book.t()).argmin(1)


def make_patch_codes(pixels: Tensor, side: int, count: int, width: int, seed: int, rounds: int = 15) -> PatchCodes:
    """Codes for uint8 pictures [N, 3, H, W]; every distinct patch weighs as the root of how often it occurs."""
    found, times = torch.unique(patches_of(pixels, side).flatten(0, 1), dim=0, return_counts=True)
    points, weights = found.float() / 127.5 - 1.0, times.float().sqrt()
    mean = points.mean(0)
    _, axes = torch.linalg.eigh((points - mean).t() @ (points - mean))
    basis = axes[:, -width:].flip(1).contiguous()
    places = (points - mean) @ basis
    scale = places.square().mean().sqrt()
    book = k_means(places / scale, count, torch.Generator().manual_seed(seed), rounds, weights)
    return PatchCodes(mean, basis / scale, book)


def k_means(points: Tensor, count: int, generator: torch.Generator, rounds: int, weights: Tensor | None = None) -> Tensor:
    """Centres [count, width]; the start is spread out (k-means++), so rare points get centres too."""
    weights = torch.ones(len(points)) if weights is None else weights
    centres = [points[torch.multinomial(weights, 1, generator=generator)]]
    distance = (points - centres[0]).square().sum(1)
    for _ in range(count - 1):
        pick = points[torch.multinomial(distance * weights + 1e-12, 1, generator=generator)]
        centres.append(pick)
        distance = torch.minimum(distance, (points - pick).square().sum(1))
    book = torch.cat(centres)
    for _ in range(rounds):
        ids = nearest(points, book)
        sums = torch.zeros_like(book).index_add_(0, ids, points * weights[:, None])
        counts = torch.zeros(count).index_add_(0, ids, weights)[:, None]
        book = torch.where(counts > 0, sums / counts.clamp(min=1e-9), book)
    return book
