"""From a hub to a folder: only what is missing is fetched, everything is verified, and the folder appears whole.

Files arrive in a hidden folder beside the target, which stays after a failure, so that the same command goes on from
there. It carries a lock, and so does the model: of several pulls of one revision, the first downloads and the others
take the files from where it put them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from . import manifests
from .errors import HubError, RequestError, UnsafeError, listing
from .following import Following
from .hub import Hub, Listing, Remote, Repository, git_digest, unsafe_names
from .hub_errors import reach, unwritable
from .hubs import HUBS, parse
from .tensors import sha256_of
from .wildcards import chosen

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pull:
    """What a pull did: the folder, its files that the hub has, and how they were verified."""

    repository: Repository
    folder: Path
    files: tuple[str, ...]
    new: tuple[str, ...]
    """What the folder lacked before."""
    size: int
    """Bytes that travelled; the rest of ``new`` was copied from an earlier pull."""
    listed: int
    """How many files danqing.json lists; 0 for a foreign repository."""

    def describe(self) -> str:
        """The line at the end."""
        done = (f"Pulled {len(self.new)} of {len(self.files)} files, {self.size / 1e6:,.1f} MB fetched" if self.new
                else f"Nothing to pull, all {len(self.files)} files were there")
        against = f"the hub and {manifests.NAME}" if self.listed else "the hub"
        return f"{done}; all digests equal those of {against}: {self.folder}"


def pull(source: str, target: str | Path, *, revision: str | None = None, include: Sequence[str] = (),
         exclude: Sequence[str] = (), force: bool = False, say: Say = lambda line: None) -> Pull:
    """Bring a repository (``hf:org/name@revision``) into the folder ``target``; one that exists is completed.

    Files of ``target`` that the hub does not have stay. Files that differ from the hub's are replaced with ``force``
    only.

    Raises:
        HubError: there is no such repository, it cannot be reached, or a digest is wrong; ``target`` is as it was.
        RequestError: ``target`` holds other files under these names, or is no folder. UnsafeError: names that would
        leave the folder.
    """
    repository, target = parse(source, revision), Path(os.path.abspath(target))
    hub = HUBS[repository.hub]
    if target.is_symlink() or target.exists() and not target.is_dir():
        raise RequestError(f"{target} is no folder: choose another place.")
    if hub.offline():
        return _from_cache(hub, repository, target)
    there = reach(hub, f"{repository} cannot be pulled", lambda: hub.list(repository.name, repository.revision))
    if unsafe := unsafe_names(list(there.files)):
        raise UnsafeError(f"{repository} has names that would leave the folder: {listing([repr(each) for each in unsafe])}; "
                          "do not use it.")
    files = {name: file for name, file in there.files.items() if chosen(name, include, exclude)}
    if not files:
        raise HubError(f"{repository} holds no file" + (" that --include and --exclude leave." if there.files else "."))
    try:
        with _turn(_lock_of(hub, repository, there), say, repository) as last:
            return _complete(hub, repository, there, files, target, force, last)
    except OSError as error:
        raise unwritable(target, error) from error


def _complete(hub: Hub, repository: Repository, there: Listing, files: Mapping[str, Remote], target: Path, force: bool,
              last: _Last) -> Pull:
    missing = _missing(files, target, force)
    digests: dict[str, str] = {}
    if missing:
        with _partial(hub, repository, target) as partial:
            _drop_wrong(partial, files, missing)
            _take(partial, files, missing, last.folder)
            digests = _fetch(hub, repository, there, [name for name in missing if not (partial / name).is_file()], partial)
            listed = _compare_manifest(repository, partial, target, files, digests)
            _put(partial, target, missing)
    else:
        listed = _compare_manifest(repository, target, target, files, digests)
    last.folder = target
    return Pull(repository, target, tuple(files), tuple(missing), sum(files[name].size for name in digests), listed)


# ---- what is here already

def holds(path: Path, remote: Remote) -> bool:
    """Whether a file here is the one on the hub, by digest."""
    try:
        if not path.is_file() or path.stat().st_size != remote.size:
            return False
    except OSError:
        return False
    if remote.sha256:
        return sha256_of(path) == remote.sha256
    return remote.git is not None and git_digest(path) == remote.git


def _missing(files: Mapping[str, Remote], target: Path, force: bool) -> list[str]:
    absent = [name for name in files if not (target / name).exists()]
    others = [name for name, remote in files.items() if (target / name).exists() and not holds(target / name, remote)]
    if others and not force:
        raise RequestError(f"{target} holds files that differ from those on the hub: {listing(sorted(others))}; choose "
                           "another place, or replace them with --force.", files=others)
    return [*absent, *others]


def _drop_wrong(partial: Path, files: Mapping[str, Remote], missing: Sequence[str]) -> None:
    """Keep what an interrupted pull brought, unless the hub has something else by now."""
    for name in missing:
        path = partial / name
        if path.exists() and not holds(path, files[name]):
            path.unlink()


def _take(partial: Path, files: Mapping[str, Remote], missing: Sequence[str], last: Path | None) -> None:
    """Copy from where the last pull of this very revision put its files, unless they were changed there since."""
    if last is None or not last.is_dir():
        return
    for name in missing:
        copy = partial / name
        if not copy.exists() and (last / name).is_file() and (last / name).stat().st_size == files[name].size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(last / name, copy)
            if not holds(copy, files[name]):
                copy.unlink()


def _fetch(hub: Hub, repository: Repository, there: Listing, names: Sequence[str], partial: Path) -> dict[str, str]:
    """Download files and verify them; the sha256 of each."""
    if not names:
        return {}
    after = f"what arrived whole is kept and the same command goes on from there; {hub.remedies['resume']}"
    with Following(partial) as following:
        if hub.verifies:
            following.stop()
        reach(hub, f"{repository} was not pulled", lambda: hub.fetch(repository.name, there, names, partial), after)
        following.stop()
        if lost := [name for name in names if not (partial / name).is_file()]:
            raise HubError(f"{repository} was not pulled: {len(lost)} files did not arrive ({listing(lost, 4)}); check the "
                           f"connection and try again; {after}.")
        digests, wrong = {}, []
        for name in names:
            digest = _digest(hub, partial / name, there.files[name], following)
            if digest is None:
                wrong.append(name)
                (partial / name).unlink()
            else:
                digests[name] = digest
    if wrong:
        raise HubError(f"{repository} was not pulled: the bytes that arrived are not those that the hub lists for "
                       f"{listing(wrong)}; try again.", files=wrong)
    return digests


def _digest(hub: Hub, path: Path, remote: Remote, following: Following) -> str | None:
    """The sha256 of a file that has arrived; None: it is not the hub's."""
    if path.stat().st_size != remote.size:
        return None
    if remote.sha256 is None:
        return sha256_of(path) if remote.git in (None, git_digest(path)) else None
    if hub.verifies or following.sha256(path) == remote.sha256 or sha256_of(path) == remote.sha256:
        return remote.sha256
    return None


def _compare_manifest(repository: Repository, arrived: Path, target: Path, files: Mapping[str, Remote],
                      digests: Mapping[str, str]) -> int:
    """Whether the files are those that danqing.json lists, wherever each lies now; how many it lists.

    What the hub has a sha256 for was compared with that one.
    """
    manifest = manifests.read(arrived if (arrived / manifests.NAME).is_file() else target)
    if not manifest or manifests.NAME not in files:
        return 0
    listed = {name: digest for name, digest in manifest["files"].items() if name in files}
    known = {name: files[name].sha256 or digests.get(name)
             or sha256_of((arrived if (arrived / name).is_file() else target) / name) for name in listed}
    if wrong := sorted(name for name in listed if known[name] != listed[name]):
        raise HubError(f"{repository} was not pulled: on the hub {listing(wrong)} differ from what its {manifests.NAME} lists; "
                       "ask its owner to push again, or choose another revision.", files=wrong)
    return len(listed)


# ---- putting it in place

def _put(partial: Path, target: Path, names: Sequence[str]) -> None:
    """Into a new folder in one rename; into one that exists file by file, danqing.json last."""
    if not target.exists():
        _strip(partial, set(names))
        os.rename(partial, target)
        return
    for name in sorted(names, key=lambda each: each == manifests.NAME):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, target / name)
    shutil.rmtree(partial, ignore_errors=True)


def _strip(folder: Path, names: set[str]) -> None:
    """Leave nothing but these files: clients keep notes beside what they fetch."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):     # not empty
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names:
            path.unlink()


def _from_cache(hub: Hub, repository: Repository, target: Path) -> Pull:
    """Without the network: copy what the client's cache holds."""
    from .layouts.layout import relative_files
    from .staging import staged_folder

    found = reach(hub, f"{repository} cannot be pulled", lambda: hub.snapshot(repository.name, repository.revision))
    names = tuple(relative_files(found))
    with staged_folder(target) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found / name, folder / name)
        if problems := manifests.verify(folder):
            raise HubError(f"{repository} in the cache of {hub.title} is damaged: {problems[0]}", problems=problems)
    listed = len(manifests.read(target).get("files", {}))
    return Pull(repository, target, names, names, 0, listed)


# ---- one at a time

class _Last:
    """Where the last pull of a revision put its files; what a lock file remembers."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder


def _lock_of(hub: Hub, repository: Repository, there: Listing) -> Path:
    key = "\0".join((repository.hub, hub.endpoint(), repository.name, there.commit))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "danqing" / "pulls" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@contextmanager
def _turn(path: Path, say: Say, repository: Repository) -> Iterator[_Last]:
    """Hold the lock of a revision; without a place for it there is none to wait for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield _Last(None)
        return
    try:
        _lock(descriptor, lambda: say(f"Waiting for another pull of {repository}"))
        last = _Last(_remembered(descriptor))
        yield last
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"folder": str(last.folder)}).encode(), 0)
    finally:
        os.close(descriptor)


def _remembered(descriptor: int) -> Path | None:
    try:
        return Path(json.loads(os.pread(descriptor, 1 << 16, 0))["folder"])
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _partial(hub: Hub, repository: Repository, target: Path) -> Iterator[Path]:
    """The hidden folder beside the target, held against a pull of something else into the same target."""
    key = "\0".join((repository.hub, hub.endpoint(), repository.name, target.name))
    partial = target.with_name(f".danqing-pull-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        _lock(descriptor, None)
        partial.mkdir(exist_ok=True)
        yield partial
    finally:
        os.close(descriptor)


def _lock(descriptor: int, waiting: Callable[[], None] | None) -> None:
    """Wait for a lock; where a system or a file system has none, nobody waits."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting:
            waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return
