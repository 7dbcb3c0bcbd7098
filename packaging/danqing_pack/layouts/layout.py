"""What a layout is: how a checkpoint lies on disk, with no word of what the checkpoint is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..sides import Blob, Legacy, Modern

Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


@dataclass(frozen=True)
class Layout:
    """One way to lay a checkpoint down. ``write`` returns the sha256 of each file by relative name."""

    name: str
    side: type[Legacy] | type[Modern]
    marks: str
    """What this layout is recognised by, for messages."""
    matches: Callable[[Path], bool]
    open: Callable[[Path], Legacy | Modern]
    files: Callable[[Path], tuple[str, ...]]
    """Relative names of the files that belong to the checkpoint: what is hashed, packed and pushed."""
    write: Callable[[Any, Path, Progress | None], dict[str, str]]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or one sentence about it."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path.name} in {path.parent} cannot be read ({error.strerror}); check its permissions.",
                          path=path) from error
    except ValueError as error:
        raise FormatError(f"{path.name} in {path.parent} is no valid JSON ({error}); restore it from its source.",
                          path=path) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path.name} in {path.parent} holds no JSON object; restore it from its source.", path=path)
    return value


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and a final newline: the same value gives the same bytes."""
    return (json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def relative_files(folder: Path) -> Iterable[str]:
    """Every regular file below a folder, by its relative POSIX name, sorted; hidden names are passed over."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def write_blob(folder: Path, name: str, blob: Blob) -> str:
    """Write a small file below ``folder``; its sha256."""
    from hashlib import sha256

    from ..sides import content

    data = content(blob)
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return sha256(data).hexdigest()
