"""torch's zip files: where each record lies, and a writer of the same form.

torch stores its records uncompressed and aligns their data to 64 bytes, so that tensors are read where they lie. The
writer lays records out as torch does, with sizes and checksums behind the data, and so needs one pass.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib

from .digests import HashedFile
from .errors import FormatError, listing
from .mapped_files import Bytes, MappedFile

_LARGEST_PICKLE = 256 << 20
_ALIGNMENT = 64
_LOCAL, _DESCRIPTOR, _CENTRAL = b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02"
_END64, _LOCATOR, _END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"
_ENCRYPTED, _STREAMED, _UTF8 = 0x1, 0x8, 0x800
_STORED, _DEFLATED = 0, 8
_WIDE = _ELSEWHERE = 0xFFFFFFFF
"""From _WIDE on a size or an offset goes into a zip64 field, and _ELSEWHERE stands in its old place."""


@dataclass(frozen=True)
class Record:
    """One record: its data are the ``packed`` bytes at ``offset``, as they are or, if not ``stored``, deflated."""

    name: str
    offset: int
    packed: int
    size: int
    checksum: int
    """0 where torch was told to write none."""
    stored: bool


class TorchArchive:
    """The records of a file that ``torch.save`` wrote, by their name without the archive's own.

    Raises:
        FormatError: the file is cut short, is another kind of zip file, or its directory does not describe it.
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        entries = _directory(file)
        root = _root(file, [entry.filename for entry in entries])
        self._entries = {entry.filename.removeprefix(root): entry for entry in entries}
        if "constants.pkl" in self._entries:
            raise FormatError(f"{file.path} is a TorchScript archive, which holds code; save the model's state dict "
                              "instead.", path=file.path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def record(self, name: str) -> Record:
        """Where a record lies. Raises FormatError where there is none, or where its entry is false."""
        entry = self._entries.get(name)
        if entry is None:
            raise FormatError(f"{self.file.path} has no record {name}, which its tensors lie in; fetch it again.",
                              path=self.file.path, record=name)
        return _located(self.file, entry)

    def read(self, name: str) -> bytes:
        """A small record's content, checked. Raises FormatError where it is damaged."""
        record = self.record(name)
        if record.size > _LARGEST_PICKLE:
            raise FormatError(f"{self.file.path} holds {record.size} bytes in {name}, more than any state dict needs; "
                              "check what was fetched.", path=self.file.path, record=name)
        content = inflated(self.file, record)
        if record.checksum and isal_zlib.crc32(content) != record.checksum:
            raise _damaged(self.file, f"{name} does not match its checksum")
        return content.tobytes()

    def damaged_records(self) -> list[str]:
        """The names of all records whose data do not match their checksum; reads the whole file."""
        records = {name: self.record(name) for name in self}
        return [name for name, record in records.items()
                if record.checksum and record.checksum != _checksum(self.file, record)]


def inflated(file: MappedFile, record: Record) -> Bytes:
    """A record's data: a view of the file, or, where somebody has compressed it, an array in memory."""
    raw = file.bytes[record.offset:record.offset + record.packed]
    if record.stored:
        return raw
    try:
        content = zlib.decompressobj(-15).decompress(raw.tobytes(), record.size + 1)
    except zlib.error as error:
        raise _damaged(file, f"{record.name} cannot be inflated") from error
    if len(content) != record.size:
        raise _damaged(file, f"{record.name} inflates to another size than it says")
    return np.frombuffer(content, np.uint8)


def _checksum(file: MappedFile, record: Record) -> int | None:
    if not record.stored:
        try:
            return isal_zlib.crc32(inflated(file, record))
        except FormatError:
            return None
    checksum, buffer = 0, np.empty(1 << 20, np.uint8)
    for start in range(0, record.size, len(buffer)):
        part = buffer[:min(len(buffer), record.size - start)]
        file.read_into(part, record.offset + start)
        checksum = isal_zlib.crc32(part, checksum)
    return checksum


# ---------------------------------------------------------------- the directory

def _directory(file: MappedFile) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except zipfile.BadZipFile as error:
        raise FormatError(f"{file.path} is cut short or damaged: the directory at its end is missing or "
                          "wrong; fetch it again.", path=file.path) from error
    except (ValueError, NotImplementedError, OverflowError, IndexError, struct.error, OSError) as error:
        raise _damaged(file, f"its directory cannot be read ({error})") from error
    twice = sorted(name for name, count in Counter(entry.filename for entry in entries).items() if count > 1)
    if twice:
        raise _damaged(file, f"it holds {listing(twice, 3)} more than once")
    return entries


def _root(file: MappedFile, names: list[str]) -> str:
    """The folder inside the archive that everything lies in, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") <= 1
             and (name == "data.pkl" or name.endswith("/data.pkl"))]
    if len(roots) != 1:
        held = listing(sorted(names), 4) or "nothing"
        raise FormatError(f"{file.path} is a zip archive but none of torch's: it holds {held}; unpack it and name the "
                          "checkpoint inside.", path=file.path)
    return roots[0]


def _located(file: MappedFile, entry: zipfile.ZipInfo) -> Record:
    start = entry.header_offset
    header = file.bytes[start:start + 30].tobytes() if 0 <= start else b""
    if len(header) < 30 or not header.startswith(_LOCAL):
        raise _damaged(file, f"{entry.filename} is not where its directory says")
    offset = start + 30 + sum(struct.unpack("<HH", header[26:]))
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (_STORED, _DEFLATED):
        raise FormatError(f"{file.path} holds {entry.filename} encrypted or compressed in a way torch does not; save "
                          "it with torch.save.", path=file.path, record=entry.filename)
    if offset + entry.compress_size > file.size:
        raise FormatError(f"{file.path} is cut short: {entry.filename} ends at byte {offset + entry.compress_size} and "
                          f"the file at {file.size}; fetch it again.", path=file.path)
    stored = entry.compress_type == _STORED
    # Deflate shrinks to a thousandth at best.
    if entry.file_size != entry.compress_size if stored else entry.file_size > 1040 * entry.compress_size + 64:
        raise _damaged(file, f"{entry.filename} cannot have the size its directory says")
    return Record(entry.filename, offset, entry.compress_size, entry.file_size, entry.CRC, stored)


def _damaged(file: MappedFile, fact: str) -> FormatError:
    return FormatError(f"{file.path} is damaged: {fact}; fetch it again.", path=file.path)


# ---------------------------------------------------------------- writing

@dataclass(frozen=True)
class _Written:
    name: bytes
    start: int
    size: int
    checksum: int


class ArchiveWriter:
    """Appends records to a file, and the directory at the end."""

    def __init__(self, file: HashedFile, root: str) -> None:
        self._file, self._root = file, root
        self._written: list[_Written] = []

    def add(self, name: str, size: int, write: Callable[[HashedFile], int]) -> None:
        """A record of this size, whose data ``write`` appends, returning their CRC-32."""
        full, start = f"{self._root}/{name}".encode(), self._file.position
        wide = size >= _WIDE
        self._file.write(_local_header(full, start, wide))
        checksum = write(self._file)
        self._file.write(_DESCRIPTOR + struct.pack("<IQQ" if wide else "<III", checksum, size, size))
        self._written.append(_Written(full, start, size, checksum))

    def add_bytes(self, name: str, data: bytes) -> None:
        """A small record."""
        def write(file: HashedFile) -> int:
            file.write(data)
            return isal_zlib.crc32(data)

        self.add(name, len(data), write)

    def close(self) -> None:
        """Write the directory, with zip64 fields as torch always does."""
        start = self._file.position
        for written in self._written:
            self._file.write(_central_header(written))
        end, count = self._file.position, len(self._written)
        self._file.write(_END64 + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, end - start, start))
        self._file.write(_LOCATOR + struct.pack("<IQI", 0, end, 1))
        count = min(count, 0xFFFF)
        self._file.write(_END + struct.pack("<HHHHIIH", 0, 0, count, count, _short(end - start), _short(start), 0))


def _local_header(name: bytes, start: int, wide: bool) -> bytes:
    """Sizes and checksum are 0: they follow the data. The padding field brings the data to a multiple of 64."""
    extra = struct.pack("<HHQQ", 1, 16, 0, 0) if wide else b""
    padding = -(start + 30 + len(name) + len(extra) + 4) % _ALIGNMENT
    extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
    size = _ELSEWHERE if wide else 0
    return _LOCAL + struct.pack("<HHHHHIIIHH", 45 if wide else 0, _STREAMED | _UTF8, _STORED, 0, 0, 0, size, size,
                                len(name), len(extra)) + name + extra


def _central_header(written: _Written) -> bytes:
    wide = [value for value in (written.size, written.size, written.start) if value >= _WIDE]
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version, size = 45 if wide else 0, _short(written.size)
    return _CENTRAL + struct.pack(
        "<HHHHHHIIIHHHHHII", version, version, _STREAMED | _UTF8, _STORED, 0, 0, written.checksum, size, size,
        len(written.name), len(extra), 0, 0, 0, 0, _short(written.start)) + written.name + extra


def _short(value: int) -> int:
    return value if value < _WIDE else _ELSEWHERE
