"""The service over HTTP: an ASGI application of nothing but the standard library.

POST on any path asks for pictures; five pages answer to GET. ``/api/predict/NAME`` in front of a page's path is passed
over, as EAS's gateway leaves it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .authorization import is_signed_body, shows_token
from .contract import REASONS, Limits, Refusal, Reply, refused
from .metrics import CONTENT_TYPE, Metrics
from .openapi import document
from .page import HEADERS as PAGE_HEADERS
from .page import html
from .receiving import Gone, Incoming

if TYPE_CHECKING:
    from .service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

PAGES = ("/", "/health", "/ready", "/metrics", "/openapi.json")
ONLY_GET = PAGES[1:]
PREDICT = re.compile(r"/api/predict/(?P<name>[^/]+)(?P<rest>/.*)?\Z", re.DOTALL)
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What goes out."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[Header, ...] = ()
    pictures: int = 0

    @classmethod
    def text(cls, status: int, words: str) -> Answer:
        """A line of plain text."""
        return cls(status, f"{words}\n".encode(), TEXT)


class App:
    """The application. ``service`` is set once the model is loaded, ``ready`` once it is warm."""

    def __init__(
        self, *, name: str | None = None, token: bytes | None = None, limits: Limits | None = None,
        keepalive: float = 300.0, metrics: Metrics | None = None, log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.service: Service | None = None
        self.ready = False
        self.draining = asyncio.Event()
        self._name, self._token, self._limits, self._keepalive = name, token, limits or Limits(), keepalive
        self._metrics, self._log = metrics or Metrics(), log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            return
        start = time.monotonic()
        path, known = self._route(scope["path"])
        if scope["method"] == "POST" and path not in ONLY_GET:
            try:
                answer = await self._predict(scope, Incoming(receive, dict(scope["headers"])), known, start)
            except Gone:
                self._count(499, start)
                return
            except Exception as error:  # a fault of ours, told in the form of every other reply
                traceback.print_exception(error)
                fault = Refusal(500, f"The service failed: {type(error).__name__}; its log says more.")
                answer = _answer(refused(fault), close=True)
            self._count(answer.status, start, answer.pictures)
        else:
            answer = self._page(scope["method"], path, known)
        await _send(answer, send)

    def _count(self, status: int, start: float, pictures: int = 0) -> None:
        seconds = time.monotonic() - start
        self._metrics.reply(status, seconds, pictures)
        self._log(f"{status} {seconds:.3f} s, pictures: {pictures}")

    def _route(self, path: str) -> tuple[str, bool]:
        """The path without the gateway's part, and whether that part names this service."""
        if (found := PREDICT.match(path)) is None:
            return path, True
        return found["rest"] or path, self._name in (None, found["name"])

    def _page(self, method: str, path: str, known: bool) -> Answer:
        predicts = PREDICT.match(path) is not None
        if not known or path not in PAGES and not predicts and method in ("GET", "HEAD"):
            return Answer.text(404, f"There is nothing at {path[:200]}.".encode("utf-8", "replace").decode())
        if method not in ("GET", "HEAD") or predicts:
            allow = {"/": "GET, HEAD, POST"}.get(path, "GET, HEAD" if path in PAGES else "POST")
            return Answer(405, f"This takes {allow}.\n".encode(), TEXT, ((b"allow", allow.encode()),))
        if path == "/":
            return Answer(200, html(), "text/html; charset=utf-8", PAGE_HEADERS)
        if path == "/health":
            return Answer.text(200, "ok")
        return self._state_page(path)

    def _state_page(self, path: str) -> Answer:
        ready = self.ready and not self.draining.is_set()
        if path == "/metrics":
            waiting = self.service.waiting() if self.service is not None else 0
            return Answer(200, self._metrics.text(waiting, ready).encode(), CONTENT_TYPE)
        if path == "/openapi.json" and self.service is not None:
            described = document(self.service.model.takes, self._limits, self._name, self._token is not None)
            return Answer(200, json.dumps(described, ensure_ascii=False).encode())
        if path == "/ready" and ready:
            return Answer.text(200, "ready")
        return Answer.text(503, "shutting down" if self.draining.is_set() else "loading the model")

    async def _predict(self, scope: Scope, incoming: Incoming, known: bool, start: float) -> Answer:
        """The answer to a POST. Raises ``Gone`` when the client leaves first."""
        try:
            service = self._admit(scope, incoming.headers, known)
            with service.expecting():
                body = await incoming.body(self._limits, self._keepalive, self.draining)
            if not is_signed_body(body, incoming.headers):
                raise Refusal(401, "Content-MD5 is not that of the body, in hexadecimal; sign the body that is sent.")
        except Refusal as refusal:
            if refusal.status != 408 and not self.draining.is_set():
                await incoming.discard()
            return _answer(refused(refusal), close=not incoming.complete)
        return await self._answered(service, body, incoming, self._keepalive - (time.monotonic() - start))

    def _admit(self, scope: Scope, headers: Mapping[bytes, bytes], known: bool) -> Service:
        """What can be said before the body is read."""
        if not shows_token(self._token, scope["raw_path"], headers):
            raise Refusal(401, "Authorization holds neither this service's token nor a signature by it.")
        if not known:
            raise Refusal(404, f"There is no such service here; this one is called {self._name}.")
        if self.draining.is_set():
            raise Refusal(503, REASONS[503])
        if self.service is None or not self.ready:
            raise Refusal(503, "The model is still being loaded; ask /ready, and try again then.")
        if self.service.is_full():
            raise Refusal(450, REASONS[450])
        return self.service

    async def _answered(self, service: Service, body: bytes, incoming: Incoming, seconds: float) -> Answer:
        """Wait for the reply, for the client to leave, or for time to run out, whatever comes first."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()

        def arrive(done: Reply) -> None:
            if not reply.done():
                reply.set_result(done)

        def deliver(done: Reply) -> None:  # from another thread, maybe after the loop has ended
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(arrive, done)

        ticket = service.submit(body, deliver)
        gone = asyncio.ensure_future(incoming.leaves())
        either: set[asyncio.Future[Any]] = {reply, gone}
        try:
            await asyncio.wait(either, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
            if reply.done():
                return _answer(reply.result())
            ticket.cancel()
            if gone.done():
                raise Gone
            return _answer(refused(Refusal(408, REASONS[408])), close=True)
        finally:
            gone.cancel()
            reply.cancel()
            ticket.cancel()


def _answer(reply: Reply, close: bool = False) -> Answer:
    headers: list[Header] = [(b"connection", b"close")] if close else []
    if reply.status == 401:
        headers.append((b"www-authenticate", b"EAS"))
    if reply.status in (450, 503):
        headers.append((b"retry-after", b"1"))
    return Answer(reply.status, reply.body, JSON, tuple(headers), reply.images)


async def _send(answer: Answer, send: Send) -> None:
    headers = [(b"content-type", answer.content_type.encode()), (b"content-length", str(len(answer.body)).encode()),
               (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


