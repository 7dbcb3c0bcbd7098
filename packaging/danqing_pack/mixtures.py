"""What would stand on a hub after a push: never files of two models, never a danqing.json that lists something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from . import manifests
from .errors import RequestError, listing
from .hub import Listing, Outgoing, Repository
from .needless import needless
from .outgoing import Selection
from .tensors import sha256_of

WHOLE = "push the whole folder, or to another repository"


def with_true_manifest(selection: Selection, folder: Path, there: Listing) -> Selection:
    """The selection with a danqing.json that lists no file which neither goes nor stands on the hub already."""
    if not selection.has(manifests.NAME):
        return selection
    manifest = manifests.read(folder)
    goes = {file.name for file in selection.files}
    absent = sorted(name for name in manifest["files"] if name not in goes and name not in there.files)
    if not absent:
        return selection
    files = {name: digest for name, digest in manifest["files"].items() if name not in absent}
    return selection.with_file(Outgoing.of(manifests.NAME, manifests.encode({**manifest, "files": files}))).noting(
        f"{manifests.NAME} goes without what --include and --exclude leave here: {listing(absent, 6)}.")


def refuse_mixture(repository: Repository, selection: Selection, folder: Path, there: Listing, removed: Collection[str],
                   listed_there: Mapping[str, str]) -> None:
    """RequestError: the files that go and those that stay on the hub would not be one model."""
    goes = {file.name: file for file in selection.files}
    stays = there.files.keys() - goes.keys() - set(removed)
    own = selection.has(manifests.NAME)
    listed: Mapping[str, str] = manifests.read(folder)["files"] if own else listed_there if manifests.NAME in stays else {}
    wrong = [name for name, digest in listed.items() if name in goes and goes[name].sha256 != digest]
    if own:
        wrong += [name for name in stays & listed.keys() if not _local(folder, name).is_at(there.files[name])]
    if wrong:
        raise RequestError(f"{repository} would hold other files than the {manifests.NAME} there lists: "
                           f"{listing(sorted(wrong))}; {WHOLE}.", files=wrong)
    hidden = sorted((needless({*goes, *stays}) - needless(goes.keys())) & goes.keys())
    if hidden:
        raise RequestError(f"{repository} holds another model already, whose files would be read instead of these: "
                           f"{listing(hidden)}; remove it there first, or push to another repository.", files=hidden)


def _local(folder: Path, name: str) -> Outgoing:
    path = folder / name
    return Outgoing(name, path, path.stat().st_size, sha256_of(path)) if path.is_file() else Outgoing(name, b"", -1, "")
