"""Over HTTP, with the clients that people use; the small painter in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from danqing.serve.running import listen
from danqing.serve.service import Service
from danqing_pack.errors import RequestError
from PIL import Image

SECONDS = 120


def wish(**more: Any) -> dict[str, Any]:
    return {"text": "山水", **more}


def signed(token: str, path: str, body: bytes, date: str = "Mon, 01 Jan 2024 08:00:00 GMT") -> dict[str, str]:
    """As the vendor's client signs."""
    kind, digest = "application/octet-stream", hashlib.md5(body).hexdigest()
    words = f"POST\n{digest}\n{kind}\n{date}\n{path}"
    signature = base64.b64encode(hmac.new(token.encode(), words.encode(), hashlib.sha1).digest()).decode()
    return {"Authorization": f"EAS {signature}", "Content-MD5": digest, "Content-Type": kind, "Date": date}


def picture(reply: dict[str, Any], index: int = 0) -> Image.Image:
    image = Image.open(io.BytesIO(base64.urlsafe_b64decode(reply["images_base64"][index])))
    image.load()
    return image


def test_the_documented_script(server: Any, token: str) -> None:
    """Its steps, with nothing but an address and a token put in."""
    data = {"text": "一只可爱的小猫", "skip_translation": False, "num_inference_steps": 20, "num_images": 1, "use_blade": True}
    headers = {"Authorization": token}
    response = requests.post(f"{server.address}/api/predict/painter", data=json.dumps(data), headers=headers, timeout=SECONDS)
    reply = json.loads(response.text)
    images = [Image.open(io.BytesIO(base64.urlsafe_b64decode(each))) for each in reply["images_base64"]]
    assert response.status_code == 200 and reply["success"] and not reply["error"]
    assert reply["text"] == data["text"] and [image.size for image in images] == [(256, 256)]


@pytest.mark.parametrize("path", ["/", "/api/predict/painter", "/api/predict/painter/", "/test", "/a/b?c=d", "/图"])
def test_any_path_draws(server: Any, token: str, path: str) -> None:
    reply = requests.post(f"{server.address}{path}", json=wish(text="x"), headers={"Authorization": token}, timeout=SECONDS)
    assert reply.status_code == 200 and "no translator" in reply.json()["error"]


def test_the_vendors_signature(server: Any, token: str) -> None:
    path, body = "/api/predict/painter", json.dumps(wish(seed=1)).encode()
    reply = requests.post(server.address + path, data=body, headers=signed(token, path, body), timeout=SECONDS)
    assert reply.status_code == 200 and picture(reply.json()).size == (256, 256)
    for headers in (signed("wrong", path, body), signed(token, "/other", body), signed(token, path, b"{}"), {},
                    {"Authorization": "wrong"}, {"Authorization": f"Bearer {token}"}):
        refused = requests.post(server.address + path, data=body, headers=headers, timeout=SECONDS)
        assert refused.status_code == 401 and refused.json()["success"] is False
    assert token not in server.log.read_text(encoding="utf-8")


def test_clocks_may_differ(server: Any, token: str) -> None:
    path, body = "/api/predict/painter", b'{"text": "x"}'
    headers = signed(token, path, body, "Fri, 31 Dec 1999 23:59:59 GMT")
    assert requests.post(server.address + path, data=body, headers=headers, timeout=SECONDS).status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Any, token: str) -> None:
    words = ["curl", "-sS", "-m", str(SECONDS), "-H", f"Authorization: {token}", "-d", json.dumps(wish())]
    done = subprocess.run([*words, f"{server.address}/test"], capture_output=True, check=True)
    assert picture(json.loads(done.stdout)).size == (256, 256)


def test_a_seed_repeats_itself_and_several_pictures_count_on(server: Any, token: str) -> None:
    def ask(**more: Any) -> dict[str, Any]:
        headers = {"Authorization": token}
        return requests.post(server.address, json=wish(**more), headers=headers, timeout=SECONDS).json()  # type: ignore

    several = ask(seed=20, num_images=2)
    alone = ask(seed=21)
    assert picture(several, 1).tobytes() == picture(alone).tobytes() != picture(several, 0).tobytes()


def test_pages_for_machines(server: Any) -> None:
    assert requests.get(f"{server.address}/health", timeout=SECONDS).status_code == 200
    assert requests.get(f"{server.address}/ready", timeout=SECONDS).status_code == 200
    metrics = requests.get(f"{server.address}/metrics", timeout=SECONDS)
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in metrics.text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+({\w+=\"[^\"]+\"})? [0-9.e+-]+", line), line
    described = requests.get(f"{server.address}/api/predict/painter/openapi.json", timeout=SECONDS).json()
    assert set(described["paths"]) == {"/api/predict/painter", "/", "/health", "/ready", "/metrics", "/openapi.json"}
    assert described["components"]["schemas"]["Request"]["properties"]["top_k"]["maximum"] == 128
    head = requests.head(f"{server.address}/health", timeout=SECONDS)
    assert head.status_code == 200 and head.text == ""


def test_the_page_needs_nothing_from_elsewhere(server: Any) -> None:
    page = requests.get(server.address, timeout=SECONDS)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"(src|href)\s*=\s*\"(?!data:)", page.text) and "http" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/api/predict/painter", 405), ("GET", "/api/predict/other/", 404),
     ("POST", "/health", 405), ("POST", "/metrics", 405), ("PUT", "/", 405), ("DELETE", "/api/predict/painter", 405),
     ("OPTIONS", "/anything", 405), ("POST", "/api/predict/other", 404)])
def test_other_paths_and_methods(server: Any, token: str, method: str, path: str, status: int) -> None:
    headers = {"Authorization": token}
    reply = requests.request(method, server.address + path, headers=headers, json=wish(), timeout=SECONDS)
    assert reply.status_code == status
    if status == 405:
        assert reply.headers["allow"]


def test_without_a_token_and_before_the_model_is_there(
    make_server: Callable[..., str], make_service: Callable[..., Service]
) -> None:
    loading = make_server(None)
    assert requests.get(f"{loading}/health", timeout=SECONDS).status_code == 200
    assert requests.get(f"{loading}/ready", timeout=SECONDS).status_code == 503
    assert requests.get(f"{loading}/openapi.json", timeout=SECONDS).status_code == 503
    refused = requests.post(loading, json=wish(), timeout=SECONDS)
    assert refused.status_code == 503 and "being loaded" in refused.json()["error"]
    ready = make_server(make_service())
    assert requests.get(f"{ready}/ready", timeout=SECONDS).status_code == 200
    reply = requests.post(ready, json=wish(seed=9), timeout=SECONDS).json()
    assert picture(reply).getpixel((0, 0)) == (9, 0, 0)
    assert "danqing_ready 1" in requests.get(f"{ready}/metrics", timeout=SECONDS).text


def test_what_cannot_be_served_is_said_in_one_sentence(start_server: Callable[..., Any], tmp_path: Path) -> None:
    process = start_server(tmp_path / "nothing", ready=False)
    assert "open to whoever reaches it" in process.log.read_text(encoding="utf-8")
    assert process.process.wait(SECONDS) == 1
    log = process.log.read_text(encoding="utf-8")
    assert "danqing: There is nothing at" in log and "Traceback" not in log


def test_an_address_that_is_taken(make_server: Callable[..., str]) -> None:
    port = int(make_server(None).rpartition(":")[2])
    with pytest.raises(RequestError, match="cannot be listened on"):
        listen("127.0.0.1", port)
