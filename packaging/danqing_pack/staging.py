"""Write beside the target, rename into place: every file and folder that Danqing makes goes through here.

    with staged_folder(target, force=force, sources=[source]) as folder:     # or staged_file
        ...                                                                  # write into `folder`, a hidden sibling

On success the sibling becomes the target in one rename. On any exception (Ctrl-C and SystemExit included) it is
removed, as are the parent folders made for it: a target is there whole or not at all. What a killed process leaves
behind is a hidden sibling named `.danqing-...`; the next run in that folder removes it. A run holds a lock on its
sibling, so two runs never clean up after each other.

Replacing (`force=True`) never has a moment without a whole copy on the disk: the new one is flushed, the old one moves
aside, the new one takes its name, the old one is removed. A crash between the two renames leaves the old one aside,
and the next run for that target puts it back. Without anything to replace nothing is flushed: a power cut then costs
no more than the new output, and the digests in danqing.json tell.
"""
from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RequestError, listing

CHECKPOINT = ("danqing.json", "model_index.json", "pytorch_model.bin", "model.ckpt", "config.json")
"""Files one of which every folder of a checkpoint has."""
_PARTIAL, _ASIDE = ".danqing-partial-", ".danqing-aside-"


@contextmanager
def staged_folder(target: str | os.PathLike[str], force: bool = False,
                  sources: Iterable[str | os.PathLike[str]] = (), marks: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` when the block ends without an exception.

    force: replace an existing folder. Refused where it is, or holds, one of `sources`, the working directory or the
    home directory, and where it holds files, but none of `marks` (if any are given): then it is somebody's own.
    Raises RequestError: the target exists, is no folder, cannot be written, or the disk is full.
    """
    with _staged(Path(target), force, tuple(map(Path, sources)), folder=True, marks=tuple(marks)) as staging:
        yield staging


@contextmanager
def staged_file(target: str | os.PathLike[str], force: bool = False,
                sources: Iterable[str | os.PathLike[str]] = ()) -> Iterator[Path]:
    """Yield an empty file beside `target` (open it by its path and write) that becomes `target` when the block ends.

    force: replace an existing file that is none of `sources`. Raises RequestError as `staged_folder` does.
    """
    with _staged(Path(target), force, tuple(map(Path, sources)), folder=False) as staging:
        yield staging


@contextmanager
def scratch_folder(beside: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty hidden folder on the disk that `beside` lies or will lie on; it is gone when the block ends."""
    beside = Path(os.path.abspath(beside))
    with _sentences(beside):
        scratch, lock = _create(beside, folder=True)
        try:
            yield scratch
        finally:
            _remove(scratch)
            if lock is not None:
                os.close(lock)


@contextmanager
def _staged(target: Path, force: bool, sources: tuple[Path, ...], folder: bool, marks: tuple[str, ...] = ()) -> Iterator[Path]:
    target = Path(os.path.abspath(target))      # not resolve(): a link as target is refused, not followed
    made: list[Path] = []
    staging: Path | None = None
    try:
        with _sentences(target, all_errors=True):
            _make_parents(target.parent, made)
            _sweep(target)
            _refuse_target(target, force, sources, folder, marks)
            staging, lock = _create(target, folder)
        try:
            with _sentences(target):
                yield staging
            with _sentences(target, all_errors=True):
                _refuse_target(target, force, sources, folder, marks)   # another program may have made it meanwhile
                _put_in_place(staging, target, folder)
            staging, made = None, []
        finally:
            if lock is not None:
                os.close(lock)
    finally:
        if staging is not None:
            _remove(staging)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()


# ---- what may be replaced

def _refuse_target(target: Path, force: bool, sources: tuple[Path, ...], folder: bool, marks: tuple[str, ...]) -> None:
    wanted = "folder" if folder else "file"
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise RequestError(f"{target} is a symbolic link to {os.readlink(target)}: name the place itself, or remove "
                           "the link.", path=target)
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        raise RequestError(f"{target} exists and is no {wanted}: choose another place for the output.", path=target)
    if not force:
        raise RequestError(f"{target} exists: choose another place, or replace it with --force.",
                           path=target)
    for kept, what in [*((source, "the source") for source in sources), (Path.cwd(), "the working directory"),
                       (Path(os.path.expanduser("~")), "the home directory")]:
        if _is_or_holds(target, kept):
            raise RequestError(f"{target} cannot be replaced, since {what} {kept} lies there: choose another place for "
                               "the output.", path=target)
    held = sorted(os.listdir(target)) if folder and marks else []
    if held and not set(marks) & set(held):
        raise RequestError(f"{target} is not replaced, since it holds {listing(held, 4)} and none of {listing(marks)}: choose "
                           "another place, or remove it yourself.", path=target)


def _is_or_holds(target: Path, kept: Path) -> bool:
    """Whether `kept` would go when `target` goes; by inode, since names differ in case, links and mounts."""
    kept = Path(os.path.realpath(kept))
    for place in (kept, *kept.parents):
        with suppress(OSError):
            if os.path.samefile(place, target):
                return True
    return False


# ---- the sibling

def _create(target: Path, folder: bool) -> tuple[Path, int | None]:
    """A new empty sibling with the permissions that umask gives, and the descriptor that holds its lock."""
    while True:
        staging = target.with_name(f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(6)}")
        if folder:
            staging.mkdir()
        else:
            staging.touch(exist_ok=False)
        try:
            lock = _lock(staging)
        except OSError:             # a file system without locks
            return staging, None
        if lock is not None:
            return staging, lock
        # another run took it for a leftover between its making and its locking, and removes it: make another


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock on `path`; None where another run holds it or it is gone; OSError: no locks."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "folders cannot be locked")
    import fcntl
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _put_in_place(staging: Path, target: Path, folder: bool) -> None:
    if not os.path.lexists(target):
        os.rename(staging, target)
        return
    _flush(staging)
    if not folder:
        os.replace(staging, target)
    else:
        aside = target.with_name(f"{_aside_prefix(target)}{secrets.token_hex(6)}")
        with _held(target):
            try:
                os.rename(target, aside)
                os.rename(staging, target)
            except BaseException:
                if os.path.lexists(aside) and not os.path.lexists(target):
                    os.rename(aside, target)
                raise
            _sync(target.parent)
            _remove(aside)
    _sync(target.parent)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock on `path` where that is possible: the old folder, so that no other run takes it for a leftover."""
    lock = None
    with suppress(OSError):
        lock = _lock(path)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _aside_prefix(target: Path) -> str:
    """Which target an old folder belongs to, in a name of fixed length: the target's own may fill all 255 bytes."""
    return f"{_ASIDE}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


def _sweep(target: Path) -> None:
    """Remove what killed runs left beside `target`; put its old folder back if one was killed while replacing it."""
    with os.scandir(target.parent) as entries:
        left = sorted(entry.name for entry in entries if entry.name.startswith((_PARTIAL, _aside_prefix(target))))
    for path in map(target.parent.joinpath, left):
        lock = None
        with suppress(OSError):
            lock = _lock(path)
            if lock is None:
                continue
            if path.name.startswith(_ASIDE) and not os.path.lexists(target):
                os.rename(path, target)
            else:
                _remove(path)
        if lock is not None:
            os.close(lock)


def _remove(path: Path) -> None:
    """Best effort: what stays is hidden and unlocked, and the next run tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make `folder` and what it lies in; add the ones that were made to `made`, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for place in reversed(missing):
        try:
            place.mkdir()
            made.append(place)
        except FileExistsError as error:
            if not place.is_dir():      # a link to nowhere
                raise NotADirectoryError(errno.ENOTDIR, "no folder", str(place)) from error


# ---- to the disk

def _flush(path: Path) -> None:
    """Every byte below `path` on the disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))
    if path.is_file():
        _sync(path)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not path.is_dir():       # some file systems know no fsync of a folder
            raise


_FACTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
    errno.EFBIG: "the file grew larger than allowed here (file system or ulimit -f): choose another place",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "permission denied: change the permissions or choose another place",
    errno.EPERM: "the operation is not permitted: change the permissions or choose another place",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle: choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place",
    errno.EXDEV: "it is a mount point: choose another place",
    errno.EBUSY: "it is a mount point or in use: choose another place",
}


@contextmanager
def _sentences(target: Path, all_errors: bool = False) -> Iterator[None]:
    """What the operating system refuses, as a sentence.

    all_errors: these are steps of this module. Otherwise somebody else's code runs inside, and errors that say nothing
    about writing (a lost connection, a file that is not there) are left to it.
    """
    try:
        yield
    except OSError as error:
        fact = _FACTS.get(error.errno or 0)
        if fact is None and not all_errors:
            raise
        fact = fact or f"{os.strerror(error.errno or errno.EIO)}: choose another place"
        raise RequestError(f"{target} was not written: {_place(error, target)}{fact}.", path=target,
                           errno=error.errno) from error


def _place(error: OSError, target: Path) -> str:
    """The file the error is about, unless it is the target or its sibling, whose hidden name tells a reader nothing."""
    name = error.filename
    if not isinstance(name, (str, bytes)) or _PARTIAL in os.fsdecode(name) or os.fsdecode(name) == str(target):
        return ""
    return f"{os.fsdecode(name)}: "
