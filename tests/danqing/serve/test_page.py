"""The page, in headless Chromium: a person types a prompt and sees the picture."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from danqing.serve.service import Service
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 120.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]


class Browser:
    """One tab, driven over two pipes by the DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        options = f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --user-data-dir={profile}"
        command = f"exec {CHROMIUM} {options} --remote-debugging-pipe --lang=zh-CN about:blank 3<&{theirs_in} 4>&{theirs_out}"
        self._process = subprocess.Popen(["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number = b"", 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", session=None, url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", session=None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, session: str | None = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 16)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        self._note(found)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["source"] == "security":
            self.problems.append(parameters["entry"]["text"])

    def value(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        end = time.monotonic() + SECONDS
        while not self.value(script):
            assert time.monotonic() < end, f"{script} never came true; the page says {self.value(STATE)!r}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.querySelectorAll('#more label').length > 0")

    def type(self, where: str, text: str) -> None:
        self.value(f"document.getElementById('{where}').focus()")
        self.call("Input.insertText", text=text)

    def click(self, where: str) -> None:
        box = self.value("(r => [r.x + r.width / 2, r.y + r.height / 2])"
                         f"(document.getElementById('{where}').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


STATE = "document.getElementById('state').textContent"
PICTURES = "document.querySelectorAll('#pictures img').length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def test_a_prompt_becomes_a_picture(
    browser: Browser, make_server: Callable[..., str], make_service: Callable[..., Service]
) -> None:
    address = make_server(make_service())
    browser.open(address)
    assert browser.value("document.getElementById('guarded').hidden") is True
    browser.type("text", "一只小猫")
    browser.type("seed", "7")
    browser.click("draw")
    browser.wait(f"{PICTURES} === 1 && document.querySelector('#pictures img').naturalWidth === 8")
    source = browser.value("document.querySelector('#pictures img').src")
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert image.getpixel((0, 0)) == (7, 0, 0)
    assert "一只小猫 · 7" in browser.value("document.querySelector('figcaption').textContent")
    assert all(each.startswith((address, "data:", "about:")) for each in browser.requests), browser.requests
    assert browser.problems == []


def test_both_languages(browser: Browser, make_server: Callable[..., str], make_service: Callable[..., Service]) -> None:
    browser.open(make_server(make_service()))
    button = "document.getElementById('draw').textContent"
    if browser.value(button) == "Draw":
        browser.click("language")
    assert browser.value(button) == "作画" and browser.value("document.documentElement.lang") == "zh-CN"
    browser.click("language")
    assert browser.value(button) == "Draw" and browser.value("document.documentElement.lang") == "en"
    untold = "[...document.querySelectorAll('[data-say]')].filter(e => e.textContent === e.dataset.say).length"
    assert browser.value(untold) == 0, "every field has words"


def test_a_refusal_is_shown_and_a_token_asked_for(
    browser: Browser, make_server: Callable[..., str], make_service: Callable[..., Service]
) -> None:
    browser.open(make_server(make_service(), token=b"secret"))
    browser.type("text", "一只小猫")
    browser.click("draw")
    browser.wait(f"{STATE}.includes('Authorization')")
    assert browser.value("document.getElementById('guarded').hidden") is False
    browser.type("token", "secret")
    browser.click("draw")
    browser.wait(f"{PICTURES} === 1")
    browser.value("document.getElementById('text').value = 'a cat'")
    browser.click("draw")
    browser.wait(f"{STATE}.includes('translator')")
    assert browser.value(PICTURES) == 1
