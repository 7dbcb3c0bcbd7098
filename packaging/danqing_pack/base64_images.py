"""The image cell of a table: base64 text to the bytes of an image file, and which kind of file that is.

Accepted are the standard and the URL-safe alphabet (mixed, too: the original decoder took both), a data URI around
them, and white space anywhere. Refused, where the original decoder dropped characters silently: any other character,
missing or misplaced padding, and bytes that are no image. A table of predictions holds lists of images, as Python
prints them; those are read as such.
"""
from __future__ import annotations

import binascii
import re

import pybase64

_WHITE = b" \t\r\n\v\f"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_STRANGER = re.compile(rb"[^A-Za-z0-9+/=]")
_QUOTED = re.compile(rb"'([^']*)'")
_DATA_URI = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)


class NotAnImage(ValueError):
    """Why a cell gives no image, as the second half of a sentence."""


def decode_image(cell: bytes) -> bytes:
    """The file that a cell holds. Raises NotAnImage."""
    try:
        # nearly every cell is plain base64, which one validating pass decodes at memory speed
        image: bytes = pybase64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        image = _decode_unusual(cell)
    extension(image)
    return image


def decode_images(cell: bytes) -> list[bytes]:
    """The files that a cell holds: one, or those of a list `['...', '...']` (also `b'...'`). Raises NotAnImage."""
    if not cell.lstrip(_WHITE).startswith((b"[", b"b'", b"'")):
        return [decode_image(cell)]
    found = _QUOTED.findall(cell)
    if not found:
        raise NotAnImage("the list holds no image")
    return [decode_image(item) for item in found]


def encode_image(image: bytes | memoryview) -> bytes:
    """Standard base64 with padding, on one line."""
    encoded: bytes = pybase64.b64encode(image)
    return encoded


def _decode_unusual(cell: bytes) -> bytes:
    head = _DATA_URI.match(cell.lstrip(_WHITE))
    text = cell.lstrip(_WHITE)[head.end():] if head else cell
    text = text.translate(_STANDARD, _WHITE)
    stranger = _STRANGER.search(text)
    if stranger:
        raise NotAnImage(f"the image is not base64: {_shown(stranger.group())} stands at character "
                         f"{stranger.start() + 1}")
    if len(text) % 4:
        raise NotAnImage(f"the image's base64 has {len(text)} characters, not a multiple of 4: it is cut short or "
                         "lacks its padding '='")
    try:
        image: bytes = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotAnImage("the image's base64 has '=' before its end") from None
    return image


def extension(image: bytes) -> str:
    """The file extension that goes with the first bytes: png, jpg, gif, bmp, webp or tiff. Raises NotAnImage."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "webp"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    # two letters are a weak sign, so the reserved words and the header's size must fit, too
    if image.startswith(b"BM") and image[6:10] == b"\0\0\0\0" and image[14:18] in _BMP_HEADERS:
        return "bmp"
    if image.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if not image:
        raise NotAnImage("the image is empty")
    raise NotAnImage(f"the image's bytes begin with {_shown(image[:8])}: that is no PNG, JPEG, WebP, GIF, BMP or "
                     "TIFF file")


_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))


def _shown(data: bytes) -> str:
    """Bytes for a sentence: as text where they are printable ASCII, else in hexadecimal."""
    return repr(data.decode("ascii")) if data.isascii() and data.decode("ascii").isprintable() else data.hex(" ")
