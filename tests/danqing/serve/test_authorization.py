"""The two ways to show a token."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from danqing.serve.authorization import is_signed_body, read_token, shows_token
from danqing_pack.errors import RequestError

TOKEN, PATH, BODY = b"top-secret", b"/api/predict/painter", b'{"text": "x"}'


def signed(token: bytes = TOKEN, path: bytes = PATH, body: bytes = BODY, date: bytes = b"Mon, 01 Jan 2024 08:00:00 GMT",
           kind: bytes = b"application/octet-stream") -> dict[bytes, bytes]:
    """The vendor's way, written down from its description."""
    digest = hashlib.md5(body).hexdigest().encode()
    words = b"POST\n" + digest + b"\n" + kind + b"\n" + date + b"\n" + path
    signature = base64.b64encode(hmac.new(token, words, "sha1").digest())
    return {b"authorization": b"EAS " + signature, b"content-md5": digest, b"content-type": kind, b"date": date}


def test_without_a_token_all_may_enter() -> None:
    assert shows_token(None, PATH, {})


def test_the_token_itself_opens() -> None:
    assert shows_token(TOKEN, PATH, {b"authorization": TOKEN})


@pytest.mark.parametrize("shown", [b"", b"top", b"top-secret ", b"Top-secret", b"Bearer top-secret", b"EAS top-secret",
                                   b"\xff"])
def test_nothing_else_does(shown: bytes) -> None:
    assert not shows_token(TOKEN, PATH, {b"authorization": shown})
    assert not shows_token(TOKEN, PATH, {})


def test_a_signature_opens_whatever_the_clock_says() -> None:
    for date in (b"Mon, 01 Jan 2024 08:00:00 GMT", b"Fri, 31 Dec 1999 23:59:59 GMT", b"tomorrow"):
        assert shows_token(TOKEN, PATH, signed(date=date))


@pytest.mark.parametrize("other", [signed(token=b"other"), signed(path=b"/elsewhere"),
                                   {**signed(), b"date": b"now"}, {**signed(), b"content-type": b"text/plain"},
                                   {**signed(), b"content-md5": b"0" * 32}, {b"authorization": signed()[b"authorization"]}])
def test_a_signature_of_anything_else_does_not(other: dict[bytes, bytes]) -> None:
    assert not shows_token(TOKEN, PATH, other)


def test_the_body_must_be_the_one_that_was_signed() -> None:
    assert is_signed_body(BODY, signed())
    assert not is_signed_body(b"another", signed())
    assert is_signed_body(b"another", {b"authorization": TOKEN})


def test_a_token_comes_from_the_file_then_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANQING_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("DANQING_TOKEN", "from-environment")
    assert read_token(None) == b"from-environment"
    (tmp_path / "token").write_text("from-file\n")
    assert read_token(tmp_path / "token") == b"from-file"


@pytest.mark.parametrize("content", [b"", b"  \n", b"two words", "令牌".encode(), b"\xff"])
def test_a_file_without_a_token_is_no_open_door(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(RequestError) as raised:
        read_token(tmp_path / "token")
    assert "words" not in str(raised.value) and "令牌" not in str(raised.value)
    with pytest.raises(RequestError):
        read_token(tmp_path / "missing")
