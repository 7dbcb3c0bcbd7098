"""sha256 of files while somebody else writes them: a download is verified when it ends, not after a second reading."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import IO

from .tensors import sha256_of

LEAST = 8 << 20
"""Smaller files are read faster than they are watched."""
PAUSE = 0.05


class Following:
    """Reads behind the writers of all large files below a folder, by inode, since a finished download is renamed.

    A file that shrinks was begun anew, and so is its digest. One that is written in another order gives a digest that
    nobody expects; whoever compares then reads the file once more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[tuple[int, int], _Reading] = {}
        self._stop = Event()
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        for each in self._open.values():
            each.file.close()

    def stop(self) -> None:
        """Stop watching; digests can still be asked for until the block ends."""
        self._stop.set()
        self._thread.join()

    def sha256(self, path: Path) -> str:
        """The digest of a finished file; read from its beginning if nobody watched it."""
        found = os.stat(path)
        reading = self._open.get((found.st_dev, found.st_ino))
        if reading is None:
            return sha256_of(path)
        reading.advance()
        return reading.digest.hexdigest()

    def _follow(self) -> None:
        buffer = bytearray(1 << 20)
        while not self._stop.is_set():
            with suppress(OSError):     # a folder that went while it was read; the next look sees the rest
                for path in self._folder.rglob("*"):
                    self._watch(path, buffer)
            busy = [each.advance(self._stop) for each in list(self._open.values())]
            if not any(busy):
                self._stop.wait(PAUSE)

    def _watch(self, path: Path, buffer: bytearray) -> None:
        with suppress(OSError):         # renamed or removed since it was seen
            found = path.lstat()
            key = (found.st_dev, found.st_ino)
            if path.is_file() and found.st_size >= LEAST and key not in self._open:
                self._open[key] = _Reading(path, buffer)


class _Reading:
    """One file that grows."""

    def __init__(self, path: Path, buffer: bytearray) -> None:
        self.file: IO[bytes] = path.open("rb", buffering=0)
        self.digest, self._done, self._buffer = hashlib.sha256(), 0, buffer

    def advance(self, stop: Event | None = None) -> bool:
        """Read what has been written since; whether there was anything."""
        if os.fstat(self.file.fileno()).st_size < self._done:
            self.digest, self._done = hashlib.sha256(), 0
            self.file.seek(0)
        before = self._done
        while not (stop and stop.is_set()) and (count := self.file.readinto(self._buffer)):  # type: ignore[attr-defined]
            self.digest.update(memoryview(self._buffer)[:count])
            self._done += count
        return self._done > before
