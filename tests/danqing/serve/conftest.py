"""A server that runs, in this process over a model of straw, or in another over the small painter."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import uvicorn
from danqing.serve.app import App
from danqing.serve.contract import Limits, Takes
from danqing.serve.running import listen
from danqing.serve.served_model import Abandoned, ServedModel, Style
from danqing.serve.service import Service
from PIL import Image

TOKEN = "Zm9vYmFy-ok"
PATIENCE = 60.0
"""Seconds after which a test gives up; none is expected to take so long."""


@dataclass
class StrawModel:
    """Draws 8 x 8 squares whose colour tells the seed. A text with 坏 fails, one with 慢 takes as long as ``gate`` is shut."""

    gate: threading.Event = field(default_factory=threading.Event)
    drawing: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    abandoned: int = 0
    seconds: float = 0.0
    takes: Takes = Takes(frozenset({"seed", "top_k", "temperature"}), 8, 8, steps=False, codes=100)

    def style(self, request: Any, limits: Limits) -> Style:
        return Style(dict(request.given))

    def warm_up(self) -> None:
        return

    def draw(
        self, style: Style, texts: Sequence[str], seeds: Sequence[int], wanted: Callable[[], bool]
    ) -> list[Image.Image]:
        self.batches.append(list(texts))
        self.drawing.set()
        if any("坏" in text for text in texts):
            raise ValueError("a bad one")
        if any("慢" in text for text in texts):
            while not self.gate.wait(0.005):
                if not wanted():
                    self.abandoned += 1
                    raise Abandoned
        time.sleep(self.seconds)
        return [Image.new("RGB", (8, 8), (seed % 256, 0, 0)) for seed in seeds]


@pytest.fixture
def straw() -> Iterator[StrawModel]:
    """A model of straw, with its gate opened in the end."""
    model = StrawModel()
    yield model
    model.gate.set()


@pytest.fixture
def make_service(straw: StrawModel) -> Iterator[Callable[..., Service]]:
    """Services over the model of straw, or over another; closed in the end."""
    made: list[Service] = []

    def make(model: Any = straw, **options: Any) -> Service:
        made.append(Service(model, **options))
        return made[-1]

    yield make
    straw.gate.set()
    for service in made:
        assert service.close(PATIENCE)


@pytest.fixture
def make_server(make_service: Callable[..., Service]) -> Iterator[Callable[..., str]]:
    """Servers in this process: ``make_server(service, **options of App)`` -> address."""
    with contextlib.ExitStack() as stack:

        def make(service: Service | None, **options: Any) -> str:
            app = App(**options)
            if service is not None:
                app.service, app.ready = service, True
            sock = listen("127.0.0.1", 0)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(PATIENCE)

            stack.callback(stop)
            address = f"http://127.0.0.1:{sock.getsockname()[1]}"
            wait_until(lambda: server.started)
            return address

        yield make


def wait_until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Until something holds; fails when it takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """``wait_until(condition)``."""
    return wait_until


@dataclass
class Process:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str = ""

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.address}/ready", timeout=PATIENCE).status_code == 200
        return False

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


def start(model: Path, log: Path, *options: str, token: str = "") -> Process:
    """``danqing serve`` on a free port; returns once it listens."""
    words = [sys.executable, "-m", "danqing", "serve", str(model), "--port", "0", "--device", "cpu", *options]
    environment = {**os.environ, "DANQING_TOKEN": token, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as file:
        process = Process(subprocess.Popen(words, stderr=file, stdout=file, env=environment), log)
    wait_until(lambda: "Listening on " in log.read_text(encoding="utf-8") or process.process.poll() is not None)
    said = log.read_text(encoding="utf-8")
    assert "Listening on " in said, said
    process.address = said.partition("Listening on ")[2].split()[0].rstrip(".;")
    return process


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """``start_server(model, *options, token="")``; what still runs in the end is stopped."""
    processes: list[Process] = []

    def starts(model: Path, *options: str, token: str = "", ready: bool = True) -> Process:
        processes.append(start(model, tmp_path_factory.mktemp("serve") / "log", *options, token=token))
        if ready:
            wait_until(processes[-1].ready)
        return processes[-1]

    yield starts
    for each in processes:
        each.process.kill()
        each.process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Process], painter_checkpoint: Path) -> Process:
    """The small painter, guarded by a token; shared, so leave it running."""
    return start_server(painter_checkpoint, "--name", "painter", token=TOKEN)


@pytest.fixture(scope="session")
def token() -> str:
    """What ``server`` wants to see."""
    return TOKEN


@pytest.fixture(scope="module")
def painter(painter_checkpoint: Path) -> ServedModel:
    """The small painter, loaded."""
    from danqing import load

    return ServedModel(load(painter_checkpoint, device="cpu", dtype=torch.float32))


@pytest.fixture(scope="module")
def diffusion(golden: Path) -> ServedModel:
    """The small diffusion model, loaded."""
    from danqing import load

    return ServedModel(load(golden / "diffusers-2023" / "pipeline", device="cpu", dtype=torch.float32))
