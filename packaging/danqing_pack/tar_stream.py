"""The tar format itself: headers as bytes, and a reader that meets anything with members or one sentence.

Written for checkpoints from strangers, so it knows less than `tarfile` and is strict about it: regular files and
folders in the v7, ustar, pax and GNU (long name) dialects. Everything else a header can say (links, devices, sparse
files, multiple volumes) is named to the caller, who refuses it. No header makes it read over `MAX_EXTENSION` bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .errors import FormatError, UnsafeError

BLOCK = 512
MAX_EXTENSION = 1 << 20
"""Bytes of one pax or long-name extension; real ones have some hundred."""
MAX_EXTENSIONS = 8
"""Extensions before one member; real ones have up to three."""
CHUNK = 1 << 20

_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "hard link", b"2": "symbolic link",
          b"3": "character device", b"4": "block device", b"6": "named pipe", b"S": "sparse file",
          b"D": "dump of a folder", b"M": "part of another volume", b"V": "volume label"}
_EXTENSIONS = (b"x", b"g", b"L", b"K")
_ZEROS = bytes(BLOCK)


def header(name: str, size: int) -> bytes:
    """The header of a regular file: owner 0, time 0, mode 0644; pax records only for what ustar cannot hold."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What fills the last block of a member."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)


@dataclass
class Member:
    """One entry. `read` gives its content in order; what is left unread is passed over."""

    name: str
    kind: str
    """`file`, `folder`, or what it is instead."""
    size: int
    target: str = ""
    """Where a link leads."""
    left: int = field(default=0, repr=False)
    take: Callable[[int], bytes] = field(default=lambda n: b"", repr=False)

    def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, all that are left for -1; empty at the end."""
        data = self.take(self.left if n < 0 else min(n, self.left))
        self.left -= len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """The rest in pieces of at most 1 MiB."""
        while self.left:
            yield self.read(CHUNK)


class TarReader:
    """Iterate the members of a tar stream.

    read: returns exactly the bytes asked for, fewer only at the end of the stream.
    place: what messages call the archive.
    """

    def __init__(self, read: Callable[[int], bytes], place: str) -> None:
        self._read, self._place = read, place

    def __iter__(self) -> Iterator[Member]:
        extensions: dict[str, bytes] = {}
        extended = 0
        while (block := self._exactly(BLOCK)) != _ZEROS:
            fields = _Fields(block, self._place)
            if fields.kind in _EXTENSIONS:
                extended += 1
                self._extend(extensions, fields, extended)
                continue
            member = self._member(fields, extensions)
            yield member
            for _ in member.chunks():
                pass
            self._exactly(-member.size % BLOCK)
            extensions, extended = {}, 0
        if extensions:
            raise FormatError(f"{self._place} is damaged: it ends after an extended header; fetch it again.")
        self._end()

    def _exactly(self, n: int) -> bytes:
        data = self._read(n)
        if len(data) < n:
            raise FormatError(f"{self._place} is cut off: it ends before its end mark; fetch it again.")
        return data

    def _extend(self, extensions: dict[str, bytes], fields: _Fields, extended: int) -> None:
        if fields.size > MAX_EXTENSION or extended > MAX_EXTENSIONS:
            raise UnsafeError(f"{self._place} holds header extensions beyond any use ({extended} in a row, the last of "
                              f"{fields.size} bytes); do not use it.")
        data = self._exactly(fields.size)
        self._exactly(-fields.size % BLOCK)
        if fields.kind in (b"L", b"K"):
            extensions["path" if fields.kind == b"L" else "linkpath"] = data.split(b"\0", 1)[0]
            return
        records = dict(_pax_records(data, self._place))
        if fields.kind == b"x":
            extensions.update(records)
        elif not records.keys().isdisjoint(("path", "linkpath", "size")) or _sparse(records):
            raise UnsafeError(f"{self._place} renames or resizes all its members at once (a global pax header); "
                              "pack it anew.")

    def _member(self, fields: _Fields, extensions: dict[str, bytes]) -> Member:
        kind = _KINDS.get(fields.kind, f"member of unknown type {fields.kind!r}")
        size = fields.size
        if "size" in extensions:
            if not extensions["size"].isdigit() or len(extensions["size"]) > 20:
                raise FormatError(f"{self._place} is damaged: a member's size is no number; fetch it again.")
            size = int(extensions["size"])
        name = _text(extensions.get("path", fields.name), self._place)
        if kind == "file" and name.endswith("/"):       # v7 has no type for folders
            kind = "folder"
        if kind == "file" and _sparse(extensions):
            kind = "sparse file"
        if kind != "file":      # a link may repeat the size of what it leads to, and no data follows
            size = 0
        member = Member(name, kind, size, _text(extensions.get("linkpath", fields.target), self._place), size)
        member.take = self._exactly
        return member

    def _end(self) -> None:
        """Behind the end mark only zeros may follow: `cat` of two archives, or something hidden, is refused."""
        while data := self._read(CHUNK):
            if data.count(0) != len(data):
                raise FormatError(f"{self._place} holds data behind its end mark; fetch it again or pack it anew.")


class _Fields:
    """The fixed fields of one header block."""

    def __init__(self, block: bytes, place: str) -> None:
        if not is_header(block):
            raise FormatError(f"{place} is damaged: a header's checksum is wrong; fetch it again.")
        self.kind = block[156:157]
        self.size = _number(block[124:136], place)
        self.name, self.target = _string(block[:100]), _string(block[157:257])
        if block[257:263] == b"ustar\0" and (prefix := _string(block[345:500])):
            self.name = prefix + b"/" + self.name


def is_header(block: bytes) -> bool:
    """Whether 512 bytes carry a valid header checksum."""
    if len(block) != BLOCK or block == _ZEROS:
        return False
    stated = block[148:156].strip(b"\0 ")
    if not stated or stated.strip(b"01234567"):
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    signed = sum(rest) - 256 * sum(byte > 127 for byte in rest)     # some old writers add signed bytes
    return int(stated, 8) in (sum(rest), signed)


def _number(data: bytes, place: str) -> int:
    """Octal digits, or GNU's big-endian binary where the first bit is set."""
    if data[0] & 0x80:
        value = int.from_bytes(data[1:], "big")
        if data[0] != 0x80 or value >> 62:
            raise FormatError(f"{place} is damaged: a member's size is no size; fetch it again.")
        return value
    digits = data.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise FormatError(f"{place} is damaged: a member's size is no number; fetch it again.")
    return int(digits or b"0", 8)


def _string(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{place} holds a name that is not UTF-8 ({data[:80]!r}); pack it anew.") from None


def _pax_records(data: bytes, place: str) -> Iterator[tuple[str, bytes]]:
    """`LENGTH KEY=VALUE newline`, again and again; LENGTH counts the whole record."""
    while data.strip(b"\0"):
        digits, space, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = data[len(digits) + 1:length - 1].partition(b"=")
        if not (space and equals and length <= len(data) and data[length - 1:length] == b"\n"):
            raise FormatError(f"{place} is damaged: a pax header cannot be read; fetch it again.")
        yield key.decode(errors="replace"), value
        data = data[length:]


def _sparse(records: dict[str, bytes]) -> bool:
    return any(key.startswith("GNU.sparse.") for key in records)
