"""A card that is there and a card that is to be: what a person wrote stays, what was generated is renewed.

The last line of a generated card is a record of it: the language, the place that its code names, the digest of every
front matter key that was generated, and the parts it had. A key or part that no longer has its digest is somebody's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from . import front_matter
from .card_code import Place
from .card_code import moved as moved_code
from .errors import CardError

_PART = re.compile(r"<!-- danqing:begin ([\w-]+) ([0-9a-f]{8}) -->\n(.*?)<!-- danqing:end \1 -->\n?", re.DOTALL)
_MARK = re.compile(r"<!-- danqing:(begin|end) ([\w-]+)[^>]*-->")
_RECORD = re.compile(r"<!-- danqing:card (\{.*\}) -->\n?")
_LINK = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Record:
    """What a generated card remembers of itself."""

    language: str | None = None
    model: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    def line(self) -> str:
        """The record as an HTML comment."""
        found = {"keys": dict(self.keys), "language": self.language, "model": self.model, "parts": list(self.parts)}
        data = json.dumps(found, ensure_ascii=False, sort_keys=True).replace(">", "\\u003e")
        return f"<!-- danqing:card {data} -->\n"

    @classmethod
    def of(cls, body: str) -> Record:
        """The record in a card's body; an empty one where there is none that can be read."""
        found = _RECORD.search(body)
        try:
            said = json.loads(found[1]) if found else {}
        except ValueError:
            said = {}
        keys, parts = said.get("keys"), said.get("parts")
        return cls(said.get("language"), str(said.get("model") or ""), keys if isinstance(keys, dict) else {},
                   tuple(map(str, parts)) if isinstance(parts, list) else ())


@dataclass(frozen=True)
class Card:
    """A card that is there."""

    front: str
    values: Mapping[str, Any]
    body: str
    record: Record

    def own(self, key: str) -> Any:
        """A front matter value that somebody wrote by hand, or None."""
        value = self.values.get(key)
        return None if value is None or front_matter.digest(key, value) == self.record.keys.get(key) else value


@dataclass(frozen=True)
class Draft:
    """A card to be: values of the front matter, and pieces of text, of which those with a name are generated parts."""

    front: Mapping[str, Any]
    pieces: tuple[tuple[str | None, str], ...]
    record: Record

    @property
    def parts(self) -> dict[str, str]:
        """The generated parts in order."""
        return {name: text for name, text in self.pieces if name is not None}


def read_text(path: Path) -> str:
    """The text of a card, its lines ended by a line feed alone. CardError: it is no UTF-8, or cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CardError(f"{path} is no UTF-8 text; save it as UTF-8, or write to another file with --out.") from error
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror}); check it, or write to another file with --out.") from error


def read(path: Path) -> Card | None:
    """The card at a path, None where there is none. CardError: it cannot be read."""
    if not path.exists():
        return None
    text = read_text(path)
    front, body = front_matter.split(text)
    try:
        values = front_matter.values(front or "")
    except ValueError as error:
        raise CardError(f"The front matter of {path} is {error}; correct it, or write to another file with --out.") from error
    return Card(front or "", values, body, Record.of(body))


def compose(draft: Draft) -> tuple[str, tuple[str, ...]]:
    """A new card."""
    body = "".join(text if name is None else _marked(name, text) for name, text in draft.pieces)
    body = re.sub(r"\n{3,}", "\n\n", body).strip("\n")
    record = replace(draft.record, keys=_digests(draft.front), parts=tuple(draft.parts))
    blocks = {key: front_matter.block(key, value) for key, value in draft.front.items()}
    return front_matter.join(blocks, f"\n{body}\n\n{record.line()}"), ()


def merge(there: Card, draft: Draft, forced: set[str]) -> tuple[str, tuple[str, ...]]:
    """The card that is there with its generated parts renewed, and a line for each that stays since it was changed.

    ``forced`` are keys that are set whoever wrote them.
    """
    blocks, keys = _merged_front(there, draft, forced)
    body, kept = _merged_body(there, draft)
    notes = tuple(
        f"The part {name} was changed by hand and stays as it is. To have it written anew, delete everything from "
        f"<!-- danqing:begin {name} ... --> to <!-- danqing:end {name} -->, and in the comment in the card's last line the "
        f"word \"{name}\" from the list \"parts\"; then run `danqing card` again." for name in kept)
    parts = tuple(dict.fromkeys((*there.record.parts, *draft.parts)))
    line = replace(draft.record, keys=keys, parts=parts).line()
    if _RECORD.search(body):
        body = _RECORD.sub(lambda found: line, body, count=1)
    else:
        body = f"{body.rstrip()}\n\n{line}"
    return front_matter.join(blocks, body), notes


def _merged_front(there: Card, draft: Draft, forced: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    blocks, known = front_matter.blocks(there.front), dict(there.record.keys)
    for key, value in draft.front.items():
        fresh = front_matter.digest(key, value)
        if key not in there.values:
            if key in known and key not in forced:
                continue                                # taken away by hand
            blocks[key] = front_matter.block(key, value)
        elif key in forced or there.own(key) is None:
            if front_matter.digest(key, there.values[key]) != fresh:
                blocks[key] = front_matter.block(key, value)
        else:
            continue                                    # written by hand
        known[key] = fresh
    for key in known.keys() - draft.front.keys():
        if key in there.values and there.own(key) is None:
            del blocks[key]
            del known[key]
    return blocks, known


def _merged_body(there: Card, draft: Draft) -> tuple[str, list[str]]:
    kept: list[str] = []
    present: list[str] = []

    def renewed(found: re.Match[str]) -> str:
        name, was, text = found[1], found[2], found[3]
        present.append(name)
        if _digest(text) != was:
            kept.append(name)
            return found[0]
        return _marked(name, draft.parts[name]) if name in draft.parts else ""

    body = _PART.sub(renewed, there.body)
    for at, (name, text) in enumerate(draft.parts.items()):
        if name not in present and name not in there.record.parts:
            body = _inserted(body, _marked(name, text), list(draft.parts)[:at])
    return body, kept


def _inserted(body: str, part: str, before: list[str]) -> str:
    """The body with a new part behind the last of those before it, else at the end."""
    places = [found.end() for found in _PART.finditer(body) if found[1] in before]
    record = _RECORD.search(body)
    at = places[-1] if places else record.start() if record else len(body)
    return f"{body[:at].rstrip()}\n\n{part}\n{body[at:].lstrip()}"


def moved(text: str, target: Place) -> str:
    """A card whose generated code names ``target``; parts keep their digests up to date, unless somebody changed them."""
    front, body = front_matter.split(text)
    record = Record.of(body)
    if not record.model or record.model == target.words:
        return text
    source = Place.of(record.model)

    def there(found: re.Match[str]) -> str:
        fresh = moved_code(found[3], source, target)
        return _marked(found[1], fresh) if _digest(found[3]) == found[2] else found[0].replace(found[3], fresh)

    line = replace(record, model=target.words).line()
    body = _RECORD.sub(lambda found: line, _PART.sub(there, body), count=1)
    return body if front is None else front_matter.join({"": front}, body)


def problems(body: str, folder: Path | None) -> list[str]:
    """One sentence for each marker without its other half, and each picture that is not there."""
    said = []
    marks = [(found[1], found[2]) for found in _MARK.finditer(body)]
    whole = [found[1] for found in _PART.finditer(body)]
    for name in dict.fromkeys(name for _, name in marks):
        if marks.count(("begin", name)) != whole.count(name) or marks.count(("end", name)) != whole.count(name):
            said.append(f"The card's part {name} has a damaged marker; restore it, or take out both of its markers.")
    for link in dict.fromkeys(_LINK.findall(body)):
        if folder is not None and "://" not in link and not (folder / unquote(link)).is_file():
            said.append(f"The card shows {link}, and there is no such file beside it.")
    return said


def _marked(name: str, text: str) -> str:
    return f"<!-- danqing:begin {name} {_digest(text)} -->\n{text}<!-- danqing:end {name} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _digests(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: front_matter.digest(key, value) for key, value in values.items()}
