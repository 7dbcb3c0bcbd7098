"""One pull at a time: of a revision, whose files the next one then takes over, and into a folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .hub import Hub, Listing, Repository

Say = Callable[[str], None]


class Last:
    """Where the last pull of a revision put its files; what a lock file remembers."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder


def lock_of(hub: Hub, repository: Repository, there: Listing) -> Path | None:
    """The lock file of a revision, None where there is no place for it."""
    key = "\0".join((repository.hub, hub.endpoint(), repository.name, there.commit))
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:                # a user without a home, as in some containers
        return None
    return cache / "danqing" / "pulls" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@contextmanager
def turn(path: Path | None, say: Say, repository: Repository) -> Iterator[Last]:
    """Hold the lock of a revision; without a place for it there is none to wait for."""
    descriptor = None
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if descriptor is None:
        yield Last(None)
        return
    try:
        _lock(descriptor, lambda: say(f"Waiting for another pull of {repository}"))
        last = Last(_remembered(descriptor))
        yield last
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps({"folder": str(last.folder)}).encode())
    finally:
        os.close(descriptor)


def _remembered(descriptor: int) -> Path | None:
    try:
        return Path(json.loads(os.read(descriptor, 1 << 16))["folder"])
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def partial_folder(target: Path) -> Iterator[tuple[Path, bool]]:
    """The hidden folder of a target, held against a pull of anything else into it; and whether that was waited for."""
    waited = False
    while True:
        partial = _partial_of(target)
        partial.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":     # where folders cannot be opened
            yield partial, False
            return
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            waited = _lock(descriptor, None) or waited
            # Whoever held it before may have renamed it to the target, or removed it.
            if _partial_of(target) == partial and _is(descriptor, partial):
                yield partial, waited
                return
        finally:
            os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _partial_of(target: Path) -> Path:
    name = f".danqing-pull-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    return target / name if target.exists() else target.with_name(name)


def _lock(descriptor: int, waiting: Callable[[], None] | None) -> bool:
    """Hold a lock; whether it was waited for. Where a system or a file system has none, nobody waits."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting:
            waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except OSError:
        pass
    return False
