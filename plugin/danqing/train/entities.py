"""The entities of the knowledge variant: which known things a text names, where, and their vectors.

A table for it has four more columns, numbers separated by spaces. `lex_id` holds the entities' rows in the matrix of
vectors. `pos_s` and `pos_e` hold the first and the last token of everything: of the `token_len` tokens of the text
first (each stands at its own place), then of the entities. Row 0 of the matrix stands for no entity.

Source: TextImageKnowlDataset of EasyNLP, and the script that prepared its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from danqing_pack import pickles
from danqing_pack.errors import FormatError
from danqing_pack.tensors import Tensor as StoredTensor
from numpy.typing import NDArray
from torch import Tensor

from .options import ENTITIES

COLUMNS = ("lex_id", "pos_s", "pos_e", "token_len")


class Span(NamedTuple):
    """An entity under the tokens `first` to `last` of a text."""

    entity: int
    first: int
    last: int


class NoSpans(ValueError):
    """Why a row's columns name no entities, as the second half of a sentence."""


def spans_of(cells: Mapping[str, str]) -> list[Span]:
    """The entities that the four columns of a row name. Raises NoSpans."""
    numbers = {name: _numbers(name, cells[name]) for name in COLUMNS}
    entities = numbers["lex_id"]
    if not entities:
        return []
    if len(numbers["token_len"]) != 1:
        raise NoSpans(f"token_len is one number, not {cells['token_len']!r:.80}")
    [tokens] = numbers["token_len"]
    starts, ends = numbers["pos_s"][tokens:], numbers["pos_e"][tokens:]
    for name, found in (("pos_s", starts), ("pos_e", ends)):
        if len(found) != len(entities):
            raise NoSpans(f"{name} has {len(numbers[name])} numbers, where {tokens} tokens and {len(entities)} "
                          "entities need one each")
    return [Span(*each) for each in zip(entities, starts, ends, strict=True)]


def _numbers(name: str, cell: str) -> list[int]:
    words = cell.split()
    if not all(word.isascii() and word.isdigit() for word in words):
        raise NoSpans(f"{name} holds whole numbers separated by spaces, not {cell!r:.80}")
    return [int(word) for word in words]


class EntityVectors:
    """The matrix of vectors, float [entities, width], as it lies in its file; memory-mapped where the file allows."""

    def __init__(self, path: str | Path, count: int = ENTITIES) -> None:
        """`count`: how many entities of a text count. Raises FormatError: there is no such matrix."""
        self.path, self.count = Path(path), count
        if not self.path.is_file():
            raise FormatError(f"There is no file of entity vectors {path}.", path=self.path)
        found: Any = pickles.load(self.path)
        if not isinstance(found, StoredTensor) or found.ndim != 2 or found.dtype.kind != "f":
            raise FormatError(f"{path} holds no matrix of entity vectors (floats, one row for each entity), as "
                              "torch.save writes it.", path=self.path)
        self._matrix: NDArray[Any] = found.array()

    @property
    def width(self) -> int:
        """Of a vector."""
        return int(self._matrix.shape[1])

    def require_width(self, width: int, model: str) -> None:
        """FormatError unless a painter with vectors of `width` (0: one without knowledge) can read these."""
        if not width:
            raise FormatError(f"{model} knows no entities (it has no ent_emb): leave the entity vectors out.")
        if width != self.width:
            raise FormatError(f"The vectors in {self.path} have the width {self.width}, and {model} reads {width}; "
                              "they belong to another model.", path=self.path)

    def check(self, spans: Iterable[Span]) -> None:
        """NoSpans if an entity has no vector."""
        for span in spans:
            if span.entity >= len(self._matrix):
                raise NoSpans(f"there is no entity {span.entity} in {self.path}, which holds {len(self._matrix):,}")

    def knowledge(self, rows: Iterable[Iterable[Span]], text_length: int) -> dict[str, Tensor]:
        """`words` int64 [rows, count, text_length] and the `entity_embeddings` float32 [named, width] that they name.

        Only the vectors in use are read: a released matrix holds millions. Raises NoSpans.
        """
        listed = [list(spans)[: self.count] for spans in rows]
        words = np.zeros((len(listed), self.count, text_length), dtype=np.int64)
        for row, spans in enumerate(listed):
            self.check(spans)
            for place, span in enumerate(spans):
                words[row, place, span.first : span.last + 1] = span.entity
        named, places = np.unique(words, return_inverse=True)
        vectors = np.asarray(self._matrix[named], dtype=np.float32)
        return {"words": torch.from_numpy(places.reshape(words.shape)), "entity_embeddings": torch.from_numpy(vectors)}
