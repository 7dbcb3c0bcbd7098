"""Which files of a folder go to a hub, and whether they would work there: checked, digested, with card and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from . import manifests
from .additions import recognise
from .checking import check
from .conversion import configuration
from .detection import open_folder
from .errors import CardError, FormatError, RequestError, listing
from .hub import Outgoing, Repository, unsafe_names
from .layouts.layout import relative_files
from .tensors import sha256_of
from .wildcards import chosen

CARD = "README.md"
CONFIGURATION = "configuration.json"
BESIDE = (".md", ".png", ".jpg", ".jpeg", ".webp", ".gif")
BESIDE_STARTS = ("readme", "license", "licence", "notice")


@dataclass(frozen=True)
class Selection:
    """The files that go, those of them that danqing.json lists, and lines that a user should read."""

    files: tuple[Outgoing, ...]
    listed: frozenset[str]
    message: str
    """What the commit says where nobody says otherwise."""
    notes: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def has(self, name: str) -> bool:
        return any(file.name == name for file in self.files)

    def takes(self, name: str) -> bool:
        """Whether --include and --exclude let a name pass."""
        return chosen(name, self.include, self.exclude)

    def without(self, name: str) -> Selection:
        return replace(self, files=tuple(file for file in self.files if file.name != name))

    def noting(self, line: str) -> Selection:
        return replace(self, notes=(*self.notes, line))

    def with_new_card(self, folder: Path, repository: Repository) -> Selection:
        """Write the card that is missing into the folder, and send it too."""
        from .cards import write_card

        written = write_card(folder, repository=f"{repository.hub}:{repository.name}")
        files = sorted((*self.files, card_file(folder, repository)), key=lambda file: file.name)
        return replace(self, files=tuple(files), notes=(*self.notes, f"Wrote {written.path}.", *written.notes))


def select(folder: Path, repository: Repository, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """The checkpoint in ``folder`` with what people put beside it, fit for the hub of ``repository``.

    Without ``include`` those are the files of the checkpoint, the card, licences and pictures; with it, every file that
    it names. A missing configuration.json is made on the way, for ModelScope opens nothing without one.

    Raises:
        FormatError: ``danqing check`` finds problems. CardError: no hub would take the card.
        RequestError: no file is left, or a name that a hub does not keep.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder: name the folder of a checkpoint; `danqing unpack` makes one of a bundle.")
    own, task, message = _checkpoint(folder)
    present = list(relative_files(folder))
    wanted = [name for name in present if chosen(name, include, exclude) and (include or name in own or beside(name))]
    _refuse_names(wanted, folder)
    if not wanted:
        raise RequestError(f"No file of {folder} is left to push: loosen --include or --exclude.")
    digests: Mapping[str, str] = manifests.read(folder).get("files", {})
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda name: card_file(folder, repository) if name == CARD else _file(folder, name, digests), wanted))
    if task and CONFIGURATION not in present and chosen(CONFIGURATION, include, exclude):
        files.append(Outgoing.of(CONFIGURATION, configuration(task)))
    left = [name for name in present if name not in wanted and not include and chosen(name, (), exclude)]
    notes = (f"Left out what does not belong to the checkpoint: {listing(left, 6)} (--include sends them).",) if left else ()
    return Selection(tuple(sorted(files, key=lambda file: file.name)), frozenset(digests.keys() & set(wanted)), message,
                     notes, tuple(include), tuple(exclude))


def _checkpoint(folder: Path) -> tuple[frozenset[str], str | None, str]:
    """The checkpoint's own files, its task on ModelScope, and a message; FormatError: it has problems."""
    addition = recognise(folder)
    if addition is not None:
        return frozenset(relative_files(folder)), None, f"Upload a {addition.kind} with Danqing"
    if problems := check(folder):
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise FormatError(f"{folder} has {count}, so nothing was sent: {' '.join(problems[:5])}"
                          + (" `danqing check` lists all of them." if len(problems) > 5 else ""), problems=problems)
    found = open_folder(folder)
    return (frozenset(found.names), found.family.tasks[0],
            f"Upload {found.family.name} in the {found.layout.name} layout with Danqing")


def beside(name: str) -> bool:
    """Cards, licences and pictures at the top of a folder go along."""
    return "/" not in name and (name.lower().endswith(BESIDE) or name.lower().startswith(BESIDE_STARTS)
                                or name in (manifests.NAME, CONFIGURATION))


def _file(folder: Path, name: str, digests: Mapping[str, str]) -> Outgoing:
    """A file as it lies there; what danqing.json lists was compared by the check a moment ago."""
    path = folder / name
    return Outgoing(name, path, path.stat().st_size, digests.get(name) or sha256_of(path))


def card_file(folder: Path, repository: Repository) -> Outgoing:
    """The card in the hub's spelling, its code with the repository's name. CardError: no hub would take it."""
    from . import cards

    place = folder / CARD
    try:
        text = place.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CardError(f"{place} is no UTF-8 text; save it as UTF-8.") from error
    if problems := cards.validate(text, folder):
        raise CardError(f"{place} would be refused, so nothing was sent: {' '.join(map(str, problems))}", problems=problems)
    return Outgoing.of(CARD, cards.for_hub(text, repository.hub, repository.name).encode())


def _refuse_names(names: Sequence[str], folder: Path) -> None:
    if unsafe := unsafe_names(names):
        raise RequestError(f"{folder} has names that no hub keeps: {listing([repr(each) for each in unsafe])}; rename them.")
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise RequestError(f"{other} and {name} in {folder} differ in case only, and some machines keep one of them: "
                               "rename one.")
