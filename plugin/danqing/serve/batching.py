"""Pictures of several requests drawn together: a queue of jobs and the one thread that draws.

Whatever waits when the device becomes free and is of one kind goes together, first come first served, picture by
picture: a request for many pictures takes several turns, a batch may serve many requests. The thread waits for company
only when company is on its way, and then for a few milliseconds at most; a request that is alone is drawn at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .served_model import Abandoned, Style

WINDOW = 0.005
"""Seconds to wait for company that is on its way."""


class Draw(Protocol):
    """Draws one picture for each text; asks ``wanted`` as it goes."""

    def __call__(
        self, style: Style, texts: Sequence[str], seeds: Sequence[int], wanted: Callable[[], bool]
    ) -> list[Any]: ...


@dataclass(eq=False)
class Job:
    """The pictures of one request: ``seed`` and those after it.

    ``done`` is called once, with the job, when all pictures are there or drawing them failed (``error``); never after
    ``ended``, which says that nobody waits any more. ``begun`` is called when the first picture leaves the queue.
    """

    text: str
    style: Style
    seed: int
    count: int
    begun: Callable[[], None]
    done: Callable[[Job], None]
    ended: bool = False
    error: Exception | None = None
    taken: int = 0
    pictures: dict[int, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Jobs of one key may be drawn together."""
        return self.style.key


Part = tuple[Job, int]
"""A job and the index of one of its pictures."""


class Batcher:
    """Draws up to ``size`` pictures at a time, in a thread of its own.

    ``coming`` counts the requests that are about to be put here; ``observe`` hears of each batch: its pictures and the
    seconds that it took.
    """

    def __init__(
        self, draw: Draw, size: int, coming: Callable[[], int], observe: Callable[[int, float], None] = lambda *_: None,
        window: float = WINDOW,
    ) -> None:
        self._draw, self._size, self._coming, self._observe, self._window = draw, size, coming, observe, window
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._company_until = 0.0
        self._thread = threading.Thread(target=self._run, name="danqing-draw", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> bool:
        """Queue a job; False once the batcher is closed."""
        with self._changed:
            if self._closed:
                return False
            self._jobs.append(job)
            self._changed.notify()
            return True

    def drop(self, job: Job) -> None:
        """Nobody waits for this job: it leaves the queue, and drawing stops unless others share the batch."""
        with self._changed:
            job.ended = True
            if job in self._jobs:
                self._jobs.remove(job)

    def answered(self) -> None:
        """A reply to one of several clients has gone out: the next requests of all of them may come any moment."""
        with self._changed:
            if self._company_until:
                self._company_until = time.monotonic() + self._window

    def close(self) -> list[Job]:
        """Take nothing more; jobs that were begun are finished. Returns those that were not."""
        with self._changed:
            self._closed = True
            refused = [job for job in self._jobs if not job.taken]
            self._jobs = [job for job in self._jobs if job.taken]
            self._changed.notify()
            return refused

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the last picture is drawn; whether that was so in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while parts := self._next():
            start = time.monotonic()
            self._draw_parts(parts)
            self._observe(len(parts), time.monotonic() - start)
            # The style may hold a picture, and this thread may wait for long.
            several, parts = len({id(job) for job, _ in parts}) > 1, []
            with self._changed:
                self._company_until = time.monotonic() + self._window if several else 0.0

    def _next(self) -> list[Part]:
        """The next batch; empty when the batcher is closed and all is drawn."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                deadline = time.monotonic() + self._window
                while not self._closed and self._jobs and self._waits_for_company(deadline):
                    self._changed.wait(0.001)
                if self._jobs or self._closed:  # else they left while company was awaited
                    return self._take()

    def _waits_for_company(self, deadline: float) -> bool:
        now = time.monotonic()
        if now >= deadline or sum(job.count - job.taken for job in self._jobs) >= self._size:
            return False
        return self._coming() > 0 or now < self._company_until

    def _take(self) -> list[Part]:
        parts: list[Part] = []
        key = self._jobs[0].key if self._jobs else None
        for job in [job for job in self._jobs if job.key == key]:
            first, last = job.taken, min(job.count, job.taken + self._size - len(parts))
            if not first and last:
                job.begun()
            parts += [(job, index) for index in range(first, last)]
            job.taken = last
            if len(parts) == self._size:
                break
        self._jobs = [job for job in self._jobs if job.taken < job.count]
        return parts

    def _draw_parts(self, parts: list[Part]) -> None:
        """Draw them together; where that fails, in halves, so that the one at fault is alone with its error."""
        parts = [part for part in parts if not part[0].ended and part[0].error is None]
        if not parts:
            return
        try:
            pictures = self._draw(
                parts[0][0].style, [job.text for job, _ in parts], [job.seed + index for job, index in parts],
                lambda: any(not job.ended for job, _ in parts))
        except Abandoned:
            return
        except Exception as error:  # whatever it is, it is the answer to this request and no other
            if len(parts) == 1:
                self._fail(parts[0][0], error)
                return
        else:
            for (job, index), picture in zip(parts, pictures, strict=True):
                self._keep(job, index, picture)
            return
        middle = len(parts) // 2
        self._draw_parts(parts[:middle])
        self._draw_parts(parts[middle:])

    def _keep(self, job: Job, index: int, picture: Any) -> None:
        job.pictures[index] = picture
        if len(job.pictures) == job.count and not job.ended:
            job.done(job)

    def _fail(self, job: Job, error: Exception) -> None:
        job.error = error
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
        if not job.ended:
            job.done(job)
