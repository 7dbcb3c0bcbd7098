"""The body of a request, as it comes in: bounded in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .contract import REASONS, Limits, Refusal, too_large

BODY_SECONDS = 30.0
"""How long a body may take, where the service's keepalive does not end it sooner."""
DISCARDED, DISCARD_SECONDS = 256 * 2**20, 5.0
"""How much of a refused body is taken and thrown away, so that its sender reads the answer and no broken pipe."""


class Gone(Exception):
    """The client has closed the connection."""


class Incoming:
    """What a client sends: one body, and then nothing until it leaves. ``headers`` have lower-case names."""

    def __init__(self, receive: Callable[[], Awaitable[Any]], headers: Mapping[bytes, bytes]) -> None:
        self._receive, self.headers = receive, headers
        self.complete = False
        """Whether the whole body has been taken."""

    async def body(self, limits: Limits, keepalive: float, stop: asyncio.Event) -> bytes:
        """The body. Raises ``Refusal`` (400, 408, 413, or 503 once ``stop`` is set) or ``Gone``."""
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(400, "A body with a Content-Encoding is not taken; send plain JSON.")
        if int(self.headers.get(b"content-length", b"0")) > limits.body:
            raise too_large(limits)
        seconds = min(BODY_SECONDS, keepalive)
        reading = asyncio.ensure_future(self._read(limits))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({reading, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            if stopping.done():
                raise Refusal(503, REASONS[503])
            raise Refusal(408, f"The body was not there within {seconds:g} seconds.")
        finally:
            reading.cancel()
            stopping.cancel()

    async def discard(self) -> None:
        """Take what is left of the body, within bounds, and forget it; nothing where the client waits to be asked."""
        if b"100-continue" in self.headers.get(b"expect", b"").lower():
            return
        try:
            await asyncio.wait_for(self._forget(), DISCARD_SECONDS)
        except asyncio.TimeoutError:
            return

    async def leaves(self) -> None:
        """Returns once the client is gone; for after the body."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self.complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def _read(self, limits: Limits) -> bytes:
        body = bytearray()
        while not self.complete:
            body += await self._part()
            if len(body) > limits.body:
                raise too_large(limits)
        return bytes(body)

    async def _forget(self) -> None:
        left = DISCARDED
        while left > 0 and not self.complete:
            left -= len(await self._part())
