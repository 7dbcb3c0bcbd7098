"""What a processor of PAI-EAS runs on, for one's own machine: the same class, the same bounds, over HTTP.

A clean stand-in for the vendor's `allspark`, which is not on the package index: `BaseProcessor` with its constructor and
its three methods, and `default_properties()`. Any path is answered, the raw body goes to `process`, and what it returns,
(bytes, status) with 0 for 200, goes back. As on EAS a request ends with 408 after `rpc.keepalive` milliseconds, gets 450
when `rpc.max_queue_size` others wait, and 400 when `process` raises.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADDRESS = "127.0.0.1:8080"
LARGEST_BODY = 64 << 20
STARTED = "Service start successfully"
"""What the vendor's runtime logs once it answers."""
DEFAULTS: dict[str, Any] = {"rpc.keepalive": 5000, "rpc.max_queue_size": 64}


class Properties:
    """Settings of the runtime by name; names may come as text or bytes."""

    def __init__(self) -> None:
        self._values = dict(DEFAULTS)

    def put(self, name: str | bytes, value: Any) -> None:
        """Set one."""
        self._values[name.decode() if isinstance(name, bytes) else name] = value

    def number(self, name: str) -> int:
        """One that is a whole number."""
        return int(self._values[name])


_PROPERTIES = Properties()


def default_properties() -> Properties:
    """The settings of this process."""
    return _PROPERTIES


class BaseProcessor:
    """A processor: `initialize` runs once, then `process` answers each request, in one of `worker_threads` threads."""

    def __init__(self, worker_threads: int = 5, worker_processes: int = 1, endpoint: str | None = None) -> None:
        self._threads = worker_threads
        host, _, port = (endpoint or ADDRESS).rstrip("/").rpartition(":")
        self._address = (host or "127.0.0.1", int(port))

    def initialize(self) -> None:
        """Load the model."""

    def process(self, data: bytes) -> tuple[bytes, int]:
        """Answer one request."""
        raise NotImplementedError

    def run(self) -> None:
        """Initialize, answer until SIGTERM or SIGINT, finish what was begun."""
        self.initialize()
        with _Server(self._address, self, self._threads) as server:
            for number in (signal.SIGTERM, signal.SIGINT):
                with suppress(ValueError):              # not in the main thread
                    signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            host, port = server.server_address[:2]
            print(f"{STARTED} on {host!s}:{port}", flush=True)
            server.serve_forever(poll_interval=0.1)


class _Server(ThreadingHTTPServer):
    """One thread for each connection, which waits for one of the workers."""

    daemon_threads = False              # a reply that was begun is finished
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], processor: BaseProcessor, threads: int) -> None:
        super().__init__(address, _Handler)
        self._processor, self._at_once = processor, threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="processor")
        self._lock, self._inside = threading.Lock(), 0

    def server_close(self) -> None:
        super().server_close()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def answer(self, body: bytes) -> tuple[bytes, int]:
        """The reply of the processor, or what EAS says in its place."""
        with self._lock:
            if self._inside >= self._at_once + _PROPERTIES.number("rpc.max_queue_size"):
                return b"the queue is full\n", 450
            self._inside += 1
        future: Future[tuple[Any, int]] = self._workers.submit(self._processor.process, body)
        future.add_done_callback(self._left)
        try:
            reply, status = future.result(_PROPERTIES.number("rpc.keepalive") / 1000)
        except Late:
            future.cancel()
            return b"the request took longer than rpc.keepalive\n", 408
        except Exception as error:          # a processor may raise anything, and EAS answers 400
            traceback.print_exception(error)
            return f"{type(error).__name__}\n".encode(), 400
        return (reply.encode() if isinstance(reply, str) else bytes(reply)), status or 200

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no event."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def _left(self, future: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1


class _Handler(BaseHTTPRequestHandler):
    """Bytes in, bytes out, whatever the path."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._reply(b"Content-Length is missing\n", 411, close=True)
        elif int(length) > LARGEST_BODY:
            self._reply(b"the body is too large\n", 413, close=True)
        else:
            reply, status = self.server.answer(self.rfile.read(int(length)))
            self._reply(reply, status, close=status == 408)

    def do_GET(self) -> None:
        self._reply(b"this takes POST\n", 405)

    do_PUT = do_DELETE = do_GET

    def _reply(self, body: bytes, status: int, close: bool = False) -> None:
        self.close_connection = True        # a waiting connection would hold up the end of the service
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """One line for each request, without what a client sent but its path."""
        print(f"{self.log_date_time_string()} {format % args!r:.200}", file=sys.stderr, flush=True)
