"""sha256 of files: of one that exists, and of one that is being written, on a second core."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from .errors import FormatError, RequestError
from .lazy_tensors import Tensor

Progress = Callable[[int], None]
"""Called with the bytes written since the last call."""

_BUFFER = 4 << 20
_BUFFERS = 4
_READ = 8 << 20
"""Large, since after each read and each update a thread waits for its turn among the others."""


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file in hexadecimal. Other threads run meanwhile.

    Raises:
        FormatError: the file cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(_READ)
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
    except OSError as error:
        raise FormatError(f"{os.fspath(path)} cannot be read ({error.strerror}); check the path and its permissions.",
                          path=Path(path)) from error
    return digest.hexdigest()


class HashedFile:
    """A new file, written front to back through a few buffers that a second thread hashes.

    Use it as a context manager. When the block ends with an exception, Ctrl-C included, the file is removed; otherwise
    ``sha256`` is its digest. Writing raises OSError as any file does, for whoever staged the output to put into words.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        self._path, self._progress = Path(path), progress
        self.position = 0
        self.sha256 = ""

    def __enter__(self) -> HashedFile:
        # An empty file is one that was staged for this; anything else may be what the tensors are read from.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        if os.fstat(self._descriptor).st_size:
            os.close(self._descriptor)
            raise RequestError(f"{self._path} exists; choose another place.", path=self._path)
        self._digest = hashlib.sha256()
        self._full: SimpleQueue[NDArray[np.uint8] | None] = SimpleQueue()
        self._free: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(_BUFFERS - 1):
            self._free.put(np.empty(_BUFFER, np.uint8))
        self._buffer, self._used = np.empty(_BUFFER, np.uint8), 0
        self._thread = Thread(target=self._hash, name="sha256", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
        except BaseException:
            self._close()
            self._remove()
            raise
        self._close()
        if error is not None:
            self._remove()
        self.sha256 = self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append a few bytes."""
        for start in range(0, len(data), _BUFFER):
            part = data[start:start + _BUFFER]
            self._room(len(part))[:] = np.frombuffer(part, np.uint8)

    def write_tensor(self, tensor: Tensor) -> int:
        """Append a tensor's values in row-major order; their CRC-32. Adds no memory that lasts."""
        checksum = 0
        for piece in tensor.pieces(_BUFFER):
            room = self._room(piece.nbytes)
            piece.fill(room.view(piece.dtype).reshape(piece.shape))
            checksum = isal_zlib.crc32(room, checksum)
        tensor.release()
        return checksum

    def _room(self, size: int) -> NDArray[np.uint8]:
        """The next ``size`` bytes of the file, to be filled before anything else is called."""
        if self._used + size > _BUFFER:
            self._flush()
        start = self._used
        self._used += size
        self.position += size
        return self._buffer[start:self._used]

    def _flush(self) -> None:
        filled = self._buffer[:self._used]
        self._full.put(filled)
        done = 0
        while done < len(filled):
            done += os.write(self._descriptor, filled[done:].data)
        self._buffer, self._used = self._free.get(), 0
        if self._progress is not None and done:
            self._progress(done)

    def _hash(self) -> None:
        while (filled := self._full.get()) is not None:
            self._digest.update(filled.data)
            whole: Any = filled.base
            self._free.put(whole)

    def _close(self) -> None:
        self._full.put(None)
        self._thread.join()
        os.close(self._descriptor)

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()
