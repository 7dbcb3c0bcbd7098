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


@contextmanager
def library_bars() -> Iterator[None]:
    """While the block runs, diffusers and transformers show their loading bars only where somebody watches."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = () if sys.stderr.isatty() else (of_diffusers, of_transformers)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
