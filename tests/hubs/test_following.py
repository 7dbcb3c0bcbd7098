"""Digests of files while they are written."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from danqing_pack import following
from danqing_pack.following import Following


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LEAST", 1)
    monkeypatch.setattr(following, "PAUSE", 0.001)


def write_slowly(path: Path, data: bytes, step: int = 1000) -> None:
    with path.open("ab", buffering=0) as file:
        for start in range(0, len(data), step):
            file.write(data[start:start + step])
            time.sleep(0.002)


def test_a_file_that_grows_and_is_renamed(tmp_path: Path) -> None:
    data = os.urandom(20_000)
    with Following(tmp_path) as watching:
        write_slowly(tmp_path / "a.incomplete", data)
        os.rename(tmp_path / "a.incomplete", tmp_path / "a")
        watching.stop()
        assert watching._open, "nobody watched"
        assert watching.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_file_that_is_begun_anew(tmp_path: Path) -> None:
    data = os.urandom(5_000)
    with Following(tmp_path) as watching:
        write_slowly(tmp_path / "a", os.urandom(9_000))
        time.sleep(0.02)
        os.truncate(tmp_path / "a", 0)
        time.sleep(0.05)
        write_slowly(tmp_path / "a", data)
        watching.stop()
        assert watching.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_file_that_nobody_watched(tmp_path: Path) -> None:
    with Following(tmp_path) as watching:
        watching.stop()
        (tmp_path / "a").write_bytes(b"abc")
        assert watching.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
