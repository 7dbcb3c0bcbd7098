"""From a hub to a folder: only what is missing is fetched, everything is verified, and the folder appears whole.

Files arrive in a hidden folder, beside a target that is to be made and inside one that exists (which may be a disk of its
own), and it stays after a failure, so that the same command goes on from there. It carries a lock, and so does the
model: of several pulls of one revision, the first downloads and the others take the files from where it put them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import manifests
from .errors import FormatError, HubError, RequestError, UnsafeError, listing
from .following import Following
from .hub import Hub, Listing, Remote, Repository, git_digest, unsafe_names
from .hub_errors import reach, unwritable
from .hubs import HUBS, parse
from .layouts.layout import relative_files
from .tensors import sha256_of
from .turns import Say, lock_of, partial_folder, turn
from .wildcards import chosen

Bring = Callable[[Sequence[str], Path], dict[str, str]]
"""Fetches files into a folder; the sha256 of each."""


@dataclass(frozen=True)
class Pull:
    """What a pull did: the folder, its files that the hub has, and how they were verified."""

    repository: Repository
    folder: Path
    files: tuple[str, ...]
    new: tuple[str, ...]
    """What the folder lacked before."""
    size: int
    """Bytes that travelled; the rest of ``new`` was copied from an earlier pull, or from the client's cache."""
    listed: int
    """How many files danqing.json lists; 0 for a foreign repository."""
    removed: tuple[str, ...] = ()
    """What another model's danqing.json listed in the folder and ``force`` took away."""
    lacking: tuple[str, ...] = ()
    """What danqing.json lists and the hub does not hold."""
    cache: str = ""
    """Whose cache the files came from, without the network."""

    def describe(self) -> str:
        """The line at the end."""
        fetched = f"from the cache of {self.cache}" if self.cache else f"{self.size / 1e6:,.1f} MB fetched"
        done = (f"Pulled {len(self.new)} of {len(self.files)} files, {fetched}" if self.new
                else f"Nothing to pull, all {len(self.files)} files were there")
        removed = f", {len(self.removed)} of another model removed" if self.removed else ""
        against = " and ".join([self.cache and "that cache" or "the hub"] + [manifests.NAME] * bool(self.listed))
        lacking = f" ({manifests.NAME} lists more, which the hub lacks: {listing(self.lacking, 4)})" if self.lacking else ""
        return f"{done}{removed}; all digests equal those of {against}{lacking}: {self.folder}"


def pull(source: str, target: str | Path, *, revision: str | None = None, include: Sequence[str] = (),
         exclude: Sequence[str] = (), force: bool = False, say: Say = lambda line: None) -> Pull:
    """Bring a repository (``hf:org/name@revision``) into the folder ``target``; one that exists is completed.

    Files of ``target`` that the hub does not have stay. Files that differ from the hub's are replaced with ``force``
    only, and with it go those that the danqing.json of another model lists, unchanged, and this one has not.

    Raises:
        HubError: there is no such repository, it cannot be reached, or a digest is wrong; ``target`` is as it was.
        RequestError: ``target`` holds other files under these names, or is no folder. UnsafeError: names that would
        leave the folder.
    """
    repository, target = parse(source, revision), Path(os.path.abspath(target))
    hub = HUBS[repository.hub]
    if target.is_symlink() or target.exists() and not target.is_dir():
        raise RequestError(f"{target} is no folder: choose another place.")
    wanted = _Wanted(repository, target, tuple(include), tuple(exclude), force)
    try:
        if hub.offline():
            return _from_cache(hub, wanted)
        there = reach(hub, f"{repository} cannot be pulled", lambda: hub.list(repository.name, repository.revision))
        wanted.refuse_unsafe(there)
        with turn(lock_of(hub, repository, there), say, repository) as last:
            done = _complete(wanted, there, last.folder, lambda names, place: _fetch(hub, repository, there, names, place))
            last.folder = target
            return done
    except OSError as error:
        raise unwritable(target, error) from error


@dataclass(frozen=True)
class _Wanted:
    """What is asked for."""

    repository: Repository
    target: Path
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    force: bool

    def refuse_unsafe(self, there: Listing) -> None:
        if unsafe := unsafe_names(list(there.files)):
            raise UnsafeError(f"{self.repository} has names that would leave the folder: "
                              f"{listing([repr(each) for each in unsafe])}; do not use it.")

    def of(self, there: Listing) -> dict[str, Remote]:
        """The files that --include and --exclude leave. HubError: none."""
        files = {name: file for name, file in there.files.items() if chosen(name, self.include, self.exclude)}
        if not files:
            raise HubError(f"{self.repository} holds no file" + (" that --include and --exclude leave." if there.files else "."))
        return files

    @property
    def whole(self) -> bool:
        return not self.include and not self.exclude


def _complete(wanted: _Wanted, there: Listing, last: Path | None, bring: Bring) -> Pull:
    """Have ``bring`` fetch what the target lacks; the digests of what it brought."""
    repository, target, files = wanted.repository, wanted.target, wanted.of(there)
    existed = target.exists()
    missing = _missing(files, target, wanted.force)
    digests: dict[str, str] = {}
    stale: list[str] = []
    if missing:
        with partial_folder(target) as (partial, waited):
            if waited or target.exists() != existed:        # somebody else has put files there meanwhile
                missing = _missing(files, target, wanted.force)
            _drop_wrong(partial, files, missing)
            _take(partial, files, missing, last)
            digests = bring([name for name in missing if not (partial / name).is_file()], partial)
            listed = _compare_manifest(repository, partial, target, files, digests)
            stale = _stale(target, files) if wanted.force and wanted.whole else []
            _put(partial, target, missing, stale)
    else:
        listed = _compare_manifest(repository, target, target, files, digests)
    lacking = tuple(sorted(name for name in listed if name not in there.files))
    return Pull(repository, target, tuple(files), tuple(missing), sum(files[name].size for name in digests),
                len(listed) - len(lacking), tuple(stale), lacking)


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


def _stale(target: Path, files: Mapping[str, Remote]) -> list[str]:
    """Files of another model, as it came: beside this one's, a loader might read them instead."""
    try:
        before = manifests.read(target).get("files", {})
    except FormatError:
        return []
    return sorted(name for name, digest in before.items()
                  if name not in files and (target / name).is_file() and sha256_of(target / name) == digest)


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
                      digests: Mapping[str, str]) -> Mapping[str, str]:
    """What danqing.json lists; HubError: a file differs from it, wherever it lies now.

    What the hub has a sha256 for was compared with that one.
    """
    manifest = manifests.read(arrived if (arrived / manifests.NAME).is_file() else target)
    if not manifest or manifests.NAME not in files:
        return {}
    listed: Mapping[str, str] = manifest["files"]
    known = {name: files[name].sha256 or digests.get(name)
             or sha256_of((arrived if (arrived / name).is_file() else target) / name) for name in listed if name in files}
    if wrong := sorted(name for name in known if known[name] != listed[name]):
        raise HubError(f"{repository} was not pulled: on the hub {listing(wrong)} differ from what its {manifests.NAME} lists; "
                       "ask its owner to push again, or choose another revision.", files=wrong)
    return listed


# ---- putting it in place

def _put(partial: Path, target: Path, names: Sequence[str], stale: Sequence[str]) -> None:
    """Into a new folder in one rename; into one that exists file by file, danqing.json last."""
    if not target.exists():
        _strip(partial, set(names))
        os.rename(partial, target)
        return
    for name in stale:
        (target / name).unlink()
        with suppress(OSError):         # not empty
            (target / name).parent.rmdir()
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


# ---- without the network

def _from_cache(hub: Hub, wanted: _Wanted) -> Pull:
    """Copy what the client's cache holds, which may not be the whole repository."""
    repository = wanted.repository
    found = reach(hub, f"{repository} cannot be pulled", lambda: hub.snapshot(repository.name, repository.revision))
    there = Listing("", {name: _cached(found, name) for name in relative_files(found)})
    wanted.refuse_unsafe(there)

    def bring(names: Sequence[str], partial: Path) -> dict[str, str]:
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found / name, partial / name)
        if wrong := [name for name in names if not holds(partial / name, there.files[name])]:
            raise HubError(f"{repository} in the cache of {hub.title} is damaged: {listing(wrong)}; fetch it again with the "
                           "network.", files=wrong)
        return {name: there.files[name].sha256 or sha256_of(partial / name) for name in names}

    listed = set(manifests.read(found).get("files", {})) if wanted.whole else set()
    if lacking := sorted(listed - there.files.keys()):
        raise HubError(f"{repository} cannot be pulled: the cache of {hub.title} lacks {listing(lacking)}; unset "
                       f"{hub.offline()}.", files=lacking)
    return replace(_complete(wanted, there, None, bring), cache=hub.title, size=0)


def _cached(folder: Path, name: str) -> Remote:
    """A file of a cache, with the digest by which the client names its content where that is such a name."""
    path = folder / name
    size, content = path.stat().st_size, path.resolve().name
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", content):
        return Remote(name, size, sha256=content)
    if path.is_symlink() and re.fullmatch("[0-9a-f]{40}", content):
        return Remote(name, size, git=content)
    return Remote(name, size, sha256_of(path))
