"""Tokens: in no output, no log, no exception, no file of ours and no command line of a process."""

from __future__ import annotations

import json
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from danqing_pack.errors import HubError
from danqing_pack.hub_errors import reach, redact
from danqing_pack.hubs import HUBS
from danqing_pack.pulling import pull

NAME = "org/painter"
HF, MS = "hf_correcthorsebatterystaple", "hf_correcthorsebatterystaple"
WRONG = ("hf_wrongtokenforeverybody", "ms-wrong-token-for-everybody")


def everything(home: Path) -> str:
    """All files below a home, the clients' own credentials aside."""
    return "".join(path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize("right", [True, False], ids=["right token", "wrong token"])
def test_commands_and_files(place: Any, hub: str, model: Path, tmp_path: Path, right: bool) -> None:
    variables = {} if right else {"HF_TOKEN": WRONG[0], "MODELSCOPE_API_TOKEN": WRONG[1]}
    variables |= {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "MODELSCOPE_LOG_LEVEL": "10"}
    place.double.fill(hub, "org/there", model)
    runs = [("push", model, f"{hub}:{NAME}", "--tag", "v1"), ("pull", f"{hub}:org/there", tmp_path / "out")]
    secrets = (HF, MS) if right else WRONG
    for words in runs:
        done = place.danqing(*words, check=False, **variables)
        assert done.returncode == (0 if right else 1), done.stderr
        for secret in secrets:
            assert secret not in done.stdout + done.stderr
        if not right:
            assert "Traceback" not in done.stderr and "does not accept the token" in done.stderr
    for secret in secrets:
        assert secret not in everything(place.home / "cache") + everything(model)


@pytest.mark.slow
def test_the_process_list(place: Any, hub: str, model: Path, tmp_path: Path) -> None:
    place.double.fill(hub, "org/there", model)
    place.double.fail("model.safetensors", "slow", 2500, times=4)
    running = place.start("-m", "danqing", "pull", f"{hub}:org/there", tmp_path / "out")
    lines = set()
    while running.poll() is None:
        lines |= {path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)}
        time.sleep(0.2)
    running.communicate()
    assert running.returncode == 0 and any(b"danqing" in line for line in lines)
    assert not any(HF.encode() in line for line in lines)


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_an_exception_has_no_past(place: Any, hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clients' exceptions keep the request, and the request keeps the token."""
    monkeypatch.setenv("HF_TOKEN", WRONG[0])
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", WRONG[1])
    place.double.fill(hub, NAME, tmp_path)
    with pytest.raises(HubError) as caught:
        pull(f"{hub}:{NAME}", tmp_path / "out")
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.args)
    assert not any(secret in shown for secret in WRONG)


def test_a_token_that_no_header_can_carry(place: Any, hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Transports quote a header that they refuse."""
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, "secret-first\nsecret-second")
    with pytest.raises(HubError) as caught:
        pull(f"{hub}:{NAME}", tmp_path / "out")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", [
    "Illegal header value b'Bearer tok-123'", "Cookie: m_session_id=tok-123; a=b", "http://user:tok-123@host/x failed",
    "{'Authorization': 'tok-123'}", "PUT http://h/x?Expires=1&Signature=tok-123 failed", "hf_tok123tok123 is wrong",
    "the token is tok-123"])
def test_words_that_hold_a_token(text: str) -> None:
    assert "tok-123" not in redact(text, ("tok-123",)) and "tok123" not in redact(text)
    if "the token is" not in text:
        assert "tok-123" not in redact(text)


def test_every_kind_of_failure_is_redacted(place: Any, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of no known shape."""
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, "plainsecret")

    def step() -> None:
        raise ValueError("the header was plainsecret")

    with pytest.raises(HubError) as caught:
        reach(HUBS[hub], "It was not done", step)
    assert "the header was ***" in str(caught.value)


def test_the_record_of_pulls(place: Any, hub: str, model: Path, tmp_path: Path) -> None:
    place.double.fill(hub, NAME, model)
    pull(f"{hub}:{NAME}", tmp_path / "out")
    records = list((place.home / "cache/danqing/pulls").iterdir())
    assert [json.loads(path.read_text()) for path in records] == [{"folder": str(tmp_path / "out")}]


def test_there_is_no_option_for_a_token(place: Any) -> None:
    for verb in ("push", "pull", "mirror"):
        done: subprocess.CompletedProcess[str] = place.danqing(verb, "--help")
        assert "--token" not in done.stdout
