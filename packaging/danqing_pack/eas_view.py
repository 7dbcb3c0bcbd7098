"""A service JSON by places, and what is said of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem: where, what, and what to do about it."""

    place: str
    fact: str
    remedy: str
    level: str = "error"

    def __str__(self) -> str:
        return f"{self.level}: {self.place}: {self.fact}; {self.remedy}."


class View:
    """A service JSON by places: `view.get("metadata.rpc.keepalive")` finds a value however its keys are spelt."""

    def __init__(self, service: dict[str, Any]) -> None:
        self.service = service

    def get(self, place: str, default: Any = None) -> Any:
        """The first value at a place that has no list on its way."""
        return next((value for _, value in _at(self.service, place.split("."))), default)

    def find(self, place: str) -> Iterator[tuple[str, Any]]:
        """Every (place as it is written, value); `containers[].port` goes through a list."""
        parts = place.split("[].", 1)
        for written, value in _at(self.service, parts[0].split(".")):
            if len(parts) == 1:
                yield written, value
                continue
            for index, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, dict):
                    for inner, leaf in View(item).find(parts[1]):
                        yield f"{written}[{index}].{inner}", leaf

    def text(self, place: str) -> str:
        """The text at a place; empty where there is none, or none that is text."""
        value = self.get(place)
        return value if isinstance(value, str) else ""


def _at(value: Any, parts: list[str]) -> Iterator[tuple[str, Any]]:
    """Values under a path, each step of which may be a key of its own or part of a dotted one."""
    if not isinstance(value, dict):
        return
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if name not in value:
            continue
        if count == len(parts):
            yield name, value[name]
        else:
            for written, leaf in _at(value[name], parts[count:]):
                yield f"{name}.{written}", leaf


def shown(value: Any) -> str:
    """A value for a sentence: short, on one line, printable."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of more than thirty digits"
    text = value if isinstance(value, str) else json.dumps(value) if not isinstance(value, (dict, list)) else word(value)
    text = text if len(text) <= 60 else f"{text[:60]}..."
    return text if text.isprintable() and text.strip() == text and text else ascii(text)


def word(value: Any) -> str:
    """What kind of value this is, for a sentence."""
    kinds: list[tuple[type, Callable[[Any], str]]] = [
        (bool, lambda each: str(each).lower()), (str, lambda each: f'the text "{shown(each)}"'),
        (dict, lambda each: "an object"), (list, lambda each: "a list"), (type(None), lambda each: "null")]
    return next((say(value) for kind, say in kinds if isinstance(value, kind)), f"the number {shown(value)}" if isinstance(
        value, (int, float)) else type(value).__name__)
