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
from .family import Family
from .hub import Outgoing, Repository, unsafe_names
from .layouts.layout import relative_files
from .links import own_file
from .tensors import sha256_of
from .wildcards import chosen

CARD = "README.md"
CARDS = (CARD, "README.en.md", "README.zh.md")
"""The card, and the same in another language beside it, of which hubs read the text alone."""
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
    family: str | None
    """Of a checkpoint; None for an addition to one, such as a LoRA."""

    def has(self, name: str) -> bool:
        return any(file.name == name for file in self.files)

    def takes(self, name: str) -> bool:
        """Whether --include and --exclude let a name pass."""
        return chosen(name, self.include, self.exclude)

    def without(self, name: str) -> Selection:
        return replace(self, files=tuple(file for file in self.files if file.name != name))

    def noting(self, line: str) -> Selection:
        return replace(self, notes=(*self.notes, line))

    def with_file(self, file: Outgoing) -> Selection:
        """With ``file`` instead of the one of its name."""
        return replace(self, files=tuple(file if each.name == file.name else each for each in self.files))


def new_card(folder: Path, repository: Repository, called: str | None = None) -> tuple[Outgoing, tuple[str, ...]]:
    """Write the card that is missing into the folder; what goes to the hub, and what a user should read.

    ``called`` are words for a folder that goes away afterwards.
    """
    from .cards import write_card

    written = write_card(folder, repository=f"{repository.hub}:{repository.name}")
    line = f"Wrote a {CARD} for {called}." if called else f"Wrote {written.path}."
    return card_file(folder / CARD, repository), (line, *written.notes)


def select(folder: Path, repository: Repository, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """The checkpoint in ``folder`` with what people put beside it, fit for the hub of ``repository``.

    Without ``include`` those are the files of the checkpoint, the card, licences and pictures; with it, every file that
    it names. A missing configuration.json is made on the way, for ModelScope opens nothing without one.

    Raises:
        FormatError: ``danqing check`` finds problems. CardError: no hub would take the card.
        RequestError: no file is left, or a name that a hub does not keep. UnsafeError: a link that leads out of the folder.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder: name the folder of a checkpoint; `danqing unpack` makes one of a bundle.")
    own, family, message = _checkpoint(folder)
    present = list(relative_files(folder))
    wanted = [name for name in present if chosen(name, include, exclude) and (include or name in own or beside(name))]
    _refuse_names(wanted, folder)
    if not wanted:
        raise RequestError(f"No file of {folder} is left to push: loosen --include or --exclude.")
    for name in wanted:
        own_file(folder, name)
    # The check has compared the files of a checkpoint with these, and nobody those of an addition.
    digests: Mapping[str, str] = manifests.read(folder).get("files", {}) if family else {}
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(
            lambda name: card_file(folder / name, repository) if name in CARDS else _file(folder, name, digests), wanted))
    if family and CONFIGURATION not in present and chosen(CONFIGURATION, include, exclude):
        files.append(Outgoing.of(CONFIGURATION, configuration(family.tasks[0])))
    left = [name for name in present if name not in wanted and not include and chosen(name, (), exclude)]
    notes = (f"Left out what does not belong to the checkpoint: {listing(left, 6)} (--include sends them).",) if left else ()
    return Selection(tuple(sorted(files, key=lambda file: file.name)), frozenset(digests.keys() & set(wanted)), message,
                     notes, tuple(include), tuple(exclude), family.name if family else None)


def _checkpoint(folder: Path) -> tuple[frozenset[str], Family | None, str]:
    """The checkpoint's own files, its family, and a message; FormatError: it has problems."""
    addition = recognise(folder)
    if addition is not None:
        return frozenset(relative_files(folder)), None, f"Upload a {addition.kind} with Danqing"
    if problems := check(folder):
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise FormatError(f"{folder} has {count}, so nothing was sent: {' '.join(problems[:5])}"
                          + (" `danqing check` lists all of them." if len(problems) > 5 else ""), problems=problems)
    found = open_folder(folder)
    return (frozenset(found.names), found.family,
            f"Upload {found.family.name} in the {found.layout.name} layout with Danqing")


def beside(name: str) -> bool:
    """Cards, licences and pictures at the top of a folder go along."""
    return "/" not in name and (name.lower().endswith(BESIDE) or name.lower().startswith(BESIDE_STARTS)
                                or name in (manifests.NAME, CONFIGURATION))


def _file(folder: Path, name: str, digests: Mapping[str, str]) -> Outgoing:
    """A file as it lies there; what danqing.json lists was compared by the check a moment ago."""
    path = folder / name
    return Outgoing(name, path, path.stat().st_size, digests.get(name) or sha256_of(path))


def card_file(place: Path, repository: Repository) -> Outgoing:
    """A card in the hub's spelling, its code with the repository's name. CardError: no hub would take it."""
    from . import cards

    text = cards.read_text(place)
    if place.name == CARD and (problems := cards.validate(text, place.parent)):
        raise CardError(f"{place} would be refused, so nothing was sent: {' '.join(map(str, problems))}", problems=problems)
    return Outgoing.of(place.name, cards.for_hub(text, repository.hub, repository.name).encode())


def _refuse_names(names: Sequence[str], folder: Path) -> None:
    if unsafe := unsafe_names(names, anywhere=True):
        raise RequestError(f"{folder} has names that no hub or not every machine keeps: "
                           f"{listing([repr(each) for each in unsafe])}; rename them.")
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise RequestError(f"{other} and {name} in {folder} differ in case only, and some machines keep one of them: "
                               "rename one.")
