"""Textual inversion files: the placeholder and its vectors, whatever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import pickles
from .errors import FormatError
from .tensors import Tensor, open_safetensors

FILE_NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")
A1111_VECTORS = "emb_params"
"""The only key of a safetensors file by Automatic1111; the placeholder is then the name of the file."""


@dataclass(frozen=True)
class Embedding:
    """A placeholder and its vectors [n, width]."""

    path: Path
    placeholder: str
    vectors: Tensor

    @property
    def tokens(self) -> tuple[str, ...]:
        """One token for each vector: the placeholder itself, then ``placeholder_1``, ``placeholder_2``, ..."""
        return (self.placeholder, *(f"{self.placeholder}_{i}" for i in range(1, self.vectors.shape[0])))


def open_embeddings(path: str | Path) -> tuple[Embedding, ...]:
    """The embeddings of a file, or of a folder that holds ``learned_embeds``.

    Taken are ``{placeholder: vector}`` [width] or [n, width] as diffusers' scripts write it, with any number of
    placeholders, and both forms of Automatic1111. Raises ``FormatError`` for anything else, ``UnsafeError`` for a
    pickle that asks for more than tensors.
    """
    given = Path(path)
    file = next((given / name for name in FILE_NAMES if (given / name).is_file()), given)
    if not file.is_file():
        raise FormatError(f"{given} is neither an embedding file nor a folder with {' or '.join(FILE_NAMES)}.")
    tree = open_safetensors(file) if file.suffix == ".safetensors" else pickles.load(file)
    found = _by_placeholder(tree, file.stem)
    if not found or len({vectors.shape[-1:] for vectors in found.values()}) != 1:
        raise FormatError(f"{file} holds no placeholders with vectors of one width, so it is no textual inversion.")
    return tuple(Embedding(file, name, _rows(name, vectors, file)) for name, vectors in found.items())


def _by_placeholder(tree: Any, stem: str) -> dict[str, Tensor]:
    if not isinstance(tree, Mapping):
        return {}
    if "string_to_param" in tree:
        vectors = tree["string_to_param"]
        vectors = vectors.get("*") if isinstance(vectors, Mapping) else None
        name = str(tree.get("name") or stem)
        return {name: vectors} if isinstance(vectors, Tensor) else {}
    if set(tree) == {A1111_VECTORS}:
        return {stem: tree[A1111_VECTORS]}
    if all(isinstance(vectors, Tensor) for vectors in tree.values()):
        return dict(tree)
    return {}


def _rows(name: str, vectors: Tensor, file: Path) -> Tensor:
    """The vectors of one placeholder as rows."""
    if vectors.ndim not in (1, 2) or not vectors.size:
        raise FormatError(
            f"The vectors of {name} in {file} have shape {list(vectors.shape)}; expected [width] or [n, width].")
    return vectors.reshape((1, vectors.shape[0])) if vectors.ndim == 1 else vectors
