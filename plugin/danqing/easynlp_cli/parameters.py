"""--user_defined_parameters: words of the form key=value, each key known and each value of its type.

The original kept every value as a string, so that `random_crop=False` was true, cut a value at its second `=`, and took
any key without a word. Here `False` is false, a value may hold `=`, and a key that nobody reads is an error.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from typing import Any

from danqing_pack.errors import RequestError

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "")


SAME = {"max_generated_num": "n_samples", "n_samples": "max_generated_num"}
"""What one app calls by another name: how many images of a text."""


def parse_parameters(text: str, known: Mapping[str, type], others: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The values by key, as int, float, bool or str. `others`: keys of other apps, and their apps. Raises RequestError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise RequestError(f"--user_defined_parameters cannot be split into words: {error}.") from None
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise RequestError(f"--user_defined_parameters: {word!r} has no value; write {word}=VALUE.", key=key)
        if key not in known and others and key in others:
            same = f"; the key here is {SAME[key]!r}" if SAME.get(key) in known else ""
            raise RequestError(f"--user_defined_parameters: {key!r} belongs to --app_name={others[key]}{same}.", key=key)
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise RequestError(f"--user_defined_parameters: there is no {key!r}; the nearest is {nearest[0]!r}.",
                               key=key)
        found[key] = _typed(key, value, known[key])
    return found


def _typed(key: str, value: str, kind: type) -> Any:
    if kind is bool:
        word = value.lower()
        if word in TRUE or word in FALSE:
            return word in TRUE
        raise RequestError(f"--user_defined_parameters: {key} is True or False, not {value!r}.", key=key)
    try:
        return kind(value)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise RequestError(f"--user_defined_parameters: {key} is {noun}, not {value!r}.", key=key) from None
