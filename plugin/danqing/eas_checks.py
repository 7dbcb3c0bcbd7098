"""What a trial asks a service, and what must be true of its replies."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from danqing_pack.errors import DanqingError, FormatError, listing

from danqing.eas_client import Response, post, read_reply


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether it holds, and a line about it; seconds where it was a request."""

    name: str
    holds: bool
    line: str
    seconds: float | None = None


def asked(title: str, url: str, request: Mapping[str, Any], images: int, limit: float) -> Check:
    """One request and what is wrong with its reply."""
    try:
        response = post(urlsplit(url), json.dumps(request, ensure_ascii=False).encode(), None, limit)
        answer = read_reply(response, images, "the service")
        _check_form(answer.reply)
    except (DanqingError, OSError) as error:
        return Check(title, False, str(error))
    sizes = [_size(image) for image in answer.images]
    flat = [size for size in sizes if size.endswith("one colour")]
    line = f"{len(sizes)} picture{'s' if len(sizes) > 1 else ''}, {', '.join(dict.fromkeys(sizes))}, {answer.seconds:.2f} s"
    return Check(title, not flat, line, answer.seconds)


def _check_form(reply: Mapping[str, Any]) -> None:
    """What the documented script relies on."""
    wrong = [name for name, kind in (("text", str), ("success", (bool, int)), ("images_base64", list))
             if not isinstance(reply.get(name), kind)]
    if wrong:
        raise FormatError(f"The reply lacks {listing(wrong)}, or has another type there.")
    if any(set("+/") & set(cell) or len(cell) % 4 for cell in reply["images_base64"]):
        raise FormatError("images_base64 is not in the URL-safe alphabet with padding, which the documented script reads.")


def refused(url: str, limit: float) -> Check:
    """A body that is no JSON must get 400, and the service must go on."""
    title = "broken request"
    try:
        response: Response = post(urlsplit(url), b'{"text": ', None, limit)
    except (DanqingError, OSError) as error:
        return Check(title, False, str(error))
    return Check(title, response.status == 400, f"answered {response.status}", response.seconds)


def _size(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        kind = image.format
        extrema = image.convert("RGB").getextrema()
    plain = all(low == high for low, high in extrema)  # type: ignore[misc]
    return f"{image.width} x {image.height} {kind}{', all of one colour' if plain else ''}"
