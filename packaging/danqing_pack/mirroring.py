"""From hub to hub: file after file, never the whole model on this disk, and one commit at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from . import manifests
from .committing import KEPT, commit, differing, refuse_branch, refuse_without_token, set_tag, tag_is_missing
from .conversion import configuration, convert
from .errors import CardError, HubError, RequestError, UnsafeError, listing
from .hub import Hub, Listing, Outgoing, Remote, Repository, Revisions, Upload, check_revision, git_digest, unsafe_names
from .hub_errors import reach, unwritable
from .hubs import HUBS, parse
from .layouts import LAYOUTS
from .layouts.layout import relative_files
from .outgoing import CARD, CARDS, CONFIGURATION, beside
from .pulling import pull
from .pushing import Push, listed, listed_there, previewed, push, refuse_public
from .tensors import sha256_of

MARKS = {"model_index.json": "text-to-image-synthesis", "pytorch_model.bin": "text-to-image-synthesis",
         "model.ckpt": "text-to-image-synthesis"}
"""What shows a checkpoint, and its task on ModelScope."""
LEFT = (".gitattributes", ".gitignore")
"""What each hub writes for itself."""
IN_MEMORY = 16 << 20
"""Files up to this size, in bytes, may be read as a whole; hubs keep text of up to 10 MB in git."""


def mirror(source: str, target: str, *, to: str | None = None, dtype: str | None = None, tag: str | None = None,
           message: str | None = None, private: bool = False, dry_run: bool = False,
           say: Callable[[str], None] = lambda line: None) -> Push:
    """Move a model from one hub to another, as ``hf:a/b@revision`` and ``ms:c/d``; what the target holds already stays there.

    ``to`` converts it on the way to another layout (and ``dtype``), with the disk space of both; without it one file
    after the other passes through, and no more than two lie here at a time. The card changes to the target's spelling.

    Raises:
        as ``pull`` and ``push``; the target is as it was unless the sentence says otherwise.
    """
    origin, goal = parse(source), parse(target)
    if tag is not None:
        check_revision(tag)
    if origin.hub == goal.hub and origin.name == goal.name:
        raise RequestError(f"{source} and {target} are the same repository: name another one.")
    if to is not None:
        if to not in (known := [layout.name for layout in LAYOUTS]):
            raise RequestError(f"There is no layout {to}; choose one of {listing(known)}.")
        return _converted(source, target, to, dtype, tag, message, private, dry_run, say)
    return _Mirror(origin, goal, private, tag, message or f"Mirror {origin}", say).run(dry_run)

def _converted(source: str, target: str, to: str, dtype: str | None, tag: str | None, message: str | None, private: bool,
               dry_run: bool, say: Callable[[str], None]) -> Push:
    with tempfile.TemporaryDirectory(prefix="danqing-mirror-") as scratch:
        here, there = Path(scratch, "source"), Path(scratch, "target")
        pull(source, here, say=say)
        convert(here, there, to, dtype=dtype)
        for name in relative_files(here):
            if beside(name) and name not in (manifests.NAME, CONFIGURATION) and not (there / name).exists():
                (there / name).write_bytes((here / name).read_bytes())
        _renew_cards(there, target, say)
        return push(there, target, tag=tag, message=message, private=private, dry_run=dry_run, say=say)


def _renew_cards(folder: Path, target: str, say: Callable[[str], None]) -> None:
    """What a card says of files and digests is no longer so; one that a person wrote alone stays, if hubs take it."""
    from . import cards

    for name in CARDS:
        card = folder / name
        try:
            if card.is_file() and (cards.is_generated(card) or name == CARD and cards.validate(cards.read_text(card), folder)):
                cards.write_card(folder, card, repository=target.partition("@")[0])
        except CardError as error:
            say(f"{name} is left behind, and a new one written: {error}")
            card.unlink()


class _Mirror:
    """One move, file by file."""

    def __init__(self, origin: Repository, goal: Repository, private: bool, tag: str | None, message: str,
                 say: Callable[[str], None]) -> None:
        self.origin, self.goal, self.private, self.tag, self.message, self.say = origin, goal, private, tag, message, say
        self.from_, self.to = HUBS[origin.hub], HUBS[goal.hub]
        self.branch = goal.revision or self.to.branch
        self.what = f"{origin} was not mirrored to {goal}"

    def run(self, dry_run: bool) -> Push:
        for hub, repository in ((self.from_, self.origin), (self.to, self.goal)):
            if setting := hub.offline():
                raise HubError(f"{repository} cannot be reached while {setting} forbids the network; unset it.")
        source = reach(self.from_, f"{self.origin} cannot be looked at",
                       lambda: self.from_.list(self.origin.name, self.origin.revision))
        if unsafe := unsafe_names(list(source.files)):
            raise UnsafeError(f"{self.origin} has names that would leave a folder: {listing([repr(each) for each in unsafe])}; "
                              "do not use it.")
        found = self._revisions()
        there = self._there(found) if found else Listing("", {})
        is_there = self.branch == self.to.branch or found is not None and self.branch in found.branches
        refuse_branch(self.to, self.goal, self.branch, is_there)
        refuse_public(self.to, self.goal, self.private and found is not None)
        small = self._small(source)
        passing = [file for name, file in source.files.items()
                   if name not in LEFT and name not in {each.name for each in small}]
        todo = [file for file in passing if not self._same(source, file, there.files.get(file.name))]
        plan = self._plan(source, passing, small, todo, there)
        untagged = tag_is_missing(self.to, self.goal, self.tag, found, there, changes=bool(plan.changed or plan.removed))
        if dry_run:
            return previewed(self.to, plan)
        if plan.changed or plan.removed or untagged:
            refuse_without_token(self.to, self.what)
        if plan.changed or plan.removed:
            plan = self._move(plan, source, small, todo, there, found is not None)
        if self.tag and untagged:
            set_tag(self.to, self.goal, self.tag, self.branch, plan.commit or there.commit, "was mirrored")
        return plan

    def _revisions(self) -> Revisions | None:
        return reach(self.to, f"{self.goal} cannot be looked at", lambda: self.to.revisions(self.goal.name))

    def _there(self, found: Revisions) -> Listing:
        return listed(self.to, f"{self.goal} cannot be looked at", self.goal, self.branch, found)

    def _read(self, source: Listing, name: str) -> bytes:
        return reach(self.from_, f"{self.origin} cannot be looked at",
                     lambda: self.from_.read(self.origin.name, source.commit, name))

    def _same(self, source: Listing, file: Remote, other: Remote | None) -> bool:
        """Whether both hubs hold the same bytes. Two kinds of digests say nothing about each other: then they are read."""
        if other is None or other.size != file.size:
            return False
        if file.sha256 and other.sha256:
            return file.sha256 == other.sha256
        if file.git and other.git and not (file.sha256 or other.sha256):
            return file.git == other.git
        return file.size <= IN_MEMORY and Outgoing.of(file.name, self._read(source, file.name)).is_at(other)

    def _small(self, source: Listing) -> list[Outgoing]:
        """Cards and configuration: the first in the target's spelling, the second made if there is none."""
        made = []
        for name in CARDS:
            if name in source.files and source.files[name].size <= IN_MEMORY:
                text = self._read(source, name).decode("utf-8", "replace")
                made.append(Outgoing.of(name, self._card(text).encode()))
        task = next((task for mark, task in MARKS.items() if mark in source.files), None)
        if task and CONFIGURATION not in source.files:
            made.append(Outgoing.of(CONFIGURATION, configuration(task)))
        return made

    def _card(self, text: str) -> str:
        """The card as the target spells it; one that no hub can read stays as it is, for it is not ours to mend."""
        from . import cards

        try:
            return cards.for_hub(text, self.goal.hub, self.goal.name)
        except CardError as error:
            self.say(f"The card of {self.origin} goes as it is: {error}")
            return text

    def _plan(self, source: Listing, passing: Sequence[Remote], small: Sequence[Outgoing], todo: Sequence[Remote],
              there: Listing) -> Push:
        large = [file.name for file in todo if file.size > self.to.largest_file]
        if large:
            raise RequestError(f"{self.to.title} takes files of up to {self.to.largest_file / 1e9:.0f} GB, and these are "
                               f"larger: {listing(large)}; save them in shards first.")
        files = (*map(_planned, passing), *small)
        new = (*map(_planned, todo), *(file for file in small if not file.is_at(there.files.get(file.name))))
        kept = {file.name for file in files} | {*LEFT, *CARDS}
        # What an earlier mirror or push laid down and the source has no longer: two models would lie there.
        removed = tuple(sorted(({manifests.NAME} | listed_there(self.to, self.goal, there).keys()) & there.files.keys() - kept))
        most, count = self.to.files_per_commit, len(new) + len(removed)
        if most is not None and count > most:
            raise RequestError(f"{self.to.title} takes {most} files in one commit and this model has {count}: pull it, and "
                               "push what is needed with --include.")
        left = sorted(there.files.keys() - kept - {*removed})
        notes = (f"On {self.goal} and not in {self.origin}, left as they are: {listing(left, 6)}.",) if left else ()
        return Push(self.goal, self.to.address(self.goal.name, self.goal.revision), files, new, removed, 0, self.tag, notes)

    def _move(self, plan: Push, source: Listing, small: Sequence[Outgoing], todo: Sequence[Remote], there: Listing,
              exists: bool) -> Push:
        goal, name = self.to, self.goal.name
        if not exists:
            reach(goal, f"{self.goal} cannot be created", lambda: goal.create(name, self.private))
        if not exists or not there.commit:
            if self.branch != goal.branch:
                reach(goal, f"The branch {self.branch} of {self.goal} cannot be made",
                      lambda: goal.create_branch(name, self.branch))
            there = self._there(self._revisions() or Revisions({}))
        self.say(f"Moving {len(plan.changed)} files, {plan.travels / 1e6:,.1f} MB, from {self.origin} to {self.goal}")
        upload = goal.upload(name, self.branch, there.commit or None)
        sent = []
        for file in self._passing(source, todo):
            _send(goal, self.what, upload, file)
            sent.append(file)
        sent += [file for file in small if file in plan.changed]
        reach(goal, self.what, lambda: upload.add([file for file in small if file in plan.changed]), KEPT)
        made = commit(goal, self.goal, self.branch, upload, there, sent, plan.removed, self.message, self.what)
        found = reach(goal, f"{self.goal} was mirrored, but cannot be compared", lambda: goal.list(name, self.branch))
        if wrong := differing(sent, plan.removed, found):
            raise HubError(f"{self.goal} was mirrored, but lists other digests than {self.origin}: {listing(wrong)}; do not use "
                           f"{plan.address} as it is, and run the command again.", files=wrong)
        return replace(plan, commit=made)

    def _passing(self, source: Listing, todo: Sequence[Remote]) -> Iterator[Outgoing]:
        """Each file in turn, verified; while one is sent on, the next arrives. Each is gone when the next is asked for."""
        with tempfile.TemporaryDirectory(prefix="danqing-mirror-") as scratch, ThreadPoolExecutor(1) as ahead:
            def arrive(number: int) -> Future[Outgoing] | None:
                return ahead.submit(self._arrive, source, todo[number], Path(scratch, str(number))) if number < len(todo) else None

            coming = arrive(0)
            for number in range(len(todo)):
                assert coming is not None
                file, coming = coming.result(), arrive(number + 1)
                yield file
                if isinstance(file.content, Path):
                    file.content.unlink()

    def _arrive(self, source: Listing, remote: Remote, folder: Path) -> Outgoing:
        try:
            folder.mkdir()
            reach(self.from_, self.what, lambda: self.from_.fetch(self.origin.name, source, [remote.name], folder), KEPT)
            path = folder / remote.name
            digest = sha256_of(path) if path.is_file() else ""
        except OSError as error:
            raise unwritable(folder, error) from error
        expected = digest == remote.sha256 if remote.sha256 else path.is_file() and git_digest(path) == remote.git
        if not expected:
            raise HubError(f"{self.what}: the bytes of {remote.name} that arrived are not those that {self.origin} lists; "
                           f"try again; {KEPT}.")
        # Small files are kept for the commit, by which time the folder is gone; a hub may list larger ones by git's digest.
        content: Path | bytes = path if remote.size > 1 << 20 else path.read_bytes()
        file = Outgoing(remote.name, content, remote.size, digest)
        if remote.size <= IN_MEMORY:
            assert file.git
        return file

def _send(hub: Hub, what: str, upload: Upload, file: Outgoing) -> None:
    reach(hub, what, lambda: upload.add([file]), KEPT)

def _planned(file: Remote) -> Outgoing:
    """A file that will pass through; for the plan alone, which counts bytes."""
    return Outgoing(file.name, b"", file.size, file.sha256 or "")
