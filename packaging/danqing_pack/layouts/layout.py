"""What a layout is: how a checkpoint lies on disk, with no word of what the checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError, listing
from ..sides import Blob, Legacy, Modern
from ..tensors import Tensor

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


WRAPPER = "state_dict"
"""The key that Lightning and its like wrap a state dict in."""


def flat_state(tree: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict in what a weights file holds, and the key it was wrapped in, if any.

    Other keys around a wrapped one are training leftovers and are passed over. Raises FormatError: there is no flat
    state dict, or it holds entries that are no tensors.
    """
    wrapper = WRAPPER if isinstance(tree, Mapping) and isinstance(tree.get(WRAPPER), Mapping) else ""
    state = tree[wrapper] if wrapper else tree
    if not isinstance(state, Mapping) or not state:
        raise FormatError(f"{path.name} in {path.parent} holds no state dict; it is no checkpoint.", path=path)
    foreign = sorted(str(name) for name, value in state.items() if not isinstance(value, Tensor))
    if foreign:
        raise FormatError(f"{path.name} in {path.parent} holds entries that are no tensors: {listing(foreign)}; save its "
                          "state dict alone.", path=path, keys=foreign)
    return {str(name): value for name, value in state.items()}, wrapper
