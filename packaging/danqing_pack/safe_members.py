"""Which members of an archive may be laid down, and under which names.

A member is refused by a sentence that names it; nothing is mended, since a checkpoint packed in good faith has none of
this. Refused: absolute names, `..`, backslashes, control characters, names that are too long or too deep, links (also
those that stay inside: a bundle of links into a cache is of no use where it is unpacked), devices, pipes, sparse files,
two members for one place (also where only case or Unicode form differs), too many members, and too many bytes.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from .errors import UnsafeError
from .tar_stream import Member

MAX_MEMBERS = 10_000
MAX_DEPTH = 32


def safe_members(members: Iterator[Member], path: Path, limit: int) -> Iterator[Member]:
    """The files among `members` under clean names; UnsafeError for whatever should not be laid down."""
    claimed: dict[str, tuple[str, str]] = {}
    total = 0
    for count, member in enumerate(members, 1):
        if count > MAX_MEMBERS:
            raise UnsafeError(f"{path} holds more than {MAX_MEMBERS} members: no checkpoint does; do not use it.",
                              path=path)
        member.name = clean_name(member.name, str(path))
        if member.kind not in ("file", "folder"):
            leads = f" to {member.target!r}" if member.target else ""
            raise UnsafeError(f"{path} holds a {member.kind}{leads} at {member.name!r}, and a bundle holds plain files "
                              "alone: pack the files themselves (danqing pack, or tar -h).", path=path,
                              member=member.name, kind=member.kind)
        if _of_a_mac(member.name):
            continue
        claim(member.name, member.kind, claimed, path)
        total += member.size
        if total > limit:
            raise too_large(path)
        if member.kind == "file":
            yield member


def clean_name(name: str, place: str) -> str:
    """A member's name as a relative path without `.` and empty parts. UnsafeError: it could lead anywhere else."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    fact = ("is absolute" if name.startswith("/") or name[1:2] == ":" and name[0].isascii() and name[0].isalpha()
            else "leads out of the archive" if ".." in parts
            else "holds a backslash" if "\\" in name
            else "holds control characters" if any(unicodedata.category(each) in ("Cc", "Cs") for each in name)
            else "is too long" if len(parts) > MAX_DEPTH or len(name) > 1024
            else "is too long" if any(len(os.fsencode(part)) > 255 for part in parts)
            else "")
    if fact:
        raise UnsafeError(f"{place}: the name {name[:200]!r} {fact}; do not use this archive.", member=name)
    return "/".join(parts)


def claim(name: str, kind: str, claimed: dict[str, tuple[str, str]], path: Path) -> None:
    """Enter a name and the folders above it; UnsafeError where one place would be written twice."""
    parts = name.split("/") if name else []
    for depth in range(1, len(parts) + 1):
        place = "/".join(parts[:depth])
        own = (kind if depth == len(parts) else "folder", place)
        other = claimed.setdefault(unicodedata.normalize("NFC", place).casefold(), own)
        if other[1] != place:
            raise UnsafeError(f"{path} holds {other[1]!r} and {place!r}, one place on some disks; do not use it.",
                              path=path, member=name)
        if other is not own and (other[0] == "file" or own[0] == "file"):
            raise UnsafeError(f"{path} holds {place!r} twice; do not use it.", path=path, member=name)
    if kind == "file" and not parts:
        raise UnsafeError(f"{path} holds a file without a name; do not use it.", path=path, member=name)


def _of_a_mac(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def too_large(path: Path) -> UnsafeError:
    """What is said of a compression bomb."""
    return UnsafeError(f"{path} unpacks to far more than its size lets expect, as a compression bomb does: if you "
                       "trust it, unpack it with a higher limit (limit=BYTES).", path=path)
