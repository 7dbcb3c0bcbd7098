"""A bundle of the small painter and a package of the processor, made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bundle(painter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small painter as a bundle; read only."""
    from danqing_pack import pack

    path = tmp_path_factory.mktemp("bundle") / "model.tar.gz"
    pack(painter_checkpoint, path)
    return path


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The processor's package of this Danqing; read only."""
    from danqing_pack.eas_processor import write_processor

    path = tmp_path_factory.mktemp("package") / "processor.tar.gz"
    write_processor(path)
    return path


class Gateway:
    """A service that answers what it was told, one answer after the other, and keeps what it was asked.

    An answer is (status, body, headers), or "break": the connection ends without one.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gateway.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                answer = gateway.answers.pop(0)
                if callable(answer):
                    answer = answer()
                if answer == "break":
                    self.close_connection = True
                    return
                status, data, headers = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api/predict/painter"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A service of answers told beforehand."""
    made = Gateway()
    yield made
    made.close()


@pytest.fixture
def pauses() -> tuple[list[float], Callable[[float], None]]:
    """A list of the pauses that were asked for, and a sleep that does not."""
    asked: list[float] = []
    return asked, asked.append
