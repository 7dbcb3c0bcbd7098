"""Pictures and texts as the networks take them, prepared as EasyNLP prepared them; codes of a frozen first stage."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from danqing_pack.errors import FormatError, RequestError
from danqing_pack.examples import Examples
from danqing_pack.staging import staged_file
from diffusers.models.autoencoders.vq_model import VQModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .patches import PatchCodes, nearest

Codes = NDArray[np.int32]
Coder = VQModel | PatchCodes
"""What turns pictures into codes."""


def prepare(picture: Image.Image, size: int, chance: random.Random | None = None) -> Tensor:
    """uint8 [3, size, size]: the shorter side scaled to `size`, bilinear without smoothing (also upwards), then cut in
    the centre, or at random where there is `chance`.

    Source: SmallestMaxSize and CenterCrop of albumentations over OpenCV's INTER_LINEAR; equal within one level.
    Alpha is dropped, not composed, as `convert("RGB")` does.
    """
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    if min(height, width) != size:
        scale = size / min(height, width)
        height, width = round(height * scale), round(width * scale)
        wanted = (height, width)
        scaled = F.interpolate(pixels[None].float(), wanted, mode="bilinear", align_corners=False, antialias=False)
        pixels = scaled[0].round().clamp(0, 255).to(torch.uint8)
    if chance is None:
        top, left = (height - size) // 2, (width - size) // 2
    else:
        top, left = chance.randint(0, height - size), chance.randint(0, width - size)
    return pixels[:, top : top + size, left : left + size].contiguous()


def as_input(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


def picture_of(content: bytes, size: int, where: str, chance: random.Random | None = None) -> Tensor:
    """The prepared picture of an image file's bytes; FormatError names the row that it stands in."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return prepare(picture, size, chance)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FormatError(f"The image in {where} cannot be read ({error}); remove or replace the row.") from None


class Pictures:
    """The pictures of a table by row, prepared; kept in memory while all of them together are below `limit` bytes."""

    def __init__(self, examples: Examples, size: int, limit: int = 2 << 30) -> None:
        self.examples, self.size = examples, size
        self._kept: dict[int, Tensor] | None = {} if len(examples) * 3 * size * size <= limit else None

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Iterable[int]) -> Tensor:
        """uint8 [B, 3, size, size]."""
        return torch.stack([self._picture(row) for row in rows])

    def _picture(self, row: int) -> Tensor:
        if self._kept is not None and row in self._kept:
            return self._kept[row]
        found = picture_of(self.examples[row].image_bytes, self.size, self.examples.where(row))
        if self._kept is not None:
            self._kept[row] = found
        return found


def token_ids(tokenizer: Any, texts: Sequence[str], length: int, offset: int) -> Tensor:
    """int64 [B, length]: word pieces without [CLS] and [SEP], cut or filled up with [PAD], moved up by `offset`."""
    ids = tokenizer(list(texts), add_special_tokens=False, padding="max_length", truncation=True, max_length=length)
    return torch.tensor(ids["input_ids"], dtype=torch.int64) + offset


@torch.no_grad()
def encode(coder: Coder, pixels: Tensor) -> Tensor:
    """int64 [B, codes]: the nearest codebook entry at each place, row by row, for float pixels in [-1, 1]."""
    if isinstance(coder, PatchCodes):
        return coder.ids(pixels)
    book = coder.quantize.embedding.weight
    latents = coder.encode(pixels.to(book)).latents.permute(0, 2, 3, 1)
    return nearest(latents.reshape(-1, latents.shape[-1]).float(), book.float()).reshape(len(pixels), -1)


def cached_codes(
    examples: Examples, coder: Coder, size: int, folder: Path, batch: int = 64, report: Callable[[str], None] = print,
) -> Codes:
    """int32 [rows, codes] of every picture of a table under a frozen first stage, computed once.

    The cache in `folder` is named after weights and size and is looked up by the sha256 of each image file, so a
    picture that stands in several rows, or in another table, is encoded once. An incomplete cache is completed.
    """
    place = folder / f"codes-{fingerprint(coder, size)}.npz"
    known = _read_cache(place)
    digests = []
    waiting: dict[bytes, int] = {}
    for row in range(len(examples)):
        digest = hashlib.sha256(examples[row].image_bytes).digest()
        digests.append(digest)
        if digest not in known:
            waiting.setdefault(digest, row)
    rows = list(waiting.items())
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        pixels = torch.stack([picture_of(examples[row].image_bytes, size, examples.where(row)) for _, row in part])
        for (digest, _), codes in zip(part, encode(coder, as_input(pixels)).cpu().numpy(), strict=True):
            known[digest] = codes.astype(np.int32)
    if rows:
        report(f"Encoded {len(rows)} pictures.")
        _write_cache(place, known)
    return np.stack([known[digest] for digest in digests])


def fingerprint(coder: Coder, size: int) -> str:
    """16 hex digits that change with the first stage's weights and with the picture size."""
    digest = hashlib.sha256(str(size).encode())
    weights = coder.state_dict() if isinstance(coder, VQModel) else vars(coder)
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read_cache(place: Path) -> dict[bytes, Codes]:
    if not place.is_file():
        return {}
    try:
        with np.load(place, allow_pickle=False) as stored:
            digests, codes = stored["digests"], stored["codes"]
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"The cache {place} is damaged ({error}); remove it, it is made anew.") from None
    return {digest.tobytes(): row for digest, row in zip(digests, codes, strict=True)}


def _write_cache(place: Path, known: dict[bytes, Codes]) -> None:
    digests = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), 32)
    with staged_file(place, force=True) as file, open(file, "wb") as stream:
        np.savez(stream, digests=digests, codes=np.stack(list(known.values())))
