"""From a folder to a hub: everything is looked at before a byte is sent, and compared by digest afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import manifests
from .errors import FormatError, HubError, RequestError, listing
from .hub import Hub, Listing, Outgoing, Repository, Revisions, Upload
from .hub_errors import reach
from .hubs import HUBS, parse
from .outgoing import CARD, Selection, select
from .wildcards import matching

PLACEHOLDERS = ("README.md", "configuration.json", ".gitattributes", ".gitignore", "LICENSE*")
"""What a hub may put into a repository that nobody has pushed to."""
KEPT = "nothing visible on the hub has changed, and what was sent whole is not sent again"


@dataclass(frozen=True)
class Push:
    """What a push did or, with ``dry_run``, would do. ``changed`` are the files that travel, with their sizes in bytes."""

    repository: Repository
    address: str
    files: tuple[Outgoing, ...]
    changed: tuple[Outgoing, ...]
    removed: tuple[str, ...]
    listed: int
    """How many of the files danqing.json lists."""
    tag: str | None
    notes: tuple[str, ...]
    dry_run: bool = False
    commit: str = ""

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def travels(self) -> int:
        """Bytes of the files that the hub does not hold yet."""
        return sum(file.size for file in self.changed)

    def describe(self) -> str:
        """The line at the end: what went where, that it was compared, and the address."""
        count, tag = len(self.files), f", tagged {self.tag}" if self.tag else ""
        removed = f", {len(self.removed)} removed" if self.removed else ""
        if self.dry_run:
            return (f"Would push {len(self.changed)} of {count} files, {self.travels / 1e6:,.1f} of "
                    f"{self.size / 1e6:,.1f} MB{removed}{tag}: {self.address}")
        done = (f"Pushed {len(self.changed)} of {count} files, {self.travels / 1e6:,.1f} of {self.size / 1e6:,.1f} MB"
                if self.changed or self.removed else f"Nothing to push, all {count} files were there")
        compared = (f"{self.listed} digests there equal those in {manifests.NAME}" if self.listed
                    else "the digests there equal those here")
        return f"{done}{removed}{tag}; {compared}: {self.address}"


@dataclass
class _Remote:
    """What the hub has now."""

    exists: bool
    branch: bool
    listing: Listing = field(default_factory=lambda: Listing("", {}))
    tags: tuple[str, ...] = ()


def push(
    folder: str | Path, target: str, *, revision: str | None = None, tag: str | None = None,
    include: Sequence[str] = (), exclude: Sequence[str] = (), message: str | None = None, private: bool = False,
    dry_run: bool = False, card: bool = True, say: Callable[[str], None] = lambda line: None,
) -> Push:
    """Send the checkpoint in ``folder`` to ``target`` (``hf:org/name`` or ``ms:org/name``) in one commit.

    Only files that the hub holds otherwise or not at all travel; files of an earlier push that are no longer here are
    taken away in the same commit. ``include`` and ``exclude`` are wildcards over relative names. ``say`` gets a line
    when the sending begins.

    Raises:
        FormatError, CardError: the folder, its card or its configuration would not work on a hub; nothing was sent.
        RequestError: an argument, a name or a size that the hub does not take; nothing was sent.
        HubError: the hub refused or was lost; the repository is as it was, or the sentence says what is known.
    """
    repository = parse(target, revision)
    hub, branch = HUBS[repository.hub], repository.revision or HUBS[repository.hub].branch
    if setting := hub.offline():
        raise HubError(f"Nothing can be pushed to {repository} while {setting} forbids the network; unset it.")
    selection = select(Path(folder), repository, include, exclude)
    remote = _look(hub, repository, branch, need_branch=not dry_run)
    selection = _with_card(selection, Path(folder), remote.listing, repository, card, dry_run)
    plan = _plan(hub, repository, selection, remote, tag, partial=bool(include or exclude))
    plan = replace(plan, dry_run=dry_run)
    _refuse(hub, plan, remote)
    if dry_run:
        return plan
    if plan.changed or plan.removed:
        say(f"Sending {len(plan.changed)} files, {plan.travels / 1e6:,.1f} MB, to {repository}")
        plan = replace(plan, commit=_send(hub, plan, remote, branch, private, message or selection.message))
    if tag and tag not in remote.tags:
        commit = plan.commit or remote.listing.commit
        reach(hub, f"{repository} was pushed, but not tagged {tag}", lambda: hub.tag(repository.name, tag, branch, commit),
              "run the same command again: only the tag is missing")
    return plan


# ---- before

def _look(hub: Hub, repository: Repository, branch: str, need_branch: bool) -> _Remote:
    what = f"{repository} cannot be looked at"
    found = reach(hub, what, lambda: hub.revisions(repository.name))
    if found is None:
        return _Remote(False, branch == hub.branch)
    if branch in found.tags and branch not in found.branches:
        raise RequestError(f"{branch} is a tag of {repository.hub}:{repository.name}: push to a branch, and name the result "
                           "with --tag.")
    # A repository without a commit has no branch yet.
    return _Remote(True, branch in found.branches or branch == hub.branch, listed(hub, what, repository, branch, found),
                   found.tags)


def listed(hub: Hub, what: str, repository: Repository, branch: str, found: Revisions) -> Listing:
    """What lies on a branch now, and nothing where there is none yet."""
    if branch not in found.branches:
        return Listing("", {})
    return reach(hub, what, lambda: hub.list(repository.name, found.branches[branch] or branch))


def _with_card(selection: Selection, folder: Path, there: Listing, repository: Repository, wanted: bool,
               dry_run: bool) -> Selection:
    """The selection with its card: the folder's own, the one that stands on the hub, or a new one."""
    if selection.has(CARD) or not wanted or not selection.takes(CARD):
        return selection if wanted else selection.without(CARD)
    if CARD in there.files and any(not matching(name, PLACEHOLDERS) for name in there.files):
        return selection.noting(f"Kept the {CARD} that stands on the hub, since {folder} has none.")
    if dry_run:
        return selection.noting(f"A {CARD} would be written, since {folder} has none (--no-card leaves it out).")
    return selection.with_new_card(folder, repository)


def _plan(hub: Hub, repository: Repository, selection: Selection, remote: _Remote, tag: str | None, partial: bool) -> Push:
    there, files = remote.listing.files, selection.files
    names = {file.name for file in files}
    removed: set[str] = set()
    if manifests.NAME in there and not partial:
        removed = ({manifests.NAME, *_listed_there(hub, repository, remote.listing)} & there.keys()) - names
    left = sorted(there.keys() - names - removed - {CARD, ".gitattributes"})
    notes = [*selection.notes]
    if left:
        notes.append(f"On the hub and not here, left as they are: {listing(left, 6)}.")
    return Push(repository, hub.address(repository.name, repository.revision), files,
                tuple(file for file in files if not file.is_at(there.get(file.name))), tuple(sorted(removed)),
                len(selection.listed), tag, tuple(notes))


def _listed_there(hub: Hub, repository: Repository, there: Listing) -> set[str]:
    """What an earlier push laid down."""
    data = reach(hub, f"{repository} cannot be looked at", lambda: hub.read(repository.name, there.commit, manifests.NAME))
    try:
        return set(manifests.decode(data, str(repository))["files"])
    except FormatError:
        return set()


def _refuse(hub: Hub, plan: Push, remote: _Remote) -> None:
    """What the hub would refuse in the end is refused here."""
    large = [f"{file.name} ({file.size / 1e9:.1f} GB)" for file in plan.files if file.size > hub.largest_file]
    if large:
        raise RequestError(f"{hub.title} takes files of up to {hub.largest_file / 1e9:.0f} GB, and these are larger: "
                           f"{listing(large)}; save them in shards, or leave them out with --exclude.")
    count, most = len(plan.changed) + len(plan.removed), hub.files_per_commit
    if most is not None and count > most:
        raise RequestError(f"{hub.title} takes {most} files in one commit and this push changes {count}: since a model in two "
                           "halves would work for nobody, send fewer files with --include or --exclude.")
    if plan.tag in remote.tags and (plan.changed or plan.removed):
        raise RequestError(f"{plan.repository} has a tag {plan.tag} already, and it names other files: choose another tag.")


# ---- sending

def _send(hub: Hub, plan: Push, remote: _Remote, branch: str, private: bool, message: str) -> str:
    """Create what is missing, send, commit, compare; the commit."""
    repository, name = plan.repository, plan.repository.name
    listing_ = remote.listing
    what = f"{repository} was not pushed"
    if not remote.exists:
        reach(hub, f"{repository} cannot be created", lambda: hub.create(name, private))
    if not remote.branch:
        reach(hub, f"The branch {branch} of {repository} cannot be made", lambda: hub.create_branch(name, branch))
    if not remote.exists or not remote.branch:
        # A new repository or branch is not empty everywhere, and the commit builds on what is there.
        found = reach(hub, what, lambda: hub.revisions(name))
        listing_ = listed(hub, what, repository, branch, found or Revisions({}))
    upload = hub.upload(name, branch, listing_.commit or None)
    reach(hub, what, lambda: upload.add(plan.changed), KEPT)
    commit = _commit(hub, plan, upload, branch, message)
    there = reach(hub, f"{repository} was pushed, but cannot be compared", lambda: hub.list(name, branch),
                  "run the same command again: it compares, and sends only what differs")
    if wrong := _differing(plan, there):
        raise HubError(f"{repository} was pushed, but the hub lists other digests than the files here have: {listing(wrong)}; "
                       f"do not use {hub.address(name)} as it is, and push again.", files=wrong)
    return commit


def _commit(hub: Hub, plan: Push, upload: Upload, branch: str, message: str) -> str:
    what = f"{plan.repository} was not pushed"
    try:
        return reach(hub, what, lambda: upload.commit(message, plan.removed), KEPT)
    except HubError as error:
        if getattr(error, "status", None) is not None:
            raise
        lost = error
    # The answer to the commit was lost on the way: the hub knows whether it was made.
    there = reach(hub, f"Whether {plan.repository} was pushed is not known", lambda: hub.list(plan.repository.name, branch),
                  "run the same command again: it sends only what is missing")
    if _differing(plan, there):
        raise lost
    return there.commit


def _differing(plan: Push, there: Listing) -> list[str]:
    wrong = [file.name for file in plan.files if not file.is_at(there.files.get(file.name))]
    return wrong + [name for name in plan.removed if name in there.files]
