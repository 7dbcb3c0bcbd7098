"""A client of a text-to-image service on PAI-EAS: one request, patient with the drawing and quick with refusals.

A picture takes seconds to minutes, so the answer is waited for as long as the service itself would work on it, and a
request that may have reached the model is never sent twice. Sent again, after a pause, is what was not begun: a
connection that could not be made, a full queue (450), a rate limit (429), no instance ready (502, 503, 504).
"""

from __future__ import annotations

import http.client
import io
import json
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from danqing_pack.base64_images import NotAnImage, decode_image
from danqing_pack.eas_keepalive import needed_keepalive
from danqing_pack.errors import RequestError

CONNECT_SECONDS = 10.0
AGAIN = frozenset({429, 450, 502, 503, 504})
"""Status codes of a request that was not begun."""
LONGEST_PAUSE = 30.0
LARGEST_REPLY = 512 << 20
MEANINGS = {
    400: "the request is not one that it takes", 401: "the token is missing or wrong; give it with --token-file",
    404: "there is no service at this address", 405: "the address takes no POST",
    408: "the service ended the request after its keepalive; ask for fewer steps or raise metadata.rpc.keepalive",
    413: "the request is too large", 429: "too many requests a second; try later",
    450: "its queue is full; try later or raise the number of instances",
    502: "the gateway found no answer; look at the service's log", 503: "no instance is ready; try later",
    504: "the gateway waited in vain; look at the service's log",
}


@dataclass(frozen=True)
class Answer:
    """Pictures, as the files that were sent, and the text that was drawn."""

    text: str
    images: tuple[bytes, ...]
    seconds: float
    reply: Mapping[str, Any]


@dataclass(frozen=True)
class Response:
    """What came back to one POST."""

    status: int
    body: bytes
    seconds: float
    retry_after: float | None = None


def call(url: str, request: Mapping[str, Any], token: str | bytes | None = None, *, seconds: float | None = None,
         retries: int = 5, pause: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """Send one request to a service and take its pictures apart.

    request: the fields of the contract, `text` above all. token: goes into `Authorization` as it is.
    seconds: how long to wait for the answer; by default what the steps and images asked for may take, and a minute.
    retries: how often to try again what was not begun; `pause` seconds at first, then longer, or as the service says.
    Raises RequestError: the address, a connection that cannot be made, a status but 200, a reply without pictures.
    """
    place = _place(url)
    body = json.dumps(dict(request), ensure_ascii=False).encode("utf-8", "replace")
    limit = seconds if seconds is not None else patience(request)
    for attempt in range(retries + 1):
        last = attempt == retries
        try:
            response = post(place, body, token, limit)
        except _NotConnected as error:
            if last:
                raise RequestError(f"{_shown(place)} cannot be reached ({error}): check the address, and that the service "
                                   "runs.", url=url) from error
            sleep(_pause(pause, attempt, None))
            continue
        if response.status not in AGAIN or last:
            return read_reply(response, request.get("num_images", 1), _shown(place))
        sleep(_pause(pause, attempt, response.retry_after))
    raise AssertionError("the last attempt returns or raises")


def patience(request: Mapping[str, Any]) -> float:
    """Seconds to wait for the answer to a request."""
    steps, images = (request.get(name) for name in ("num_inference_steps", "num_images"))
    return 60 + needed_keepalive(steps if isinstance(steps, int) else 50, images if isinstance(images, int) else 1) / 1000


class _NotConnected(Exception):
    """No request was sent, so it may be sent again."""


def post(place: SplitResult, body: bytes, token: str | bytes | None, seconds: float) -> Response:
    """POST once. Raises RequestError where it is unknown whether the service has begun, `_NotConnected` before that."""
    start = time.monotonic()
    connection = _connection(place)
    try:
        try:
            connection.connect()
        except (OSError, UnicodeError, ValueError) as error:
            raise _NotConnected(_reason(error)) from error
        if connection.sock is not None:
            connection.sock.settimeout(seconds)
        headers: dict[str, str | bytes] = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = token
        try:
            connection.request("POST", _path(place), body, headers)
            answer = connection.getresponse()
            data = answer.read(LARGEST_REPLY + 1)
        except TimeoutError as error:
            raise RequestError(f"{_shown(place)} did not answer within {seconds:g} seconds: ask for fewer steps, or wait "
                               "longer with --timeout.") from error
        except (OSError, http.client.HTTPException) as error:
            raise RequestError(f"{_shown(place)} broke the connection off ({_reason(error)}): look at the service's log. The "
                               "request was not sent again, since it may have been drawn.") from error
        if len(data) > LARGEST_REPLY:
            raise RequestError(f"{_shown(place)} answered with more than {LARGEST_REPLY >> 20} MiB: ask for fewer pictures.")
        after = answer.headers.get("Retry-After", "")
        return Response(answer.status, data, time.monotonic() - start, float(after) if after.isdecimal() else None)
    finally:
        connection.close()


def read_reply(response: Response, wanted: Any, place: str) -> Answer:
    """The pictures in a reply; `success` may be a truth or a number. Raises RequestError where there are none."""
    reply = _object(response.body)
    said = next((str(reply[name]) for name in ("error", "error_msg", "message") if reply.get(name)), "")
    if response.status != 200:
        meaning = MEANINGS.get(response.status, "look at the service's log")
        raise RequestError(f"{place} answered {response.status}: {said[:500].rstrip('.') or meaning}"
                           f"{f' ({meaning})' if said and response.status in (401, 408) else ''}.", status=response.status)
    if not reply:
        raise RequestError(f"{place} answered with no JSON object: this is no text-to-image service.", status=200)
    success, cells = reply.get("success", True), reply.get("images_base64")
    if success in (False, 0) or str(success).lower() == "false":
        raise RequestError(f"{place} drew nothing: {said[:500].rstrip('.') or 'it says no reason'}.", status=200)
    if not isinstance(cells, list) or not cells:
        raise RequestError(f"{place} answered without images_base64: this is no text-to-image service.", status=200)
    images = tuple(_picture(cell, index, place) for index, cell in enumerate(cells))
    if isinstance(wanted, int) and len(images) != wanted:
        raise RequestError(f"{place} answered with {len(images)} pictures, and {wanted} were asked for.", status=200)
    text = reply.get("text")
    return Answer(text if isinstance(text, str) else "", images, response.seconds, reply)


def _picture(cell: Any, index: int, place: str) -> bytes:
    """One file of a reply, opened once to see that it is whole."""
    from PIL import Image

    try:
        data = decode_image(cell.encode() if isinstance(cell, str) else b"")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
        return data
    except (NotAnImage, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"Picture {index + 1} of {place} cannot be opened ({error}).") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return reply if isinstance(reply, dict) else {}


def _place(url: str) -> SplitResult:
    try:
        place = urlsplit(url if "://" in url else f"http://{url}")
        good = place.scheme in ("http", "https") and bool(place.hostname) and place.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise RequestError(f"{url!r:.200} is no address of a service: write http://.../api/predict/NAME.")
    if place.username is not None or place.password is not None:
        raise RequestError("An address holds no password here: give the token with --token-file.")
    return place


def _shown(place: SplitResult) -> str:
    """The address without its query, which may hold a secret."""
    return f"{place.scheme}://{place.netloc}{place.path}"


def _path(place: SplitResult) -> str:
    from urllib.parse import quote

    path = quote(place.path or "/", safe="/%:@!$&'()*+,;=~")
    return f"{path}?{place.query}" if place.query else path


def _connection(place: SplitResult) -> http.client.HTTPConnection:
    host = place.hostname or ""
    if place.scheme == "https":
        return http.client.HTTPSConnection(host, place.port, timeout=CONNECT_SECONDS, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, place.port, timeout=CONNECT_SECONDS)


def _pause(first: float, attempt: int, told: float | None) -> float:
    """Twice as long each time, spread a little so that clients do not come back together."""
    grown = first * 2.0**attempt * random.uniform(0.8, 1.2)
    return min(LONGEST_PAUSE, max(grown, told or 0.0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
