"""Images on their way out: pixels, Pillow, PNG with words in it, base64, contact sheets."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from danqing_pack.errors import RequestError
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
GAP = 8
"""Pixels between the pictures of a sheet."""


def to_uint8(images: Tensor) -> Pixels:
    """Floats [B, 3, H, W], -1 black and 1 white, -> uint8 [B, H, W, 3].

    Truncates, as EasyNLP did; rounding would move about half of all pixels by one.
    """
    values = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return ((values + 1.0) * 127.5).clip(0, 255).astype(np.uint8)


def to_pil(pixels: Pixels) -> list[Image.Image]:
    """uint8 [B, H, W, 3] -> one RGB image each."""
    return [Image.fromarray(each) for each in pixels]


def save_png(image: Image.Image, file: str | Path | BinaryIO, words: Mapping[str, Any] | None = None) -> None:
    """Write a PNG with ``words`` as its text, in UTF-8. What is no string is written as JSON."""
    text = PngInfo()
    for name, value in (words or {}).items():
        content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # A prompt may hold what UTF-8 cannot: half a surrogate pair from a broken terminal.
        text.add_itxt(name, content.encode("utf-8", "replace").decode())
    image.save(file, format="PNG", pnginfo=text)


def to_base64(image: Image.Image) -> str:
    """A PNG in standard base64, as in EasyNLP's tables."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All images on one white sheet, row by row; by default about as many columns as rows.

    Raises:
        RequestError: there is no image, or no column.
    """
    if not images:
        raise RequestError("A contact sheet needs at least one image.")
    if columns is not None and columns < 1:
        raise RequestError(f"A contact sheet needs at least one column, not {columns}.")
    across = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    down = math.ceil(len(images) / across)
    width, height = max(each.width for each in images) + GAP, max(each.height for each in images) + GAP
    sheet = Image.new("RGB", (across * width + GAP, down * height + GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, across)
        sheet.paste(image, (GAP + column * width, GAP + row * height))
    return sheet


def file_name(prompt: str, limit: int = 60) -> str:
    """A prompt for a file name: letters and digits of any script, at most ``limit`` bytes of UTF-8, never empty."""
    words = re.sub(r"[^\w]+", "-", prompt.encode("utf-8", "ignore").decode()).strip("-_")
    cut = words.encode("utf-8")[:limit].decode("utf-8", "ignore").rstrip("-_")
    return cut or "image"
