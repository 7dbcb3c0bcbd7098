"""From a folder to a hub: everything is looked at before a byte is sent, and compared by digest afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import manifests
from .committing import (
    KEPT,
    commit,
    differing,
    lacking_token,
    refuse_branch,
    refuse_without_token,
    set_tag,
    tag_is_missing,
)
from .errors import FormatError, HubError, RequestError, listing
from .hub import Hub, Listing, Outgoing, Repository, Revisions, check_revision
from .hub_errors import reach
from .hubs import HUBS, parse
from .mixtures import refuse_mixture, with_true_manifest
from .outgoing import CARD, Selection, new_card, select
from .wildcards import matching

PLACEHOLDERS = ("README.md", "configuration.json", ".gitattributes", ".gitignore", "LICENSE*")
"""What a hub may put into a repository that nobody has pushed to."""


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
    """What the hub has now; ``revisions`` None: no repository."""

    revisions: Revisions | None
    branch: bool
    listing: Listing = field(default_factory=lambda: Listing("", {}))


def push(
    folder: str | Path, target: str, *, revision: str | None = None, tag: str | None = None,
    include: Sequence[str] = (), exclude: Sequence[str] = (), message: str | None = None, private: bool = False,
    dry_run: bool = False, card: bool = True, called: str | None = None, say: Callable[[str], None] = lambda line: None,
) -> Push:
    """Send the checkpoint in ``folder`` to ``target`` (``hf:org/name`` or ``ms:org/name``) in one commit.

    Only files that the hub holds otherwise or not at all travel; files of an earlier push that are no longer here are
    taken away in the same commit. ``include`` and ``exclude`` are wildcards over relative names. ``say`` gets a line
    when the sending begins. ``called`` are words for a folder that goes away afterwards, whose path would tell nobody anything.

    Raises:
        FormatError, CardError: the folder, its card or its configuration would not work on a hub; nothing was sent.
        RequestError: an argument, a name or a size that the hub does not take; nothing was sent.
        HubError: the hub refused or was lost; the repository is as it was, or the sentence says what is known.
    """
    repository = parse(target, revision)
    hub, branch = HUBS[repository.hub], repository.revision or HUBS[repository.hub].branch
    if tag is not None:
        check_revision(tag)
    if setting := hub.offline():
        raise HubError(f"Nothing can be pushed to {repository} while {setting} forbids the network; unset it.")
    folder = Path(folder)
    selection = select(folder, repository, include, exclude)
    selection = selection if card else selection.without(CARD)
    remote = _look(hub, repository, branch)
    refuse_branch(hub, repository, branch, remote.branch)
    refuse_public(hub, repository, private and remote.revisions is not None)
    selection = with_true_manifest(selection, folder, remote.listing)
    earlier = listed_there(hub, repository, remote.listing)
    partial = bool(exclude) or any(pattern != "*" for pattern in include)
    plan = _plan(hub, repository, selection, remote, tag, None if partial else earlier)
    refuse_mixture(repository, selection, folder, remote.listing, plan.removed, earlier)
    untagged = _refuse(hub, plan, remote)
    if not dry_run and (plan.changed or plan.removed or untagged):
        refuse_without_token(hub, f"{repository} was not pushed")
    if card:
        plan = _with_card(plan, selection, folder, called, remote.listing, dry_run)
    if dry_run:
        return previewed(hub, plan)
    if plan.changed or plan.removed:
        say(f"Sending {len(plan.changed)} files, {plan.travels / 1e6:,.1f} MB, to {repository}")
        plan = replace(plan, commit=_send(hub, plan, remote, branch, private, message or selection.message))
    if tag and untagged:
        set_tag(hub, repository, tag, branch, plan.commit or remote.listing.commit, "was pushed")
    return plan


# ---- before

def _look(hub: Hub, repository: Repository, branch: str) -> _Remote:
    what = f"{repository} cannot be looked at"
    found = reach(hub, what, lambda: hub.revisions(repository.name))
    if found is None:
        return _Remote(None, branch == hub.branch)
    if branch in found.tags and branch not in found.branches:
        raise RequestError(f"{branch} is a tag of {repository.hub}:{repository.name}: push to a branch, and name the result "
                           "with --tag.")
    # A repository without a commit has no branch yet.
    return _Remote(found, branch in found.branches or branch == hub.branch, listed(hub, what, repository, branch, found))


def refuse_public(hub: Hub, repository: Repository, asked: bool) -> None:
    """What was asked to be private must not end where everybody looks."""
    if asked and reach(hub, f"{repository} cannot be looked at", lambda: hub.is_public(repository.name)):
        raise RequestError(f"{repository} is there already and public, and --private is for repositories that are made here: "
                           "change its settings on the site first, or leave --private away.")


def listed(hub: Hub, what: str, repository: Repository, branch: str, found: Revisions) -> Listing:
    """What lies on a branch now, and nothing where there is none yet."""
    if branch not in found.branches:
        return Listing("", {})
    return reach(hub, what, lambda: hub.list(repository.name, found.branches[branch] or branch))


def previewed(hub: Hub, plan: Push) -> Push:
    """The plan as a dry run shows it."""
    lack = lacking_token(hub)
    return replace(plan, dry_run=True, notes=(*plan.notes, f"Nothing can be pushed yet: {lack}.") if lack else plan.notes)


def _with_card(plan: Push, selection: Selection, folder: Path, called: str | None, there: Listing, dry_run: bool) -> Push:
    """The plan with its card: the folder's own, the one that stands on the hub, or a new one."""
    name = called or folder
    if selection.has(CARD) or not selection.takes(CARD):
        return plan
    if CARD in there.files and _pushed_before(there):
        note = f"Kept the {CARD} that stands on the hub, since {name} has none."
    elif not selection.family:
        note = f"No {CARD} goes along, since {name} has none and is no whole model; one written by hand goes with it."
    elif dry_run:
        note = f"A {CARD} would be written, since {name} has none (--no-card leaves it out)."
    else:
        card, notes = new_card(folder, plan.repository, called)
        changed = (*plan.changed, card) if not card.is_at(there.files.get(CARD)) else plan.changed
        return replace(plan, files=_sorted((*plan.files, card)), changed=_sorted(changed), notes=(*plan.notes, *notes))
    return replace(plan, notes=(note, *plan.notes))


def _pushed_before(there: Listing) -> bool:
    """Whether a repository holds more than what a hub itself puts there."""
    return any(not matching(name, PLACEHOLDERS) for name in there.files)


def _sorted(files: Sequence[Outgoing]) -> tuple[Outgoing, ...]:
    return tuple(sorted(files, key=lambda file: file.name))


def _plan(hub: Hub, repository: Repository, selection: Selection, remote: _Remote, tag: str | None,
          earlier: Collection[str] | None) -> Push:
    """What travels, and which of the files that an ``earlier`` push laid down go; None: they stay."""
    there, files = remote.listing.files, selection.files
    names = {file.name for file in files}
    went = {manifests.NAME, *earlier} if earlier is not None and manifests.NAME in there else set()
    removed = (went & there.keys()) - names
    left = sorted(there.keys() - names - removed - {CARD, ".gitattributes"})
    notes = [*selection.notes]
    replaced = any(file.name == CARD and CARD in there and not file.is_at(there[CARD]) for file in files)
    if replaced and _pushed_before(remote.listing):
        notes.append(f"The {CARD} that stands on the hub is replaced by the folder's; --exclude {CARD} keeps it.")
    if left:
        notes.append(f"On the hub and not here, left as they are: {listing(left, 6)}.")
    return Push(repository, hub.address(repository.name, repository.revision), files,
                tuple(file for file in files if not file.is_at(there.get(file.name))), tuple(sorted(removed)),
                len(selection.listed), tag, tuple(notes))


def listed_there(hub: Hub, repository: Repository, there: Listing) -> dict[str, str]:
    """What an earlier push laid down: sha256 by name."""
    if manifests.NAME not in there.files:
        return {}
    data = reach(hub, f"{repository} cannot be looked at", lambda: hub.read(repository.name, there.commit, manifests.NAME))
    try:
        return dict(manifests.decode(data, str(repository))["files"])
    except FormatError:
        return {}


def _refuse(hub: Hub, plan: Push, remote: _Remote) -> bool:
    """What the hub would refuse in the end is refused here; whether the tag is to be made."""
    large = [f"{file.name} ({file.size / 1e9:.1f} GB)" for file in plan.files if file.size > hub.largest_file]
    if large:
        raise RequestError(f"{hub.title} takes files of up to {hub.largest_file / 1e9:.0f} GB, and these are larger: "
                           f"{listing(large)}; save them in shards, or leave them out with --exclude.")
    count, most = len(plan.changed) + len(plan.removed), hub.files_per_commit
    if most is not None and count > most:
        raise RequestError(f"{hub.title} takes {most} files in one commit and this push changes {count}: since a model in two "
                           "halves would work for nobody, send fewer files with --include or --exclude.")
    return tag_is_missing(hub, plan.repository, plan.tag, remote.revisions, remote.listing,
                          changes=bool(plan.changed or plan.removed))


# ---- sending

def _send(hub: Hub, plan: Push, remote: _Remote, branch: str, private: bool, message: str) -> str:
    """Create what is missing, send, commit, compare; the commit."""
    repository, name = plan.repository, plan.repository.name
    listing_ = remote.listing
    what = f"{repository} was not pushed"
    if remote.revisions is None:
        reach(hub, f"{repository} cannot be created", lambda: hub.create(name, private))
    if not remote.branch:
        reach(hub, f"The branch {branch} of {repository} cannot be made", lambda: hub.create_branch(name, branch))
    if remote.revisions is None or not remote.branch:
        # A new repository or branch is not empty everywhere, and the commit builds on what is there.
        found = reach(hub, what, lambda: hub.revisions(name))
        listing_ = listed(hub, what, repository, branch, found or Revisions({}))
    upload = hub.upload(name, branch, listing_.commit or None)
    reach(hub, what, lambda: upload.add(plan.changed), KEPT)
    made = commit(hub, repository, branch, upload, listing_, plan.files, plan.removed, message, what)
    there = reach(hub, f"{repository} was pushed, but cannot be compared", lambda: hub.list(name, branch),
                  "run the same command again: it compares, and sends only what differs")
    if wrong := differing(plan.files, plan.removed, there):
        raise HubError(f"{repository} was pushed, but the hub lists other digests than the files here have: {listing(wrong)}; "
                       f"do not use {hub.address(name)} as it is, and push again.", files=wrong)
    return made
