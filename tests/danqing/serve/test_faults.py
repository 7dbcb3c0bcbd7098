"""Clients and circumstances that go wrong. None may harm another, nor stay in the way."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from danqing.serve.contract import Limits
from danqing.serve.service import Service

SECONDS = 120


def ask(address: str, text: str = "山水", **more: Any) -> requests.Response:
    return requests.post(address, json={"text": text, **more}, timeout=SECONDS)


def send(address: str, *parts: bytes) -> socket.socket:
    """A connection over which these bytes have gone."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=SECONDS)
    for part in parts:
        connection.sendall(part)
    return connection


def head(length: int, *more: str) -> bytes:
    return "\r\n".join(("POST / HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", "")).encode()


def status(connection: socket.socket) -> int:
    with contextlib.closing(connection):
        return int(connection.recv(100).split()[1])


def count(service: Service, status: int) -> int:
    """Replies of a status so far."""
    prefix = f'danqing_requests_total{{status="{status}"}} '
    lines = service.metrics.text(0, True).splitlines()
    return sum(int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service(batch=1)


@pytest.fixture
def address(make_server: Callable[..., str], service: Service) -> str:
    return make_server(service, metrics=service.metrics, limits=service.limits)


def test_a_client_is_killed(address: str, service: Service, straw: Any, wait_until: Any) -> None:
    script = ("import sys, urllib.request as r; "
              "r.urlopen(sys.argv[1], data='{\"text\": \"慢\"}'.encode())")
    client = subprocess.Popen([sys.executable, "-c", script, address])
    assert straw.drawing.wait(SECONDS)
    client.send_signal(signal.SIGKILL)
    client.wait(SECONDS)
    wait_until(lambda: straw.abandoned == 1 and count(service, 499) == 1)
    assert ask(address).status_code == 200


def test_a_client_leaves_the_queue(address: str, service: Service, straw: Any, wait_until: Any) -> None:
    first = threading.Thread(target=ask, args=(address, "慢"))
    first.start()
    assert straw.drawing.wait(SECONDS)
    body = b'{"text": "x", "skip_translation": true}'
    waiting = send(address, head(len(body)), body)
    wait_until(lambda: service.waiting() == 1)
    waiting.close()
    wait_until(lambda: service.waiting() == 0 and count(service, 499) == 1)
    straw.gate.set()
    first.join(SECONDS)
    assert straw.batches == [["慢"]]


def test_half_a_body(address: str, service: Service, wait_until: Any) -> None:
    send(address, head(100), b'{"text": ').close()
    wait_until(lambda: count(service, 499) == 1)
    assert ask(address).status_code == 200


def test_a_slow_body(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danqing.serve.receiving.BODY_SECONDS", 0.2)
    slow = send(address, head(100), b"{")
    assert ask(address).status_code == 200, "the others go on"
    assert status(slow) == 408


def test_a_body_that_is_no_request(address: str) -> None:
    for body in (b"", b"\xff\xfe\x00", b"[" * 200_000, b'{"a":' * 100_000, b"text=1", "{\"text\": \"宽松\"}".encode("gbk")):
        reply = requests.post(address, data=body, timeout=SECONDS)
        assert reply.status_code == 400 and reply.json()["error"], body[:20]


def test_the_content_type_does_not_matter_and_the_content_does(address: str) -> None:
    body = json.dumps({"text": "山水"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/png", ""):
        assert requests.post(address, data=body, headers={"Content-Type": kind}, timeout=SECONDS).status_code == 200
    assert requests.post(address, files={"text": b"x"}, timeout=SECONDS).status_code == 400
    packed = requests.post(address, data=body, headers={"Content-Encoding": "gzip"}, timeout=SECONDS)
    assert packed.status_code == 400 and "Content-Encoding" in packed.json()["error"]


def test_fifty_megabytes(address: str) -> None:
    large = bytes(50_000_000)
    assert requests.post(address, data=large, timeout=SECONDS).status_code == 413
    pieces = (large[:1_000_000] for _ in range(50))
    assert requests.post(address, data=pieces, timeout=SECONDS).status_code == 413
    waits = send(address, head(50_000_000, "Expect: 100-continue"))
    assert status(waits) == 413, "told before it sends anything"
    assert ask(address).status_code == 200


def test_fifty_megabytes_without_the_token(make_server: Callable[..., str], service: Service) -> None:
    address = make_server(service, token=b"secret")
    assert requests.post(address, data=bytes(50_000_000), timeout=SECONDS).status_code == 401


def test_a_body_without_an_end(
    make_server: Callable[..., str], make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.serve.receiving.DISCARD_SECONDS", 0.1)
    address = make_server(make_service(), limits=Limits(body=1000))
    words = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status(send(address, words, b"3e8\r\n" + bytes(1000) + b"\r\n", b"1\r\n{\r\n")) == 413


def test_no_http_at_all(address: str) -> None:
    assert status(send(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")) == 400
    assert ask(address).status_code == 200


def test_past_keepalive(make_server: Callable[..., str], make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    service = make_service()
    reply = ask(make_server(service, keepalive=0.3), "慢")
    assert reply.status_code == 408 and reply.headers["connection"] == "close"
    assert reply.json()["success"] is False and "keepalive" in reply.json()["error"]
    wait_until(lambda: straw.abandoned == 1)


def test_a_full_queue(make_server: Callable[..., str], make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    service = make_service(queue=2, batch=1)
    address = make_server(service)
    statuses: list[int] = []
    clients = [threading.Thread(target=lambda: statuses.append(ask(address, "慢").status_code)) for _ in range(3)]
    clients[0].start()
    assert straw.drawing.wait(SECONDS)
    for client in clients[1:]:
        client.start()
    wait_until(service.is_full)
    full = ask(address)
    assert full.status_code == 450 and "queue is full" in full.json()["error"]
    straw.gate.set()
    for client in clients:
        client.join(SECONDS)
    assert statuses == [200, 200, 200] and ask(address).status_code == 200


def test_a_failure_harms_no_neighbour(make_server: Callable[..., str], make_service: Callable[..., Service], straw: Any) -> None:
    address = make_server(make_service(batch=8))
    found: dict[str, int] = {}

    def client(text: str) -> None:
        found[text] = ask(address, text).status_code

    clients = [threading.Thread(target=client, args=(text,)) for text in ("慢一", "山", "坏", "水", "花")]
    for each in clients:
        each.start()
    assert straw.drawing.wait(SECONDS)
    straw.gate.set()
    for each in clients:
        each.join(SECONDS)
    assert found == {"慢一": 200, "山": 200, "坏": 500, "水": 200, "花": 200}


@pytest.mark.slow
def test_memory_does_not_grow_with_requests(
    make_server: Callable[..., str], make_service: Callable[..., Service]
) -> None:
    service = make_service(limits=Limits(body=2**20), queue=64)
    address = make_server(service)

    def many(requests_each: int) -> None:
        def client(first: int) -> None:
            with requests.Session() as session:
                for seed in range(first, first + requests_each):
                    text = ("山", "坏坏", "a cat", " ")[seed % 4] if seed % 8 else "x" * 500_000
                    session.post(address, json={"text": text, "seed": seed}, timeout=SECONDS)

        clients = [threading.Thread(target=client, args=(1000 * number,)) for number in range(4)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(SECONDS)

    process = psutil.Process()
    many(60)
    before = process.memory_info().rss
    many(200)
    assert process.memory_info().rss - before < 40 * 2**20, "400 requests of half a megabyte were among them"
    assert service.waiting() == 0


@pytest.mark.slow
def test_a_folder_that_vanishes_and_sigterm_under_load(
    start_server: Callable[..., Any], painter_checkpoint: Path, tmp_path: Path, wait_until: Any
) -> None:
    folder = Path(shutil.copytree(painter_checkpoint, tmp_path / "model"))
    process = start_server(folder, "--batch", "2")
    shutil.rmtree(folder)
    assert ask(process.address).status_code == 200, "what is loaded stays"
    found: Counter[int] = Counter()

    def client() -> None:
        for _ in range(50):
            try:
                reply = ask(process.address)
            except requests.RequestException as error:
                assert not isinstance(error, requests.Timeout)
                return
            found[reply.status_code] += 1
            assert reply.json()["success"] is (reply.status_code == 200)

    clients = [threading.Thread(target=client) for _ in range(8)]
    for each in clients:
        each.start()
    wait_until(lambda: found[200] >= 2)
    assert process.stop() == 0, process.log.read_text(encoding="utf-8")
    for each in clients:
        each.join(SECONDS)
        assert not each.is_alive()
    assert set(found) <= {200, 503} and found[503], found
    log = process.log.read_text(encoding="utf-8")
    assert "SIGTERM: finishing" in log and "Traceback" not in log
