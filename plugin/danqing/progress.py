"""A progress bar where somebody watches, and none where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int], None] | None]:
    """A function to call with the bytes done since the last call, or None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    done, shown, start = 0, 0.0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown > 0.1:
            shown = now
            rate = done / max(now - start, 1e-3) / 1e6
            print(f"\r{what} {done / 1e6:,.0f} MB, {rate:,.0f} MB/s\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
