"""What a layout is: how a checkpoint lies on disk, with no word of what the checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import pickles
from ..errors import FormatError, listing
from ..sides import Blob, Legacy, Modern
from ..tensors import Tensor, write_safetensors

Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


@dataclass(frozen=True)
class Contents:
    """The files of a folder that is to be written, by relative name: small ones, and state dicts."""

    small: Mapping[str, Blob]
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Safetensors or pickles, by the ending of the name."""
    wrapper: str = ""
    """The key that pickled state dicts are wrapped in; empty for flat ones."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file; of weights those of the tensors alone."""
        small = {name: len(blob) if isinstance(blob, bytes) else blob.stat().st_size for name, blob in self.small.items()}
        return small | {name: sum(each.nbytes for each in state.values()) for name, state in self.weights.items()}

    def write(self, folder: Path, progress: Progress | None = None) -> dict[str, str]:
        """Lay them down in an existing folder; sha256 by relative name."""
        digests = {name: write_blob(folder, name, blob) for name, blob in sorted(self.small.items())}
        for name, state in sorted(self.weights.items()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".safetensors"):
                digests[name] = write_safetensors(folder / name, state, {"format": "pt"}, progress=progress)
            else:
                flat = dict(sorted(state.items()))
                digests[name] = pickles.dump(folder / name, {self.wrapper: flat} if self.wrapper else flat, progress=progress)
        return digests


@dataclass(frozen=True)
class Layout:
    """One way to lay a checkpoint down."""

    name: str
    side: type[Legacy] | type[Modern]
    marks: str
    """What this layout is recognised by, for messages."""
    matches: Callable[[Path], bool]
    open: Callable[[Path], Legacy | Modern]
    files: Callable[[Path], tuple[str, ...]]
    """Relative names of the files that belong to the checkpoint: what is hashed, packed and pushed."""
    contents: Callable[[Any], Contents]
    """What writing a form of this side comes to."""


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
