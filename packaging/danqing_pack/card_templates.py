"""Model card templates: where they lie, and how one is filled.

A template is a card with places to fill. ``{{name}}`` stands for a value, and a line with a value that nobody knows is
left out. A line that begins with ``{{?name}}`` or ``{{!name}}`` is there only if the value is known, or only if it is
not. ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` enclose what is made anew with each generation; a part of which
nothing but headings is left goes too. The first line names the prompts of the family's example pictures, and lines like
it those for models whose vocabulary lacks them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from .errors import CardError

FOLDER = "model_cards"
LANGUAGES = ("en", "zh")
_PROMPTS = re.compile(r"<!-- prompts: (.+?) -->\n")
_PARTS = re.compile(r"<!-- begin ([\w-]+) -->\n(.*?)<!-- end \1 -->\n", re.DOTALL)
_PLACE = re.compile(r"\{\{([\w.]+)\}\}")
_CONDITION = re.compile(r"\{\{([?!])([\w.]+)\}\}")


@dataclass(frozen=True)
class Template:
    """A template taken apart. ``pieces`` are texts, which a person may change, and parts with a name, which are made."""

    prompts: tuple[str, ...]
    other_prompts: tuple[tuple[str, ...], ...]
    pieces: tuple[tuple[str | None, str], ...]


@cache
def template(family: str, language: str) -> Template:
    """The template of a family. CardError: there is none."""
    name = f"{family}.{language}.md"
    place = folder() / name
    if not place.is_file():
        raise CardError(f"There is no card template {name}; write one beside those in {FOLDER}.", family=family)
    return parse(place.read_text(encoding="utf-8"))


def folder() -> Traversable:
    """Where the templates lie: in the package of an installed wheel, else at the root of the checkout."""
    inside = files("danqing_pack") / FOLDER
    return inside if inside.is_dir() else Path(__file__).parents[2] / FOLDER


def parse(text: str) -> Template:
    """A template from its text."""
    body, prompts = text, []
    while (found_prompts := _PROMPTS.match(body)) is not None:
        prompts.append(tuple(each.strip() for each in found_prompts[1].split("|")))
        body = body[found_prompts.end():]
    pieces: list[tuple[str | None, str]] = []
    at = 0
    for found in _PARTS.finditer(body):
        pieces += [(None, body[at:found.start()]), (found[1], found[2])]
        at = found.end()
    pieces.append((None, body[at:]))
    return Template(prompts[0] if prompts else (), tuple(prompts[1:]),
                    tuple((name, piece) for name, piece in pieces if piece))


def fill(text: str, known: Mapping[str, str | None]) -> str:
    """The text with its places filled, lines without a value left out, and never two empty lines in a row."""
    lines = [filled for line in text.splitlines() if (filled := _line(line, known)) is not None]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def is_empty(text: str) -> bool:
    """Whether nothing but headings is left."""
    return all(not line.strip() or line.startswith("#") for line in text.splitlines())


def _line(line: str, known: Mapping[str, str | None]) -> str | None:
    while (condition := _CONDITION.match(line)) is not None:
        if (_value(condition[2], known) is None) == (condition[1] == "?"):
            return None
        line = line[condition.end():]
    if any(_value(name, known) is None for name in _PLACE.findall(line)):
        return None
    return _PLACE.sub(lambda place: str(known[place[1]]), line)


def _value(name: str, known: Mapping[str, str | None]) -> str | None:
    """What is known; a name that nobody has heard of is a fault of the template. CardError."""
    if name not in known:
        raise CardError(f"A card template asks for {name}, which no card knows; the names are {', '.join(sorted(known))}.")
    return known[name]
