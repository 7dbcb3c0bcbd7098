"""Tables of text and images as EasyNLP keeps them: one row a line, TAB between the cells, no quoting, images in base64.

A row ends at LF or CRLF; the last one needs neither. Blank lines are no rows. A lone CR ends nothing: in a text cell it
is refused (some readers end the row there), in an image cell it is white space. A UTF-8 byte order mark is passed over.
Which column is which says a schema, `idx:str:1,text:str:1,imgbase64:str:1` or just `idx,text,imgbase64`; a table has no
header.
"""
from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from .base64_images import NotAnImage, decode_image, decode_images
from .errors import FormatError, RequestError

Decoded = TypeVar("Decoded")
ROW_LIMIT = 1 << 30
"""The longest row that is read, in bytes: a guard against files without line ends."""

TAB = b"\t"
_CARRIAGE_RETURNS = "; it holds carriage returns that end no row here: write LF or CRLF"
_SHORT = 48
"""Fewer characters of base64 hold no image."""
_BLANK = (b"\n", b"\r\n")
_TYPES = ("str", "int", "float")
_CODECS = ("utf-8", "gbk", "gb2312", "gb18030", "big5", "cp950", "ascii", "iso8859-1", "cp1252")
"""Encodings in which TAB, CR and LF are never part of another character, so that rows and cells split as bytes."""


@dataclass(frozen=True)
class Schema:
    """The names of a table's columns, in order."""

    names: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> Schema:
        """From `name:type:length,...`; type (str, int, float) and length may be left out, a last comma is ignored."""
        names = []
        parts = [part.strip() for part in text.split(",")]
        for part in parts[:-1] if parts[-1] == "" else parts:
            name, _, rest = part.partition(":")
            kind, _, length = rest.partition(":")
            if not name or (kind and kind not in _TYPES) or (length and not length.isdigit()):
                raise RequestError(f"The schema entry {part!r} is not of the form name:type:length with the type str, "
                                   "int or float, such as text:str:1.", entry=part)
            if name in names:
                raise RequestError(f"The schema names the column {name!r} twice.", entry=part)
            names.append(name)
        if not names:
            raise RequestError("The schema is empty; a usual one is idx:str:1,text:str:1,imgbase64:str:1.")
        return Schema(tuple(names))

    def index(self, name: str) -> int:
        """Where a column stands. Raises RequestError."""
        try:
            return self.names.index(name)
        except ValueError:
            raise RequestError(f"There is no column {name!r}; the schema names {', '.join(self.names)}.",
                               column=name) from None


class Line(NamedTuple):
    """A line of a table that is a row."""

    number: int
    """Counted from 1, blank lines included, as editors do."""
    offset: int
    raw: bytes
    """As it stands in the file, line end included."""


class Table:
    """A TSV file, read from front to back in bounded memory.

    schema: Schema or its text; None: three cells are (idx, text, imgbase64), two are (text, imgbase64).
    strict: a row with more cells than the schema is an error; else they are dropped, as the original did.
    Raises FormatError for what is wrong with the file or a row, with `line` set where one is concerned.
    """

    def __init__(self, path: str | os.PathLike[str], schema: Schema | str | None = None, *, encoding: str = "utf-8",
                 skip_first_line: bool = False, strict: bool = False) -> None:
        self.path = Path(path)
        self.encoding = _codec(encoding)
        self.skip_first_line = skip_first_line
        self.strict = strict
        self._bom = _refuse_other_files(self.path, self.encoding)
        given = Schema.parse(schema) if isinstance(schema, str) else schema
        self._guessed = given is None
        self.schema = given or self._guess_schema()

    def lines(self) -> Iterator[Line]:
        """Every row as bytes; what a row holds is looked at by `cells`."""
        offset = 0
        with open(self.path, "rb", buffering=1 << 20) as file:
            for number in itertools.count(1):
                raw = file.readline(ROW_LIMIT)
                if not raw:
                    return
                if len(raw) == ROW_LIMIT:
                    raise FormatError(f"Line {number} of {self.path} is longer than {ROW_LIMIT >> 20} MiB: is it a "
                                      "table, and does each row end with a line feed?", line=number)
                if raw not in _BLANK and (number > 1 or not self.skip_first_line):
                    yield Line(number, offset, raw)
                offset += len(raw)

    def cells(self, line: Line) -> list[bytes]:
        """The cells that the schema names."""
        raw, wanted, last = line.raw, len(self.schema.names), len(line.raw)
        while last and raw[last - 1] in b"\r\n":
            last -= 1
        cells: list[bytes] = []
        start, end = 0 if line.offset else self._bom, 0
        while len(cells) < wanted and end != last:
            # find runs at memory speed, where split looks at each byte of an image on its own
            end = raw.find(TAB, start, last)
            end = last if end < 0 else end
            cells.append(raw[start:end])
            start = end + 1
        if len(cells) < wanted or (self.strict and end != last):
            hint = _CARRIAGE_RETURNS if b"\r" in raw[:last] else ""
            raise self.problem(line, f"{raw.count(TAB) + 1} cells, where the schema names {wanted} "
                                     f"({', '.join(self.schema.names)}){hint}")
        return cells

    def text(self, line: Line, cell: bytes, column: str = "text") -> str:
        """A cell as text."""
        try:
            text = cell.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise self.problem(line, f"{column} is not {self.encoding.upper()} (0x{cell[error.start]:02x} at byte "
                                     f"{error.start + 1}){_other_encoding(cell, self.encoding)}") from None
        if "\r" in text:
            raise self.problem(line, f"{column} holds a carriage return, which ends a row for some readers")
        return text

    def image(self, line: Line, cell: bytes) -> bytes:
        """The image file in a cell."""
        return self._decoded(line, cell, decode_image)

    def images(self, line: Line, cell: bytes) -> list[bytes]:
        """The image files in a cell: one, or in a table of predictions a list."""
        return self._decoded(line, cell, decode_images)

    def _decoded(self, line: Line, cell: bytes, decode: Callable[[bytes], Decoded]) -> Decoded:
        try:
            return decode(cell)
        except NotAnImage as error:
            header = line.number == 1 and cell.strip().decode("latin-1") in self.schema.names
            two = self._guessed and len(self.schema.names) == 2     # most likely an idx and a text
            if two and not header and cell and (len(cell) < _SHORT or not cell.isascii()):
                raise self.problem(line, f"the table seems to have no image column (without --input-schema a row is "
                                         f"({', '.join(self.schema.names)}) here)") from None
            hint = "; it looks like a header: --skip-first-line" if header else \
                f"; without --input-schema a row is ({', '.join(self.schema.names)}) here" if self._guessed else ""
            raise self.problem(line, f"{error}{hint}") from None

    def problem(self, line: Line, reason: str) -> FormatError:
        """The error for a row."""
        return FormatError(f"Line {line.number} of {self.path}: {reason}.", line=line.number, reason=reason,
                           path=self.path)

    def _guess_schema(self) -> Schema:
        first = next(self.lines(), None)
        if first is None:
            raise FormatError(f"{self.path} has no rows.", path=self.path)
        cells = first.raw.rstrip(b"\r\n").count(TAB) + 1
        if cells == 3:
            return Schema(("idx", "text", "imgbase64"))
        if cells == 2:
            return Schema(("text", "imgbase64"))
        if b"\r" in first.raw.rstrip(b"\r\n"):
            raise self.problem(first, f"{cells} cells{_CARRIAGE_RETURNS}")
        raise FormatError(f"Line {first.number} of {self.path} has {cells} cell{'s' * (cells != 1)}; without "
                          "--input-schema a row is (idx, text, imgbase64) or (text, imgbase64), separated by tabs.",
                          line=first.number)


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name.removesuffix("-sig")
    except LookupError:
        found = ""
    if found not in _CODECS:
        raise RequestError(f"Tables in the encoding {name!r} cannot be read: use one of {', '.join(_CODECS)}, or "
                           "rewrite the table as UTF-8.", encoding=name)
    return found


def _refuse_other_files(path: Path, encoding: str) -> int:
    """Refuse what is no text table; the length of a byte order mark."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except IsADirectoryError:
        raise FormatError(f"{path} is a folder, not a table.", path=path) from None
    except FileNotFoundError:
        raise FormatError(f"There is no table {path}.", path=path) from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.", path=path) from None
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError(f"{path} is UTF-16: rewrite it as UTF-8 (iconv -f UTF-16 -t UTF-8).", path=path)
    if head.startswith(b"\x1f\x8b"):
        raise FormatError(f"{path} is compressed: unpack it with gunzip first.", path=path)
    if b"\0" in head:
        raise FormatError(f"{path} is no text table: it holds zero bytes.", path=path)
    return len(codecs.BOM_UTF8) if encoding == "utf-8" and head.startswith(codecs.BOM_UTF8) else 0


def _other_encoding(cell: bytes, encoding: str) -> str:
    if encoding == "utf-8":
        try:
            cell.decode("gbk")
        except UnicodeDecodeError:
            return ""
        return "; it could be GBK: --encoding gbk"
    return "; it is UTF-8" if _is_utf8(cell) else ""


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
