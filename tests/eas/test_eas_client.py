"""The client: what it sends, what it takes for pictures, what it tries again and what it never does."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from danqing import cli, eas_client
from danqing.eas_client import call, patience
from danqing_pack.errors import RequestError
from PIL import Image

Pauses = tuple[list[float], Callable[[float], None]]


def picture(size: int = 8, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 50).convert("RGB").save(file, kind)
    return file.getvalue()


def reply(*images: bytes, encode: Callable[[bytes], bytes] = base64.urlsafe_b64encode, **more: Any) -> Any:
    body = {"text": "山水", "images_base64": [encode(each).decode() for each in images], "success": True, "error": "", **more}
    return 200, json.dumps(body).encode(), {}


def refusal(status: int, error: str = "", **headers: str) -> Any:
    return status, json.dumps({"success": False, "error": error, "images_base64": []}).encode(), headers


@pytest.mark.parametrize("success", [True, 1, "true"])
@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
def test_pictures_come_in_either_alphabet_and_success_in_either_type(gateway: Any, success: Any, encode: Any) -> None:
    sent = picture(64)
    gateway.answers = [reply(sent, encode=encode, success=success)]
    answer = call(gateway.url, {"text": "山水"}, "token-1")
    assert answer.images == (sent,) and answer.text == "山水"
    path, headers, body = gateway.requests[0]
    assert path == "/api/predict/painter" and headers["authorization"] == "token-1"
    assert json.loads(body) == {"text": "山水"}


def test_without_a_token_there_is_no_authorization(gateway: Any) -> None:
    gateway.answers = [reply(picture())]
    call(gateway.url, {"text": "x"})
    assert "authorization" not in gateway.requests[0][1]


@pytest.mark.parametrize("status", [429, 450, 502, 503, 504])
def test_what_was_not_begun_is_tried_again_after_longer_and_longer_pauses(
    status: int, gateway: Any, pauses: Pauses
) -> None:
    asked, sleep = pauses
    gateway.answers = [refusal(status), refusal(status), refusal(status, **{"Retry-After": "20"}), reply(picture())]
    assert call(gateway.url, {"text": "x"}, sleep=sleep).images
    assert len(asked) == 3 and asked[0] < asked[1] and asked[2] == 20


def test_it_gives_up_after_the_retries_with_a_sentence(gateway: Any, pauses: Pauses) -> None:
    gateway.answers = [refusal(450)] * 3
    with pytest.raises(RequestError, match="answered 450: its queue is full"):
        call(gateway.url, {"text": "x"}, retries=2, sleep=pauses[1])
    assert len(gateway.requests) == 3


@pytest.mark.parametrize(("status", "error", "words"), [
    (400, "text is missing.", "answered 400: text is missing"), (401, "", "--token-file"), (404, "", "no service"),
    (408, "too late", "raise metadata.rpc.keepalive"), (500, "", "log"), (201, "", "201"), (302, "", "302")])
def test_what_may_have_been_begun_or_cannot_help_is_sent_once(
    status: int, error: str, words: str, gateway: Any, pauses: Pauses
) -> None:
    gateway.answers = [refusal(status, error)]
    with pytest.raises(RequestError, match=words) as raised:
        call(gateway.url, {"text": "x"}, "secret-token", sleep=pauses[1])
    assert len(gateway.requests) == 1 and pauses[0] == [] and "secret-token" not in str(raised.value)


def test_a_connection_that_ends_without_an_answer_is_not_tried_again(gateway: Any, pauses: Pauses) -> None:
    gateway.answers = ["break"]
    with pytest.raises(RequestError, match="not sent again"):
        call(gateway.url, {"text": "x"}, sleep=pauses[1])
    assert len(gateway.requests) == 1


def test_a_connection_that_cannot_be_made_is(pauses: Pauses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RequestError, match="cannot be reached"):
        call(f"127.0.0.1:{port}/api/predict/x", {"text": "x"}, retries=2, sleep=pauses[1])
    assert len(pauses[0]) == 2


def test_an_answer_that_does_not_come_in_time_is_a_sentence(gateway: Any, pauses: Pauses) -> None:
    gate = threading.Event()

    def late() -> Any:
        gate.wait(30)
        return reply(picture())

    gateway.answers = [late]
    with pytest.raises(RequestError, match="did not answer within 0.2 seconds"):
        call(gateway.url, {"text": "x"}, seconds=0.2, sleep=pauses[1])
    gate.set()
    assert len(gateway.requests) == 1


def test_drawing_may_take_longer_than_connecting(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eas_client, "CONNECT_SECONDS", 0.3)

    def late() -> Any:
        time.sleep(0.9)
        return reply(picture())

    gateway.answers = [late]
    assert call(gateway.url, {"text": "x"}, seconds=30).images


def test_the_patience_grows_with_the_work() -> None:
    assert patience({"num_inference_steps": 20}) == 110
    assert patience({"num_inference_steps": 50, "num_images": 4}) == 290
    assert patience({"num_inference_steps": "x"}) > 60


@pytest.mark.parametrize(("answer", "words"), [
    (refusal(200, "no translator"), "drew nothing: no translator"),
    (reply(success=0, error_msg="bad"), "drew nothing: bad"),
    (reply(), "without images_base64"),
    ((200, b"<html>", {}), "no JSON object"), ((200, b"[1]", {}), "no JSON object"), ((200, b"[" * 99999, {}), "no JSON"),
    (reply(b"no picture"), "Picture 1"), (reply(picture(64)[:200]), "Picture 1 .* cannot be opened"),
    (reply(picture(), picture()), "2 pictures, and 1 were asked"),
    (reply(images_base64=[3]), "Picture 1"), (reply(images_base64="x"), "without images_base64"),
])
def test_a_reply_without_pictures_is_a_sentence(answer: Any, words: str, gateway: Any) -> None:
    gateway.answers = [answer]
    with pytest.raises(RequestError, match=words):
        call(gateway.url, {"text": "x", "num_images": 1})


@pytest.mark.parametrize("url", ["", "ftp://x/y", "http://", "http://a b/", "http://x:99999/", "http://u:p@x/", "file:///etc"])
def test_what_is_no_address_is_a_sentence(url: str) -> None:
    with pytest.raises(RequestError):
        call(url, {"text": "x"}, retries=0)


def test_the_command_line_writes_the_files_as_they_came(
    gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DANQING_TOKEN", raising=False)
    first, second = picture(), picture(kind="JPEG")
    gateway.answers = [reply(first, second), reply(first)]
    (tmp_path / "token").write_text("abc-token\n")
    out = tmp_path / "out"
    words = ["eas", "call", gateway.url, "雨后的山水", "--token-file", str(tmp_path / "token"), "-o", str(out)]
    assert cli.main([*words, "--num-images", "2", "--steps", "20", "--field", "width=512", "--field", "negative_prompt=雾"]) == 0
    assert json.loads(gateway.requests[0][2]) == {
        "text": "雨后的山水", "num_images": 2, "num_inference_steps": 20, "width": 512, "negative_prompt": "雾"}
    assert gateway.requests[0][1]["authorization"] == "abc-token"
    assert (out / "0001-雨后的山水.png").read_bytes() == first and (out / "0002-雨后的山水.jpg").read_bytes() == second
    monkeypatch.setenv("DANQING_TOKEN", "of-the-variable")
    assert cli.main(["eas", "call", gateway.url, "雨", "-o", str(out)]) == 0
    assert gateway.requests[1][1]["authorization"] == "of-the-variable" and (out / "0003-雨.png").exists()
    said = capsys.readouterr()
    assert "abc-token" not in said.out + said.err and "Wrote 2 pictures" in said.out
    assert "The text that was drawn: 山水" in said.err


def test_the_command_line_says_what_went_wrong(gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers = [refusal(401)]
    assert cli.main(["eas", "call", gateway.url, "雨", "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("danqing: ") and not (tmp_path / "out").exists()
    assert cli.main(["eas", "call", gateway.url, "雨", "--field", "x"]) == 1
