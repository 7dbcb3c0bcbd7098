"""What Danqing asks of a model hub. A further hub is one file that keeps to this, and one line in ``hubs.py``."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from .errors import HubError, RequestError


@dataclass(frozen=True)
class Remote:
    """A file as a hub lists it: its size in bytes, and its sha256 or, where a hub keeps it in git, its blob's sha1."""

    name: str
    size: int
    sha256: str | None = None
    git: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of one revision by name; ``commit`` is what to ask for, so that nothing changes in between."""

    commit: str
    files: Mapping[str, Remote]


@dataclass(frozen=True)
class Outgoing:
    """A file that goes to a hub: where its bytes are, how many, and their sha256."""

    name: str
    content: Path | bytes
    size: int
    sha256: str

    @staticmethod
    def of(name: str, data: bytes) -> Outgoing:
        """A file that was made here, out of nothing on the disk."""
        return Outgoing(name, data, len(data), hashlib.sha256(data).hexdigest())

    def read(self) -> bytes:
        """The whole content; for small files."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @cached_property
    def git(self) -> str:
        """The sha1 that git gives the content."""
        return git_digest(self.content)

    def is_at(self, remote: Remote | None) -> bool:
        """Whether the hub holds exactly this under this name."""
        if remote is None or remote.size != self.size:
            return False
        return remote.sha256 == self.sha256 if remote.sha256 else remote.git is not None and remote.git == self.git


def git_digest(content: Path | bytes) -> str:
    """The sha1 of a git blob, in hexadecimal."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Revisions:
    """A repository's branches, each with the commit at its tip where the hub says it, and the names of its tags."""

    branches: Mapping[str, str | None]
    tags: tuple[str, ...] = ()


class Upload(Protocol):
    """One change of a repository: bytes go ahead, unseen by anybody, and one commit makes all of them visible."""

    def add(self, files: Sequence[Outgoing]) -> None:
        """Send the bytes of large files, keep small ones for the commit. What the hub has already is not sent."""

    def commit(self, message: str, removed: Sequence[str] = ()) -> str:
        """Make everything added visible at once and take ``removed`` away; the commit's id."""


class Hub(Protocol):
    """A hub, by its own client: environment variables, tokens, caches, mirrors and proxies are the client's.

    Methods raise what the client raises; ``hub_errors.reach`` makes a HubError of it, without a token.
    """

    @property
    def title(self) -> str:
        """As people call it."""

    @property
    def branch(self) -> str:
        """The branch that is meant where none is named."""

    @property
    def largest_file(self) -> int:
        """In bytes."""

    @property
    def files_per_commit(self) -> int | None:
        """How many files one commit may change; None: any number."""

    @property
    def verifies(self) -> bool:
        """Whether ``fetch`` compares every file with the listed sha256 itself."""

    @property
    def guards(self) -> bool:
        """Whether a commit is refused where its branch has moved on since ``parent``."""

    @property
    def makes_branches(self) -> bool:
        """Whether the client can make a branch."""

    @property
    def remedies(self) -> Mapping[str, str]:
        """What to do about a missing ``token``, and how far an interrupted download can ``resume``; words for a sentence."""

    def endpoint(self) -> str:
        """Where the hub is, without a slash at the end."""

    def address(self, repository: str, revision: str | None = None) -> str:
        """Where a person sees the repository."""

    def secrets(self) -> tuple[str, ...]:
        """The tokens in use: what no message may hold."""

    def offline(self) -> str:
        """The setting by which the user forbade the network, or nothing."""

    def create(self, repository: str, private: bool) -> None:
        """Make an empty repository. One that exists is left as it is."""

    def revisions(self, repository: str) -> Revisions | None:
        """Branches and tags; None: there is no such repository for this token."""

    def is_public(self, repository: str) -> bool:
        """Whether everybody sees a repository that exists."""

    def create_branch(self, repository: str, name: str) -> None:
        """Make a branch where the default one stands; asked only of a hub that ``makes_branches``."""

    def list(self, repository: str, revision: str | None) -> Listing:
        """Every file of a branch, a tag or a commit, with digests."""

    def read(self, repository: str, commit: str, name: str) -> bytes:
        """A small file."""

    def fetch(self, repository: str, listing: Listing, names: Sequence[str], folder: Path) -> None:
        """Download files of a listing below ``folder``; an interrupted one goes on where the client can."""

    def upload(self, repository: str, revision: str, parent: str | None) -> Upload:
        """Begin a change of a branch; ``parent`` is the commit that it builds on, where that is known."""

    def tag(self, repository: str, tag: str, revision: str, commit: str) -> None:
        """Give a commit, which stands at ``revision``, a name that stays."""

    def snapshot(self, repository: str, revision: str | None, without: Sequence[str] | None = ()) -> Path:
        """Fetch a repository ``without`` some files into the client's own cache, or find it there; its folder.

        None: the hub does not say which, and a cache that lacks ``needless`` files is good enough.
        """


@dataclass(frozen=True)
class Repository:
    """``hf:org/name@revision`` in its parts."""

    hub: str
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.hub}:{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse(text: str, hubs: Mapping[str, object], revision: str | None = None) -> Repository:
    """A repository as people write it: ``hf:org/name``, ``ms:org/name@v1.0.0``.

    Raises:
        RequestError: it is written otherwise, or names a revision twice.
    """
    hub, _, rest = text.partition(":")
    name, at, named = rest.partition("@")
    parts = name.split("/")
    allowed = all(part and not part.startswith((".", "-")) and _plain(part) for part in parts)
    if hub not in hubs or len(parts) != 2 or not allowed or at and not named:
        forms = " or ".join(f"{each}:org/name" for each in hubs)
        raise RequestError(f"{text} names no repository: write {forms}, with @revision behind it if need be.")
    if named and revision and named != revision:
        raise RequestError(f"{text} names the revision {named} and --revision names {revision}: name one of them.")
    chosen = named or revision or None
    if chosen:
        check_revision(chosen)
    return Repository(hub, name, chosen)


def check_revision(name: str) -> None:
    """RequestError: no hub takes ``name`` for a branch or a tag."""
    parts = name.split("/")
    if not all(_plain(part) and not part.startswith((".", "-")) for part in parts) or ".." in name or name.endswith((".", ".lock")):
        raise RequestError(f"{name!r} is no name for a revision: use letters, digits, dots, dashes and underscores.")


def _plain(word: str) -> bool:
    return bool(word) and all(letter.isalnum() or letter in "-_." for letter in word)


def unsafe_names(names: Sequence[str], anywhere: bool = sys.platform == "win32") -> list[str]:
    """The names that would leave a folder, touch a git repository in it, or that no file system keeps as they are.

    ``anywhere``: also those that Windows reads as something else, ``C:x`` and ``nul.json`` among them.
    """
    return [name for name in names if not name or name.startswith("/") or "\\" in name or "\0" in name
            or any(part in ("", ".", "..") or part.lower() == ".git" or len(part.encode()) > 255 for part in name.split("/"))
            or any(ord(letter) < 32 for letter in name)
            or anywhere and any(_DEVICE.match(part) or part.endswith((".", " ")) or set(part) & set('<>:"|?*')
                                for part in name.split("/"))]


_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

__all__ = ["Hub", "HubError", "Listing", "Outgoing", "Remote", "Repository", "Revisions", "Upload", "check_revision",
           "git_digest", "parse", "unsafe_names"]
