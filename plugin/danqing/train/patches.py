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
    """`centres` [codes, 2 * 3 f f] divide the patches; `book` [codes, width] is what the decoder is given for each."""

    centres: Tensor
    book: Tensor

    def ids(self, pixels: Tensor) -> Tensor:
        """int64 [B, codes per picture] of float pixels [B, 3, H, W] in [-1, 1], row by row."""
        side = int((self.centres.shape[1] // 6) ** 0.5)
        points = features(patches_of(pixels, side).flatten(0, 1))
        return nearest(points, self.centres.to(pixels)).view(len(pixels), -1)

    def save(self, folder: Path) -> None:
        """Beside the weights of the VQModel."""
        save_file({"centres": self.centres, "book": self.book}, folder / FILE)


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


def features(patches: Tensor, weight: float = 2.0) -> Tensor:
    """Float patches [N, 3 f f] beside their drawing alone, [N, 2 * 3 f f]: every channel without its mean, all of them
    together of length `weight`. So a faint outline is told from another one as well as a strong one is."""
    channels = patches.view(len(patches), 3, -1)
    drawing = (channels - channels.mean(2, keepdim=True)).flatten(1)
    return torch.cat([patches, weight * drawing / drawing.norm(dim=1, keepdim=True).clamp(min=1e-3)], dim=1)


def make_patch_codes(pixels: Tensor, side: int, count: int, width: int, seed: int, rounds: int = 15) -> PatchCodes:
    """Codes for uint8 pictures [N, 3, H, W]: k-means over the distinct patches, a frequent one weighing a little more.

    The codebook holds the mean patch of each code in `width` principal components, scaled to a mean square of 1."""
    found, times = torch.unique(patches_of(pixels, side).flatten(0, 1), dim=0, return_counts=True)
    patches, weights = found.float() / 127.5 - 1.0, times.float() ** 0.25
    points = features(patches)
    centres = k_means(points, count, torch.Generator().manual_seed(seed), rounds, weights)
    ids = nearest(points, centres)
    totals = torch.zeros(count).index_add_(0, ids, weights)[:, None].clamp(min=1e-9)
    means = torch.zeros(count, patches.shape[1]).index_add_(0, ids, patches * weights[:, None]) / totals
    _, axes = torch.linalg.eigh((patches - patches.mean(0)).t() @ (patches - patches.mean(0)))
    book = (means - patches.mean(0)) @ axes[:, -width:].flip(1)
    return PatchCodes(centres, book / book.square().mean().sqrt())


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
