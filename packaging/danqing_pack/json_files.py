"""JSON as this project reads and writes it: objects, and the same bytes for the same value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import FormatError


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and a final newline."""
    return (json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def parse_json(data: bytes, place: str) -> dict[str, Any]:
    """The JSON object in ``data``, which lies at ``place``. Raises FormatError with one sentence about it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place} is no valid JSON ({error}); restore it from its source.", place=place) from error
    if not isinstance(value, dict):
        raise FormatError(f"{place} holds no JSON object; restore it from its source.", place=place)
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises FormatError as ``parse_json`` does, or where the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path.name} in {path.parent} cannot be read ({error.strerror}); check its permissions.",
                          path=path) from error
    return parse_json(data, f"{path.name} in {path.parent}")
