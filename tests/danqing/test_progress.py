"""What a terminal shows while bytes move, and that nothing is shown elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from danqing.progress import byte_progress, size_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bytes_rate_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = Terminal(), iter(range(0, 1000, 2))
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("danqing.progress.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with byte_progress("packing", 400_000_000) as advance:
        assert advance is not None
        for _ in range(5):
            advance(100_000_000)
    first, second, third, fourth, fifth, _ = terminal.getvalue().split("\r")[1:]
    assert first == "packing 100 of 400 MB, 50 MB/s, 6 s left\x1b[K"
    assert second == "packing 200 of 400 MB, 50 MB/s, 4 s left\x1b[K"
    # All that was expected is there, and then more.
    assert (fourth, fifth) == ("packing 400 MB, 50 MB/s\x1b[K", "packing 500 MB, 50 MB/s\x1b[K")
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_nothing_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with byte_progress("packing") as advance:
        assert advance is None
    assert capsys.readouterr().err == ""


def test_the_size_of_a_place(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"45")
    assert (size_of(tmp_path), size_of(tmp_path / "b"), size_of(tmp_path / "absent")) == (5, 2, 0)
