"""Four times the pixels: RRDBNet over tiles, so that memory does not grow with the picture.

The trunk sees far in theory (15 pixels a block) and near in practice: each residual is scaled by a fifth, and what
lies beyond ``OVERLAP`` pixels moves no 8-bit level. The tail, where nearly all memory goes, sees 2 pixels exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from danqing_pack.errors import FormatError, RequestError
from PIL import Image
from torch import Tensor

from danqing.networks.rrdbnet import RRDBNet

if TYPE_CHECKING:
    from danqing_pack.sides import Component
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

TILE = 256
"""Pixels of the input that the trunk takes at once, without their surroundings."""
OVERLAP = 32
"""Surroundings that each tile is given on every side."""
TAIL_TILE, TAIL_MARGIN = 96, 2

Picture = Image.Image | np.ndarray[Any, Any] | Tensor
Span = tuple[int, int]
Box = tuple[Span, Span]


def load_upscaler(
    path_or_id: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype | None = "auto"
) -> Upscaler:
    """The upscaler of a checkpoint, as a callable on pictures.

    Args:
        path_or_id: anything ``danqing.load`` takes, the folder ``upscaler/`` of a diffusers folder, or a file such as
            ``RRDB_ESRGAN_x4.pth``.
        device, dtype: as for ``danqing.load``.

    Raises:
        FormatError: there is no upscaler. ConversionError: it is of another architecture.
    """
    from danqing.building import build_component
    from danqing.devices import resolve_device, resolve_dtype
    from danqing.places import find_model

    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    place = find_model(path_or_id)
    with _opened(place) as part:
        net = build_component(part, place, kind)
    return Upscaler(net.to(target))


def upscaler_of(pipe: DiffusionPipeline) -> Upscaler:
    """The upscaler of the checkpoint that ``danqing.load`` made ``pipe`` from, on its device; opened once.

    Raises:
        FormatError: the checkpoint has none. RequestError: the pipeline was made elsewhere.
    """
    found: Upscaler | None = getattr(pipe, "danqing_upscaler", None)
    if found is None:
        source = getattr(pipe, "danqing_source", None)
        if source is None:
            raise RequestError("This pipeline was not made by danqing.load, so its upscaler is not known; call "
                               "danqing.load_upscaler on the checkpoint.")
        found = load_upscaler(source, pipe.device, pipe.dtype)
        pipe.danqing_upscaler = found
    return found


@contextmanager
def _opened(place: Path) -> Iterator[Component]:
    """The upscaler's config and weights, open for as long as the block lasts, from wherever they lie."""
    from danqing_pack import pickles
    from danqing_pack.detection import opened
    from danqing_pack.families.esrgan import upscaler_component
    from danqing_pack.family import Options
    from danqing_pack.layouts.diffusers import open_component

    if place.suffix in (".pth", ".pt") and place.is_file():
        yield upscaler_component(pickles.load(place), place.name)
    elif _is_folder_of_one(place):
        yield open_component(place, "danqing.components", "RRDBNet")
    else:
        with opened(place) as checkpoint:
            form = checkpoint.family.to_modern(checkpoint.form, Options())
            if "upscaler" not in form.attachments:
                raise FormatError(f"{place} has no upscaler; pictures are enlarged by a checkpoint that carries "
                                  "one, or by danqing.load_upscaler with a file such as RRDB_ESRGAN_x4.pth.", path=place)
            yield form.attachments["upscaler"]


def _is_folder_of_one(place: Path) -> bool:
    from danqing_pack.json_files import read_json

    config = place / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == "RRDBNet"


class Upscaler:
    """A callable on pictures; ``net`` is the network, ``tile`` and ``overlap`` are pixels of the input."""

    def __init__(self, net: RRDBNet, tile: int = TILE, overlap: int = OVERLAP) -> None:
        if tile < 1 or overlap < 0:
            raise RequestError(f"Tiles of {tile} pixels with {overlap} around them cannot be cut.", tile=tile)
        self.net = net.eval().requires_grad_(False)
        self.tile, self.overlap = tile, min(overlap, net.reach)

    def __call__(self, images: Picture | Sequence[Picture]) -> Any:
        """Four times the width and height of one picture, or of each of several.

        A picture is a PIL image of any mode (transparency is dropped), an array [H, W, 3] of bytes or of numbers in
        [0, 1], or a tensor [3, H, W] in [0, 1]; several are a list, an array [B, H, W, 3] or a tensor [B, 3, H, W].
        Returns a PIL image, or a list of them. Values become bytes by truncation, as EasyNLP's did.

        Raises:
            RequestError: something that is no picture.
        """
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
            return [self._picture(image) for image in images]
        if isinstance(images, (list, tuple)):
            return [self._picture(image) for image in images]
        return self._picture(images)

    def upscale(self, images: Tensor) -> Tensor:
        """RGB [B, 3, H, W] in [0, 1] -> RGB float32 [B, 3, 4H, 4W] in [0, 1], on the device of ``images``."""
        batch, channels, height, width = images.shape
        out = torch.empty((batch, channels, 4 * height, 4 * width), device=images.device)
        for target, image in zip(out, images, strict=True):
            for rows, columns, tile in self._tiles(image):
                target[:, rows, columns] = tile
        return out

    def _picture(self, image: Any) -> Image.Image:
        source = as_tensor(image)
        out = np.empty((4 * source.shape[1], 4 * source.shape[2], 3), np.uint8)
        for rows, columns, tile in self._tiles(source):
            out[rows, columns] = (tile * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(out)

    @torch.no_grad()
    def _tiles(self, image: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Where each finished tile belongs in the large picture, and its values in [0, 1], float32 [3, h, w]."""
        image = image.to(self.net.device, self.net.dtype)[None]
        size = (image.shape[-2], image.shape[-1])
        margin = self.overlap + TAIL_MARGIN
        for core in _cover(((0, size[0]), (0, size[1])), self.tile, slack=2 * margin):
            seen = _grown(core, margin, size)
            features = self.net.trunk(image[..., slice(*seen[0]), slice(*seen[1])])
            for part in _cover(core, TAIL_TILE):
                around = _grown(part, TAIL_MARGIN, size)
                large = self.net.tail(features[..., _within(around[0], seen[0]), _within(around[1], seen[1])])
                tile = large[0, :, _within(part[0], around[0], 4), _within(part[1], around[1], 4)]
                yield _within(part[0], (0, 0), 4), _within(part[1], (0, 0), 4), tile.float().clamp(0, 1)


def _cover(box: Box, tile: int, slack: int = 0) -> Iterator[Box]:
    """Tiles of a box, left to right and down; a side that is at most ``slack`` longer than a tile is not cut."""
    for top in _spans(box[0], tile, slack):
        for left in _spans(box[1], tile, slack):
            yield top, left


def _spans(span: Span, tile: int, slack: int) -> Iterator[Span]:
    start, stop = span
    if stop - start <= tile + slack:
        yield span
    else:
        yield from ((at, min(at + tile, stop)) for at in range(start, stop, tile))


def _grown(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """The box with its surroundings, as far as the picture goes."""
    (top, bottom), (left, right) = box
    return (max(0, top - margin), min(size[0], bottom + margin)), (max(0, left - margin), min(size[1], right + margin))


def _within(span: Span, outer: Span, scale: int = 1) -> slice:
    """Where a span lies in an array that starts where ``outer`` does and is ``scale`` times as fine."""
    return slice(scale * (span[0] - outer[0]), scale * (span[1] - outer[0]))


def as_tensor(image: Any) -> Tensor:
    """One picture as RGB float32 [3, H, W] in [0, 1].

    Raises:
        RequestError: it is no PIL image, no array [H, W, 3] and no tensor [3, H, W].
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return values.float() / 255 if image.dtype == np.uint8 else values.float()
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()
    shape = f" of shape {list(image.shape)}" if isinstance(image, (np.ndarray, Tensor)) else ""
    raise RequestError(
        f"A {type(image).__name__}{shape} cannot be enlarged: give a PIL image, an array [H, W, 3] or a tensor "
        "[3, H, W]."
    )
