"""Counts of a running service, in Prometheus's text format."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """How often a number fell below each of some bounds."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name, self._about, self._bounds = name, about, bounds
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """In the text format."""
        total, lines = 0, _head(self._name, self._about, "histogram")
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{self._name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{self._name}_sum {self._sum:.6f}", f"{self._name}_count {total}"]


class Metrics:
    """What a service counts; any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: Counter[int] = Counter()
        self._pictures = 0
        self._seconds = Histogram("danqing_request_seconds", "Seconds from a request's head to its reply.", SECONDS)
        self._batch = Histogram("danqing_batch_pictures", "Pictures drawn together.", PICTURES)
        self._drawing = Histogram("danqing_batch_seconds", "Seconds that drawing a batch took.", SECONDS)

    def reply(self, status: int, seconds: float, pictures: int = 0) -> None:
        """Count a reply."""
        with self._lock:
            self._replies[status] += 1
            self._pictures += pictures
            self._seconds.add(seconds)

    def batch(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            self._batch.add(pictures)
            self._drawing.add(seconds)

    def text(self, waiting: int, ready: bool) -> str:
        """Everything, with the gauges of this moment."""
        with self._lock:
            lines = _head("danqing_requests_total", "Replies by status; 499: the client had gone.", "counter")
            replies = sorted(self._replies.items())
            lines += [f'danqing_requests_total{{status="{status}"}} {count}' for status, count in replies]
            lines += _one("danqing_pictures_total", "Pictures sent.", "counter", self._pictures)
            lines += [*self._seconds.lines(), *self._batch.lines(), *self._drawing.lines()]
        lines += _one("danqing_queue_waiting", "Requests that wait to be drawn.", "gauge", waiting)
        lines += _one("danqing_ready", "1 once the model is loaded and warm.", "gauge", int(ready))
        if (resident := _resident_bytes()) is not None:
            lines += _one("process_resident_memory_bytes", "Resident memory.", "gauge", resident)
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _one(name: str, about: str, kind: str, value: int) -> list[str]:
    return [*_head(name, about, kind), f"{name} {value}"]


def _resident_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # no Linux
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
