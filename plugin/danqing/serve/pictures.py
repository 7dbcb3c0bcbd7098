"""Pictures out of a request and into a reply."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any, cast

from danqing_pack.errors import DanqingError
from PIL import Image

from danqing.adapters.variants import fit_image, open_image, open_mask
from danqing.images import save_png

from .contract import Limits, Refusal

FORMATS = ("PNG", "JPEG", "WEBP")
ROOM_TO_SHRINK = 16
"""How many times the pixels of a drawn picture a given one may have; it is made smaller before it is drawn on."""


def picture(name: str, encoded: str, limits: Limits) -> Image.Image:
    """A field's picture: RGB, or grey levels for ``mask``. Nothing is unpacked before its size is known.

    Raises ``Refusal`` (400) for what is no picture, or too large a one.
    """
    try:
        data = base64.b64decode(encoded.translate(_TO_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{name} is no base64; send a PNG, JPEG or WebP file in base64.") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as peeked:
            pixels = peeked.width * peeked.height
        if pixels > ROOM_TO_SHRINK * limits.pixels:
            raise Refusal(400, f"{name} has {pixels} pixels; send one of at most {ROOM_TO_SHRINK * limits.pixels}.")
        file = cast(Any, io.BytesIO(data))
        return open_mask(file) if name == "mask" else open_image(file)
    except (DanqingError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refusal(400, f"{name} cannot be read; send a whole PNG, JPEG or WebP file in base64.") from None


_TO_STANDARD = str.maketrans("-_", "+/", "\r\n")


def fitted(image: Image.Image, width: int | None, height: int | None, limits: Limits) -> Image.Image:
    """``image`` as it is drawn on. Raises ``Refusal`` (400) where that would be too small or too large."""
    across, down = width or image.width, height or image.height
    if across * down > limits.pixels:
        raise Refusal(400, f"image is drawn on at {across} x {down} pixels, over the {limits.pixels} of this service; "
                           "give width and height.")
    if min(across, down) < 64:
        raise Refusal(400, f"image is drawn on at {across} x {down} pixels; 64 x 64 is the least.")
    return fit_image(image, width, height)


def encoded(image: Image.Image, prompt: str, seed: int) -> str:
    """A PNG that records its prompt and seed, in padded base64 of the URL-safe alphabet."""
    file = io.BytesIO()
    save_png(image, file, {"prompt": prompt, "seed": seed})
    return base64.urlsafe_b64encode(file.getvalue()).decode("ascii")
