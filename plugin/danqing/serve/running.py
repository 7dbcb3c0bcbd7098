"""The process of the service: a socket first, then the model, then requests, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from danqing_pack.errors import RequestError

from .app import App

if TYPE_CHECKING:
    from .service import Service

BACKLOG = 1024
CONNECTIONS = 1024
"""Connections beyond the queue; whoever comes then gets 503."""
IDLE_SECONDS = 75
"""How long a connection may stay open between requests."""


Say = Callable[[str], None]


@dataclass
class Ending:
    """How it ended: the error that ended it, if one did."""

    error: Exception | None = None


class _Server(uvicorn.Server):
    """Signals are ours: a service that was asked to stop and has stopped has done well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises ``RequestError`` where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise RequestError(f"{host}:{port} cannot be listened on: {error}; choose another --host or --port.") from error


def run(app: App, sock: socket.socket, load: Callable[[], Service], say: Say, queue: int = 64) -> None:
    """Serve until SIGTERM or SIGINT. ``load`` runs beside it; what it raises ends the service and is raised here.

    After the signal no connection is taken, what was begun is finished, the rest gets 503. A second one ends it now.
    """
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
        limit_concurrency=CONNECTIONS + queue, timeout_keep_alive=IDLE_SECONDS, backlog=BACKLOG)
    server, ending = _Server(config), Ending()
    asyncio.run(_serve(server, app, sock, load, say, ending))
    if ending.error is not None:
        raise ending.error


async def _serve(
    server: _Server, app: App, sock: socket.socket, load: Callable[[], Service], say: Say, ending: Ending
) -> None:
    loop = asyncio.get_running_loop()

    def stop(reason: str) -> None:
        if server.should_exit:
            server.force_exit = True
            return
        say(f"{reason}: finishing what was begun.")
        app.draining.set()
        server.should_exit = True
        if app.service is not None:
            threading.Thread(target=app.service.close, name="danqing-close", daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, NotImplementedError):  # not in the main thread
            loop.add_signal_handler(number, stop, signal.Signals(number).name)
    fail = partial(loop.call_soon_threadsafe, stop, "The model could not be loaded")
    threading.Thread(target=_load, args=(app, load, say, ending, fail), name="danqing-load", daemon=True).start()
    await server.serve(sockets=[sock])
    if server.force_exit:
        say("Stopped at once.")


def _load(app: App, load: Callable[[], Service], say: Say, ending: Ending, stop: Callable[[], object]) -> None:
    start = time.monotonic()
    try:
        service = app.service = load()
        service.warm_up()
        if app.draining.is_set():
            service.close()
            return
        app.ready = True
        say(f"Ready after {time.monotonic() - start:.1f} s.")
    except Exception as error:  # told by whoever runs the service, in the main thread
        ending.error = error
        stop()


def say(line: str) -> None:
    """A line for the log, with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", file=sys.stderr, flush=True)
