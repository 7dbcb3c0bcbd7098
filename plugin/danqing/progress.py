"""A progress bar where somebody watches, and none where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def size_of(place: str | Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    place = Path(place)
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(each.stat().st_size for each in files if each.is_file())


@contextmanager
def byte_progress(what: str, total: int = 0) -> Iterator[Callable[[int], None] | None]:
    """A function to call with the bytes done since the last call, or None where nobody watches.

    ``total`` is how many are expected, where that is known: more may come.
    """
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
            of = f" of {total / 1e6:,.0f}" if total > done else ""
            left = f", {(total - done) / 1e6 / rate:,.0f} s left" if total > done else ""
            print(f"\r{what} {done / 1e6:,.0f}{of} MB, {rate:,.0f} MB/s{left}\x1b[K", end="", file=sys.stderr, flush=True)

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
