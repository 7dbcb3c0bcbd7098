"""Archives: a streaming tar.gz writer whose bytes never change, and a reader that trusts nothing.

Written: gzip level 1 from ISA-L (weights hardly compress: 24 to 36 times faster than level 6 and no larger), one pass
over every file with its sha256 taken on the way. Members lie flat as they are named, small ones (up to `SMALL` bytes)
before large ones and each group sorted by name, so that the first kilobytes hold every config; a closing member made
from the digests comes last. Owner 0, time 0, mode 0644, no links, no folder entries, no name and no time in the gzip
header. The same files give the same bytes whatever the number of threads; another processor architecture or another
version of ISA-L may compress differently, which is why digests are of the files and not of the archive.

Read: tar.gz, tar, tar.bz2 and zip, told apart by content. Nothing is believed: names stay below the target, each place
is written once (also on a disk that ignores case), there is no link, device or pipe, the number of members and the
total size have limits that are held before a byte is written, and an archive that is cut off or goes on behind its end
is refused. What a Mac adds to archives (`._name`, `.DS_Store`, `__MACOSX`) is passed over.
"""

from __future__ import annotations

import bz2
import errno
import io
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from isal import igzip_threaded, isal_zlib

from .errors import FormatError
from .safe_members import claim, clean_name, safe_members, too_large
from .tar_stream import BLOCK, CHUNK, END, Member, TarReader, header, is_header, padding

Progress = Callable[[int], None]
LEVEL = 1
SMALL = 1 << 20
MAX_BYTES = 100 << 30
MAX_RATIO = 100
"""Unpacked bytes per byte of the archive; weights reach 1.3. The first `FREE_BYTES` are not counted."""
FREE_BYTES = 64 << 20


# ---- writing

def write_archive(path: Path, files: Mapping[str, Path | bytes],
                  closing: Callable[[dict[str, str]], tuple[str, bytes]] | None = None,
                  progress: Progress | None = None) -> dict[str, str]:
    """Write `files` (archive name -> file or content) to a tar.gz; sha256 of each by name.

    closing: makes the last member, name and content, from the digests of the others.
    progress: called with the bytes of content done since the last call.
    Raises FormatError: a name that no reader would take, or a file that changed meanwhile. OSError: the disk.
    """
    claimed: dict[str, tuple[str, str]] = {}
    for name in files:
        if clean_name(name, str(path)) != name:
            raise FormatError(f"{name!r} cannot be packed under this name: rename it.", name=name)
        claim(name, "file", claimed, path)
    sizes = {name: len(blob) if isinstance(blob, bytes) else blob.stat().st_size for name, blob in files.items()}
    digests: dict[str, str] = {}
    threads = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    # No ExitStack: the compressor raises one and the same exception from writing and from closing, and ExitStack then
    # follows its own tail for ever.
    with path.open("wb") as raw, _gzip(raw, "wb", threads=threads, block_size=CHUNK) as zipped:
        stream = _Blocks(zipped)
        for name in sorted(files, key=lambda name: (sizes[name] > SMALL, name)):
            stream.write(header(name, sizes[name]))
            digests[name] = _copy(files[name], sizes[name], stream, progress)
            stream.write(padding(sizes[name]))
        if closing is not None:
            name, content = closing(dict(digests))
            stream.write(header(name, len(content)) + content + padding(len(content)))
        stream.write(END)
        stream.close()
    return digests


def _copy(blob: Path | bytes, size: int, stream: _Blocks, progress: Progress | None) -> str:
    """Exactly `size` bytes of a file into the stream, and their sha256."""
    if isinstance(blob, bytes):
        stream.write(blob)
        return sha256(blob).hexdigest()
    digest, left = sha256(), size
    with blob.open("rb", buffering=0) as file:
        while left and (data := stream.fill(file, left)):
            digest.update(data)
            left -= len(data)
            if progress is not None:
                progress(len(data))
        if left or file.read(1):
            raise FormatError(f"{blob} changed while it was packed: wait until it is written and pack again.",
                              path=blob)
    return digest.hexdigest()


class _Blocks:
    """Hands on blocks of one size: each is compressed by itself, so the bytes depend on where they are cut."""

    def __init__(self, file: IO[bytes]) -> None:
        raw = getattr(file, "raw", file)        # not through its buffer, which would copy each block once more
        self._raw, self._block, self._used = raw, memoryview(bytearray(CHUNK)), 0

    def fill(self, file: io.FileIO | io.BytesIO, limit: int) -> memoryview:
        """Read up to `limit` bytes of a file straight into the block; what was read, valid until the next call."""
        if self._used == CHUNK:
            self._hand_on()
        start = self._used
        self._used += file.readinto(self._block[start:start + limit]) or 0
        return self._block[start:self._used]

    def write(self, data: bytes) -> None:
        """Append a few bytes."""
        source = io.BytesIO(data)
        while self.fill(source, CHUNK):
            pass

    def _hand_on(self) -> None:
        self._raw.write(bytes(self._block[:self._used]))
        self._used = 0

    def close(self) -> None:
        """Hand on what is left."""
        self._hand_on()


def _gzip(raw: IO[bytes], mode: str, **options: int) -> IO[bytes]:
    file: IO[bytes] = igzip_threaded.open(raw, mode, LEVEL, **options)  # type: ignore[no-untyped-call]
    return file


# ---- reading

@contextmanager
def read_archive(path: Path, limit: int | None = None, progress: Progress | None = None) -> Iterator[Iterator[Member]]:
    """The files of an archive, one after the other, in the order they lie there.

    Yields an iterator of members that are safe to lay down: `kind` is `file`, `name` is relative, clean, given once.
    Stop early and the rest is never unpacked; go to the end and the archive is whole, its checksum included.

    limit: bytes that all members together may have; by default `MAX_RATIO` times the archive, at most `MAX_BYTES`.
    progress: called with the bytes of the archive read since the last call.
    Raises FormatError: no archive, damaged, cut off. UnsafeError: a member that is refused, or too much of them.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(io.FileIO(path))
            size = os.fstat(raw.fileno()).st_size
            start = raw.read(BLOCK)
            raw.seek(0)
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror}): name an archive.", path=path) from error
        if limit is None:
            limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))
        if start.startswith((b"PK\3\4", b"PK\5\6")):
            yield safe_members(_zip_members(raw, path, stack, progress), path, limit)
            return
        source = _Source(_decompressed(raw, start, path, stack), raw, path, limit + FREE_BYTES, progress)
        yield safe_members(iter(TarReader(source.read, str(path))), path, limit)


def unpack_archive(path: Path, folder: Path, limit: int | None = None, progress: Progress | None = None
                   ) -> dict[str, str]:
    """Lay every file of an archive down in an existing empty folder; sha256 by name. Raises as `read_archive` does."""
    digests = {}
    with read_archive(path, limit, progress) as members:
        for member in members:
            if member.size > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = sha256()
            with target.open("xb", buffering=0) as file:
                for data in member.chunks():
                    digest.update(data)
                    file.write(data)
            digests[member.name] = digest.hexdigest()
    if not digests:
        raise FormatError(f"{path} holds no files: it is no bundle.", path=path)
    return digests


def common_folder(names: Mapping[str, object]) -> str:
    """The folder, slash included, that every one of these names lies in; empty where there is none."""
    parts = [name.split("/")[:-1] for name in names]
    shared = os.path.commonprefix(parts)    # of lists: compares whole components
    return "".join(f"{part}/" for part in shared)


def _decompressed(raw: io.FileIO, start: bytes, path: Path, stack: ExitStack) -> IO[bytes]:
    """The tar stream of an archive, by its first bytes."""
    if start.startswith(b"\x1f\x8b"):
        return stack.enter_context(_gzip(raw, "rb"))
    if start.startswith(b"BZh"):
        return stack.enter_context(bz2.open(raw, "rb"))
    if is_header(start):
        return stack.enter_context(io.BufferedReader(raw, CHUNK))
    raise FormatError(f"{path} is no archive (tar.gz, tar, tar.bz2 or zip): name a bundle.", path=path)


class _Source:
    """A decompressed stream that never gives more than `limit` bytes, and one sentence where it is damaged."""

    def __init__(self, file: IO[bytes], raw: IO[bytes], path: Path, limit: int, progress: Progress | None) -> None:
        self._file, self._raw, self._path, self._left, self._progress = file, raw, path, limit, progress
        self._position = 0

    def read(self, n: int) -> bytes:
        """Exactly `n` bytes, fewer only at the end."""
        with _damage(self._path):
            data = self._file.read(n)
            position = self._raw.tell()
        self._left -= len(data)
        if self._left < 0:
            raise too_large(self._path)
        if self._progress is not None and position > self._position:
            self._progress(position - self._position)
        self._position = position
        return data


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What decompressors raise on bytes that no compressor made."""
    try:
        yield
    except EOFError as error:
        raise FormatError(f"{path} is cut off: it ends too early; fetch it again.", path=path) from error
    except (OSError, ValueError, RuntimeError, struct.error, zlib.error, isal_zlib.error,  # type: ignore[misc]
            zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is damaged ({error}); fetch it again.", path=path) from error


def _zip_members(raw: IO[bytes], path: Path, stack: ExitStack, progress: Progress | None) -> Iterator[Member]:
    """A zip's entries as members."""
    with _damage(path):
        archive = stack.enter_context(zipfile.ZipFile(raw))
    if any(name.endswith("/data.pkl") for name in archive.namelist()):
        raise FormatError(f"{path} is a checkpoint of torch, not an archive: name the folder it lies in.", path=path)
    for entry in archive.infolist():
        mode = entry.external_attr >> 16
        kind = "folder" if entry.filename.endswith("/") else "symbolic link" if stat.S_ISLNK(mode) else "file"
        member = Member(entry.filename, kind, entry.file_size, left=entry.file_size)
        with ExitStack() as opened:
            if kind == "file":
                with _damage(path):
                    file = opened.enter_context(archive.open(entry))
                member.take = lambda n, file=file: _zip_read(file, n, path)      # type: ignore[misc]
            yield member
            if kind == "file":
                for _ in member.chunks():
                    pass
        if progress is not None:
            progress(entry.compress_size)


def _zip_read(file: IO[bytes], n: int, path: Path) -> bytes:
    with _damage(path):
        data = file.read(n)
    if len(data) < n:
        raise FormatError(f"{path} is damaged: a member is shorter than the archive says; fetch it again.", path=path)
    return data
