"""Pairs of text and image for training and prediction, from a TSV table or an image folder, each in any order.

    from danqing_pack.examples import open_examples

    examples = open_examples("train.tsv")           # or an image folder; a torch DataLoader takes it as it is
    len(examples)                                   # int
    examples[3]                                     # Example(idx="4", text="...", image_bytes=b"\\x89PNG...")
    examples.where(3)                               # "line 4 of train.tsv", for an error about this example
    for example in examples: ...                    # in order

Opening reads the file once, to note where each row begins (16 bytes a row); nothing else is kept, and reading one
example reads its row alone. Examples hold no open file: they can be pickled, forked and read from several threads.
image_bytes is the image file as it was (PNG, JPEG, ...), not decoded. A row that cannot be read raises FormatError,
which names the line, when it is asked for. An empty text is an example. idx is the row's number (from 1) where the
table has no such column.
"""
from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from .errors import FormatError
from .image_folders import ImageFolder
from .tables import Line, Schema, Table


class Example(NamedTuple):
    """One pair. image_bytes: the image file's content."""

    idx: str
    text: str
    image_bytes: bytes


class Examples(Sequence[Example]):
    """The rows of a table or an image folder; see the module."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._read(self._rows[index], index % len(self))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def text(self, index: int) -> str:
        """The text alone, without decoding or opening the image."""
        raise NotImplementedError

    def cell(self, index: int, column: str) -> str:
        """Another column as text. Raises RequestError and FormatError: there is none."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """The place of an example, for a sentence."""
        return f"line {self._rows.number(index)} of {self._rows.path}"

    def _read(self, line: Line, index: int) -> Example:
        raise NotImplementedError


class TableExamples(Examples):
    """The rows of a table."""

    def __init__(self, table: Table, text_column: str, image_column: str) -> None:
        self._table = table
        self._text, self._image = table.schema.index(text_column), table.schema.index(image_column)
        self._idx = table.schema.names.index("idx") if "idx" in table.schema.names else None
        super().__init__(_Rows(table.path, table.lines()))

    def text(self, index: int) -> str:
        line = self._rows[index]
        return self._table.text(line, self._table.cells(line)[self._text])

    def cell(self, index: int, column: str) -> str:
        line = self._rows[index]
        return self._table.text(line, self._table.cells(line)[self._table.schema.index(column)], column)

    def _read(self, line: Line, index: int) -> Example:
        cells = self._table.cells(line)
        idx = str(index + 1) if self._idx is None else self._table.text(line, cells[self._idx], "idx")
        return Example(idx, self._table.text(line, cells[self._text]), self._table.image(line, cells[self._image]))


class FolderExamples(Examples):
    """The images of a folder that its metadata names."""

    def __init__(self, folder: ImageFolder, text_key: str) -> None:
        self._folder, self._text = folder, text_key
        super().__init__(_Rows(folder.metadata, folder.lines()))

    def text(self, index: int) -> str:
        line = self._rows[index]
        return self._folder.text(line, self._folder.record(line), self._text)

    def cell(self, index: int, column: str) -> str:
        line = self._rows[index]
        return self._folder.text(line, self._folder.record(line), column)

    def _read(self, line: Line, index: int) -> Example:
        record = self._folder.record(line)
        idx = self._folder.text(line, record, "idx") if "idx" in record else str(index + 1)
        return Example(idx, self._folder.text(line, record, self._text), self._folder.image(line, record))


def open_examples(path: str | os.PathLike[str], schema: Schema | str | None = None, *, text_column: str = "text",
                  image_column: str = "imgbase64", encoding: str = "utf-8", skip_first_line: bool = False) -> Examples:
    """The examples of a TSV file, or of a folder with metadata.jsonl, which takes `text_column` alone.

    schema: `name:type:length,...`; None: (idx, text, imgbase64) or (text, imgbase64), by the first row's cells.
    Raises FormatError: no such table, no rows; RequestError: an unknown column or encoding.
    """
    examples: Examples
    if Path(path).is_dir():
        examples = FolderExamples(ImageFolder(path), text_column)
    else:
        table = Table(path, schema, encoding=encoding, skip_first_line=skip_first_line)
        examples = TableExamples(table, text_column, image_column)
    if not examples:
        raise FormatError(f"{path} has no rows.", path=Path(path))
    return examples


def require_examples(path: str | os.PathLike[str], schema: Schema | str | None = None, *, text_column: str = "text",
                     image_column: str = "imgbase64", encoding: str = "utf-8", skip_first_line: bool = False) -> None:
    """Refuse what `open_examples` would, and a first row that cannot be read: a look at the beginning alone."""
    if Path(path).is_dir():
        folder = ImageFolder(path)
        if line := next(folder.lines(), None):
            folder.text(line, folder.record(line), text_column)
        return
    table = Table(path, schema, encoding=encoding, skip_first_line=skip_first_line)
    text, image = table.schema.index(text_column), table.schema.index(image_column)
    line = next(table.lines(), None)
    if line is None:
        raise FormatError(f"{path} has no rows.", path=Path(path))
    cells = table.cells(line)
    table.image(line, cells[image])
    table.text(line, cells[text])


class _Rows:
    """Where each row of a file begins, and its line number."""

    def __init__(self, path: Path, lines: Iterable[Line]) -> None:
        self.path = path
        self._offsets, self._numbers = array("Q"), array("Q")
        self._stamp = _stamp(os.stat(path))
        for line in lines:
            self._offsets.append(line.offset)
            self._numbers.append(line.number)

    def __len__(self) -> int:
        return len(self._offsets)

    def number(self, index: int) -> int:
        return self._numbers[index]

    def __getitem__(self, index: int) -> Line:
        offset = self._offsets[index]
        try:
            with open(self.path, "rb", buffering=1 << 17) as file:
                if _stamp(os.fstat(file.fileno())) == self._stamp:
                    file.seek(offset)
                    return Line(self._numbers[index], offset, file.readline())
        except FileNotFoundError:
            pass
        raise FormatError(f"{self.path} changed while it was being read: start again.", path=self.path)


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns
