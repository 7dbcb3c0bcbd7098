"""A file that is read where it lies: through a memory map, or into a buffer at hand."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

Bytes = NDArray[np.uint8]


class MappedFile:
    """An open file of fixed length. ``bytes`` shares the page cache and costs memory only where it is looked at.

    Raises:
        FormatError: there is no such file, it cannot be read, or it is empty.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, os.close, self._descriptor)
            self.size = os.fstat(self._descriptor).st_size
            if self.size == 0:
                raise FormatError(f"{self.path} is empty; fetch it again.", path=self.path)
            self._map = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FormatError(f"{self.path} cannot be read ({error.strerror}); check the path and its permissions.",
                              path=self.path) from error
        self.bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self._start: int = self.bytes.__array_interface__["data"][0]

    def offset_of(self, view: NDArray[Any]) -> int:
        """Where in the file the first element of a view of ``bytes`` lies."""
        return int(view.__array_interface__["data"][0]) - self._start

    def read_into(self, out: Bytes, offset: int) -> None:
        """Fill a contiguous buffer with the bytes from ``offset``; unlike the map this adds no resident memory.

        Raises:
            FormatError: the file has become shorter or its disk fails.
        """
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._descriptor, [out[done:].data], offset + done)
            except OSError as error:
                raise FormatError(f"{self.path} cannot be read at byte {offset + done} ({error.strerror}); check its "
                                  "disk or fetch it again.", path=self.path) from error
            if count == 0:
                raise FormatError(f"{self.path} became shorter while it was read; try again when nobody writes it.",
                                  path=self.path)
            done += count

    def forget(self) -> None:
        """Give back the resident memory of what was looked at; it stays readable.

        All of it, since a look at one page maps its neighbours too: released stretch by stretch, they would pile up.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
