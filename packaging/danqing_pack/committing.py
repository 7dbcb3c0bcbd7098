"""How a push and a mirror end: one commit, whose answer may be lost, and a tag."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import HubError, RequestError
from .hub import Hub, Listing, Outgoing, Repository, Revisions, Upload, check_revision
from .hub_errors import reach

KEPT = "nothing visible on the hub has changed, and what was sent whole is not sent again"
REFUSED = (401, 403)
"""Answers that only a commit which was not made can have."""


def differing(files: Sequence[Outgoing], removed: Sequence[str], there: Listing) -> list[str]:
    """The names for which a hub lists something else than a change was to leave there."""
    wrong = [file.name for file in files if not file.is_at(there.files.get(file.name))]
    return wrong + [name for name in removed if name in there.files]


def commit(hub: Hub, repository: Repository, branch: str, upload: Upload, base: Listing, files: Sequence[Outgoing],
           removed: Sequence[str], message: str, what: str) -> str:
    """Make what was uploaded visible; the commit. ``base`` is what stood there when the change was planned.

    An answer that was lost, or that comes from a gateway which tired of waiting, says nothing: then the hub is asked.

    Raises:
        HubError: the branch is as it was, or the sentence says that this is not known.
    """
    name = repository.name
    if not hub.guards and reach(hub, what, lambda: hub.list(name, branch), KEPT).files != base.files and base.commit:
        raise HubError(f"{what}: the repository was changed by somebody else meanwhile; run the same command again; {KEPT}.")
    try:
        return reach(hub, what, lambda: upload.commit(message, removed), KEPT)
    except HubError as error:
        lost = error
    status = getattr(lost, "status", None)
    if status in REFUSED:
        raise lost
    try:
        there = reach(hub, f"Whether {repository} was changed is not known", lambda: hub.list(name, branch),
                      "run the same command again: it sends only what is missing")
    except HubError as error:
        unknown = error
    else:
        if differing(files, removed, there):
            raise lost
        return there.commit
    raise lost if status is not None and status < 500 else unknown


def refuse_branch(hub: Hub, repository: Repository, branch: str, there: bool) -> None:
    """RequestError: a branch that is not there, on a hub whose client cannot make one."""
    if not there and not hub.makes_branches:
        raise RequestError(f"{repository} has no branch {branch}, and {hub.title}'s client cannot make the branch {branch}: make "
                           "it on the site, or leave --revision away and name what you push with --tag.")


def lacking_token(hub: Hub) -> str:
    """Why nothing can be changed on the hub, as the end of a sentence; nothing where there is a token."""
    return "" if any(hub.secrets()) else f"{hub.title} needs a token for it, and there is none; {hub.remedies['token']}"


def refuse_without_token(hub: Hub, what: str) -> None:
    """HubError: there is no token; ``what`` begins the sentence."""
    if lack := lacking_token(hub):
        raise HubError(f"{what}: {lack}.")


def tag_is_missing(hub: Hub, repository: Repository, tag: str | None, found: Revisions | None, base: Listing,
                   changes: bool) -> bool:
    """Whether ``tag`` is to be made when the change is there.

    Raises:
        RequestError: it is no name for a tag, it is a branch, or it names other files already.
    """
    if tag is None:
        return False
    check_revision(tag)
    if found is None:
        return True
    if tag in found.branches:
        raise RequestError(f"{tag} is a branch of {repository.hub}:{repository.name}: choose another tag.")
    if tag not in found.tags:
        return True
    # A tag stays where it is: that it exists is no news only if it names what stands there now.
    if changes or reach(hub, f"{repository} cannot be looked at", lambda: hub.list(repository.name, tag)).files != base.files:
        raise RequestError(f"{repository} has a tag {tag} already, and it names other files: choose another tag.")
    return False


def set_tag(hub: Hub, repository: Repository, tag: str, branch: str, commit_: str, done: str) -> None:
    """Make a tag; ``done`` says what has succeeded before: ``was pushed``."""
    reach(hub, f"{repository} {done}, but not tagged {tag}", lambda: hub.tag(repository.name, tag, branch, commit_),
          "run the same command again: only the tag is missing")
