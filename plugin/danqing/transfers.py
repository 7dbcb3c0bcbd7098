"""What people see while files travel: the hubs' own bars where somebody watches, and lines on stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("modelscope_hub", "modelscope", "huggingface_hub")
"""What they report as errors comes back as one sentence."""


def say(line: str) -> None:
    """A line about the state of affairs; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def transfers() -> Iterator[None]:
    """Import and use the hubs' clients inside: without a terminal they draw no bars and repeat no errors."""
    if not sys.stderr.isatty():
        # Both read these when they are imported, so the setting must come first; a user's own setting stays.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
