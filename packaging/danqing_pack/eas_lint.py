"""Every problem of a PAI-EAS service JSON at once, each with its place and its remedy.

    for problem in lint_text(text): print(problem)

An error is what EAS refuses or what cannot work. A warning is what most likely is not meant. A hint is what works and
could be said better.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from .eas_keys import ALIASES, CLOSED_VALUES, EXCLUSIVE, SERVICE, Key, places
from .eas_rules import RULES
from .eas_view import Problem, View, shown, word

LEVELS = ("error", "warning", "hint")
PLACEHOLDER = re.compile(r"<[^<>\s](?:[^<>\n]*[^<>\s])?>|\*{3,}")
FILLER = re.compile(r"your[-_ ]\w", re.IGNORECASE)
TRUTHS = {"true": True, "false": False}
DEEPEST = 60
"""Levels of nesting that are looked at; the deepest documented key lies at six."""
LARGE = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])i?b?\s*", re.IGNORECASE)


def lint_text(text: str | bytes, steps: int = 20, images: int = 1) -> list[Problem]:
    """The problems of a service JSON as it lies in a file; also what is no JSON, and keys that are given twice.

    steps, images: the largest request that the service is to answer, against which its keepalive is measured.
    """
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        twice.extend(dict.fromkeys(name for name in names if names.count(name) > 1))
        return dict(found)

    try:
        value = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff"),
                           object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        return [Problem(f"byte {error.start}", "this is not UTF-8", "save the file in UTF-8")]
    except json.JSONDecodeError as error:
        return [Problem(f"line {error.lineno}, column {error.colno}", f"this is not JSON ({error.msg})",
                        "mend it there; mind commas and quotes")]
    except (ValueError, RecursionError):
        return [Problem("the file", "this is not JSON that can be read", "write one object of plain values")]
    return [Problem(shown(name), "the key is given twice in one map, and the last one wins", "remove one of them")
            for name in twice] + lint(value, steps, images)


def lint(service: Any, steps: int = 20, images: int = 1) -> list[Problem]:
    """The problems of a service JSON that has been parsed, errors first; never raises."""
    if not isinstance(service, dict):
        return [Problem("the file", f"a service is a JSON object, and this is {word(service)}",
                        'write one such as {"metadata": {"name": "...", "instance": 1}, ...}')]
    view = View(service)
    found = [*_walk(service, SERVICE, ""), *_exclusive(view), *_aliases(view)]
    for rule in RULES:
        found += rule(view, steps, images)
    return sorted(dict.fromkeys(found), key=lambda each: LEVELS.index(each.level))


# ---- every key and value by itself

def _walk(value: Any, key: Key, place: str, depth: int = 0) -> Iterator[Problem]:
    if depth > DEEPEST:
        yield Problem(place[:100], "this is nested more deeply than any key that EAS knows", "remove it")
        return
    if isinstance(value, str):
        yield from _placeholders(value, place)
    if not _fits(value, key):
        yield from _mistyped(value, key, place)
    elif key.kind.startswith("whole") and not isinstance(value, str):
        yield from _out_of_bounds(value, key, place)
    elif key.values and value not in key.values:
        yield _unknown_value(value, key, place)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entry(name, inner, key, place, depth)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, key.items or Key("any", open=True), f"{place}[{index}]", depth + 1)


def _entry(name: str, value: Any, key: Key, place: str, depth: int) -> Iterator[Problem]:
    here = f"{place}.{shown(name)}" if place else shown(name)
    inner = key.below(name)
    is_map = "map" in key.kind
    if inner is None and is_map and not key.open:
        yield _unknown(name, key, here)
    elif inner is None and is_map and key.keys:
        near = _nearest(name, tuple(key.keys))
        if near:
            yield Problem(here, "EAS knows no such key here", f"did you mean {near}?", "warning")
    anything = key.items if is_map and key.items is not None else Key("any", open=True)
    yield from _walk(value, inner or anything, here, depth + 1)


def _unknown(name: str, key: Key, here: str) -> Problem:
    near = _nearest(name, key.names_below() if "." in name else tuple(key.keys))
    if near:
        return Problem(here, "EAS knows no such key", f"write {near}")
    elsewhere = list(places(name))
    if elsewhere:
        return Problem(here, "EAS does not look for this key here", f"it belongs at {elsewhere[0]}")
    return Problem(here, "this key is not documented", "check its name, or remove it", "warning")


def _nearest(name: str, names: tuple[str, ...]) -> str:
    """The known name that was meant, if one is near: by letters alone first, then by spelling."""
    plain = {_letters(each): each for each in names}
    if _letters(name) in plain:
        return plain[_letters(name)]
    close = get_close_matches(_letters(name)[:80], plain, n=1, cutoff=0.8)
    return plain[close[0]] if close else ""


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def _fits(value: Any, key: Key) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    fitting = {"text": isinstance(value, str), "whole": is_whole, "flag": isinstance(value, bool),
               "map": isinstance(value, dict), "list": isinstance(value, list), "any": True}
    return any(fitting[kind] for kind in key.kind.split("|"))


def _mistyped(value: Any, key: Key, place: str) -> Iterator[Problem]:
    unit = f" of {key.unit}" if key.unit else ""
    if key.kind == "flag" and isinstance(value, str) and value.lower() in TRUTHS:
        yield Problem(place, f"this is the text {shown(value)}", f"write {value.lower()} without quotes", "hint")
        return
    words = {"text": "a text", "whole": f"a whole number{unit}", "flag": "true or false", "map": "an object",
             "list": "a list", "any": "anything"}
    wanted = " or ".join(words[kind] for kind in key.kind.split("|"))
    yield Problem(place, f"this must be {wanted}, and it is {word(value)}", _retyped(value, key) or f"write {wanted}")


def _retyped(value: Any, key: Key) -> str:
    """What to write instead, where that can be told."""
    if "whole" in key.kind:
        if isinstance(value, float) and value.is_integer():
            return f"write {int(value)}"
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
            return f"write {int(value)} without quotes"
        if isinstance(value, str) and key.unit == "MB" and (size := SIZE.fullmatch(value[:40])):
            return f"write {max(1, round(float(size[1]) * LARGE[size[2].lower()]))}, which is that in MB"
    if key.kind == "text" and isinstance(value, (int, float)):
        return f'write "{shown(value)}" in quotes'
    if key.kind == "list" and isinstance(value, dict):
        return "put it into [ ]"
    return ""


def _out_of_bounds(value: Any, key: Key, place: str) -> Iterator[Problem]:
    unit = f" {key.unit}" if key.unit else ""
    if key.least is not None and value < key.least:
        yield Problem(place, f"{shown(value)} is below the least of {key.least}{unit}", f"write at least {key.least}")
    if key.most is not None and value > key.most:
        yield Problem(place, f"{shown(value)} is above the most of {key.most}{unit}", f"write at most {key.most}")


def _unknown_value(value: Any, key: Key, place: str) -> Problem:
    near = _nearest(str(value), key.values)
    closed = place.rpartition(".")[2] in CLOSED_VALUES
    every = ", ".join(f'"{each}"' for each in key.values)
    return Problem(place, f"EAS's documentation knows no {shown(value)} here",
                   f'write "{near}"' if near else f"it knows {every}", "error" if closed or near else "warning")


def _placeholders(value: str, place: str) -> Iterator[Problem]:
    found = PLACEHOLDER.search(value)
    if found:
        yield Problem(place, f"the placeholder {shown(found[0])} was left in", "fill it in")
    elif FILLER.match(value):
        yield Problem(place, f"{shown(value)} looks like a placeholder", "fill it in", "warning")


# ---- pairs

def _exclusive(view: View) -> Iterator[Problem]:
    for one, other in EXCLUSIVE:
        list_name, _, _ = one.partition("[].")
        scopes = [view] if "[]" not in one else [
            View(item) for item in _items(view.get(list_name)) if isinstance(item, dict)]
        for index, scope in enumerate(scopes):
            inner, outer = (each.partition("[].")[2] or each for each in (one, other))
            written = [next(scope.find(each), None) for each in (inner, outer)]
            if all(each is not None and each[1] not in ("", None, {}, []) for each in written):
                place = f"{list_name}[{index}].{inner}" if "[]" in one else one
                yield Problem(place, f"this and {outer} exclude each other", "remove one of them")


def _aliases(view: View) -> Iterator[Problem]:
    for one, other in ALIASES:
        first, second = view.get(one), view.get(other)
        if isinstance(first, dict) or first is None or second is None:
            continue
        if first != second:
            yield Problem(one, f"this says {shown(first)}, and {other}, another name for it, says {shown(second)}",
                          "say the same at both, or remove one")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
