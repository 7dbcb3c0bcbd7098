"""A table of text and images to an image folder, and back.

    to_folder("train.tsv", "train")        # train/00000001.png ... and train/metadata.jsonl
    to_tsv("train", "again.tsv")           # the same rows

Images are copied byte for byte; a file is named by its line in the table, so no cell can choose a name. The way back
gives the same rows but for what carries no information: base64 in the standard alphabet on one line, LF line ends,
UTF-8 without a byte order mark, no blank lines, no header. A row of a table of predictions that lists several images
becomes as many files with the same text, and rows of their own on the way back. Memory holds one row, and some 80 bytes
for each idx, to find one that is repeated.
"""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .base64_images import NotAnImage, encode_image, extension
from .errors import FormatError, RequestError
from .image_folders import FILE_NAME, METADATA, ImageFolder
from .staging import staged_file, staged_folder
from .tables import TAB, Line, Schema, Table

OnError = Literal["stop", "skip", "collect"]
EMPTY_TEXT, REPEATED_IDX = "empty-text", "repeated-idx"
"""What `allow` may name."""

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_EMPTY = f"the text is empty (--allow {EMPTY_TEXT} keeps such rows)"
_RESERVED = (FILE_NAME, "image")
"""Keys that `datasets` gives a meaning of its own."""


@dataclass(frozen=True)
class Summary:
    """What a conversion did. bad: rows left out; bad_rows: the file that holds them, if they were collected."""

    rows: int
    images: int
    image_bytes: int
    bad: int
    bad_rows: Path | None


def to_folder(table: str | os.PathLike[str], folder: str | os.PathLike[str], schema: Schema | str | None = None, *,
              text_column: str = "text", image_column: str = "imgbase64", skip_first_line: bool = False,
              encoding: str = "utf-8", on_error: OnError = "stop", bad_rows: str | os.PathLike[str] | None = None,
              allow: Collection[str] = (), force: bool = False,
              report: Callable[[FormatError], None] = lambda error: None) -> Summary:
    """Write an image folder that `datasets.load_dataset("imagefolder", data_dir=folder)` loads.

    on_error: what a row that cannot be read does: stop (raise), skip it, or collect it byte for byte in `bad_rows`
    (default: the folder's name with .bad.tsv). report: called with each such error. allow: EMPTY_TEXT, REPEATED_IDX.
    Raises FormatError (the table, or a row, with `line`) and RequestError (the arguments, the target).
    """
    source = Table(table, schema, encoding=encoding, skip_first_line=skip_first_line, strict=True)
    columns = _folder_keys(source.schema, text_column, image_column)
    seen = None if REPEATED_IDX in allow or "idx" not in columns else _Seen()
    image_at, text_at = columns.index(FILE_NAME), columns.index("text")
    rows = images = total = 0
    bad = _BadRows(on_error, Path(bad_rows or f"{Path(folder)}.bad.tsv"), force, report)
    with bad, staged_folder(folder, force=force, sources=[table], marks=[METADATA]) as staging, _folder_writer(staging) as write:
        with open(staging / METADATA, "wb", buffering=1 << 20) as metadata:
            for line in source.lines():
                try:
                    cells = source.cells(line)
                    found = source.images(line, cells[image_at])
                    record = {key: "" if key == FILE_NAME else source.text(line, cell, key)
                              for key, cell in zip(columns, cells, strict=True)}
                    if not cells[text_at].strip() and EMPTY_TEXT not in allow:
                        raise source.problem(line, _EMPTY)
                    if seen is not None:
                        seen.add(record["idx"].encode(), line, source.problem)
                except FormatError as error:
                    bad.add(error, line.raw)
                    continue
                for number, image in enumerate(found, 1):
                    place = f"-{number}" if len(found) > 1 else ""
                    record[FILE_NAME] = f"{line.number:08d}{place}.{extension(image)}"
                    write(record[FILE_NAME], image)
                    metadata.write(_ENCODER.encode(record).encode() + b"\n")
                    images, total = images + 1, total + len(image)
                rows += 1
        _refuse_nothing(rows, bad, source.path)
    return Summary(rows, images, total, bad.count, bad.written)


def to_tsv(folder: str | os.PathLike[str], table: str | os.PathLike[str], columns: Schema | str | None = None, *,
           image_column: str = "imgbase64", on_error: OnError = "stop",
           bad_rows: str | os.PathLike[str] | None = None, allow: Collection[str] = (), force: bool = False,
           report: Callable[[FormatError], None] = lambda error: None) -> Summary:
    """Write the table of an image folder, UTF-8.

    columns: keys of the metadata, with `image_column` for the image; None: all keys of the first line in their order,
    the image last where file_name comes first. Collected lines go to `<table>.bad.jsonl`; the rest is as for
    `to_folder`.
    """
    source = ImageFolder(folder)
    wanted = Schema.parse(columns).names if isinstance(columns, str) else columns.names if columns else \
        _keys(source, image_column)
    keys = [FILE_NAME if name == image_column else name for name in wanted]
    if FILE_NAME not in keys:
        raise RequestError(f"The schema {','.join(wanted)} has no image column {image_column!r}.")
    ends = [TAB] * (len(keys) - 1) + [b"\n"]
    seen = None if REPEATED_IDX in allow or "idx" not in keys else _Seen()
    total = rows = 0
    bad = _BadRows(on_error, Path(bad_rows or f"{Path(table)}.bad.jsonl"), force, report)
    with bad, staged_file(table, force=force, sources=[source.metadata]) as staging:
        with open(staging, "wb", buffering=1 << 14) as file:        # small, so that images pass it by
            for line in source.lines():
                try:
                    record = source.record(line)
                    image = source.image(line, record)
                    texts = {key: _cell(source, line, record, key, allow) for key in keys if key != FILE_NAME}
                    if seen is not None:
                        seen.add(texts["idx"], line, source.problem)
                    cells = [_image_cell(source, line, image) if key == FILE_NAME else texts[key] for key in keys]
                except FormatError as error:
                    bad.add(error, line.raw)
                    continue
                for cell, end in zip(cells, ends, strict=True):
                    file.write(cell)
                    file.write(end)
                rows, total = rows + 1, total + len(image)
        _refuse_nothing(rows, bad, source.metadata)
    return Summary(rows, rows, total, bad.count, bad.written)


def _folder_keys(schema: Schema, text_column: str, image_column: str) -> list[str]:
    """The metadata's keys, in the order of the table's columns."""
    schema.index(text_column)
    schema.index(image_column)
    renamed = {text_column: "text", image_column: FILE_NAME}
    kept = [name for name in schema.names if name not in renamed]
    for name in kept:
        if name in _RESERVED or name == "text":
            raise RequestError(f"A column named {name!r} cannot stand beside the text and the image in a {METADATA}: "
                               "give it another name in the schema.", column=name)
    return [renamed.get(name, name) for name in schema.names]


def _keys(folder: ImageFolder, image_column: str) -> tuple[str, ...]:
    """The columns that a folder's first good line shows; what is wrong with those before it is said in their turn."""
    problem = FormatError(f"{folder.metadata} has no lines.", path=folder.metadata)
    for count, line in enumerate(folder.lines()):
        try:
            names = [image_column if key == FILE_NAME else key for key in folder.record(line)]
        except FormatError as error:
            problem = problem if count else error
            continue
        return tuple(names[1:] + names[:1] if names[0] == image_column else names)
    raise problem


def _cell(folder: ImageFolder, line: Line, record: Mapping[str, Any], key: str, allow: Collection[str]) -> bytes:
    """A value of the metadata as a cell, refused where a table could not hold it."""
    text = folder.text(line, record, key)
    for character, name in (("\t", "a tab"), ("\n", "a line feed"), ("\r", "a carriage return")):
        if character in text:
            raise folder.problem(line, f"its {key} holds {name}, which a table cannot")
    if key == "text" and not text.strip() and EMPTY_TEXT not in allow:
        raise folder.problem(line, _EMPTY)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise folder.problem(line, f"its {key} holds half a character (a lone surrogate)") from None


def _image_cell(folder: ImageFolder, line: Line, image: bytes) -> bytes:
    try:
        extension(image)
    except NotAnImage as error:
        raise folder.problem(line, str(error)) from None
    return encode_image(image)


def _refuse_nothing(rows: int, bad: _BadRows, path: Path) -> None:
    if rows == 0:
        reason = f"all {bad.count} are bad" if bad.count else "it is empty"
        raise FormatError(f"{path} gives no rows: {reason}.", path=path)


class _Seen:
    """Which idx occurred in which line."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, idx: bytes, line: Line, problem: Callable[[Line, str], FormatError]) -> None:
        key = idx if len(idx) <= 16 else blake2b(idx, digest_size=17).digest()
        if key in self._seen:
            raise problem(line, f"the idx {idx.decode()!r} occurred before (--allow {REPEATED_IDX} keeps such rows)")
        self._seen.add(key)


@dataclass
class _BadRows:
    """What becomes of rows that cannot be read; the file is made for the first one and put in place at the end."""

    mode: OnError
    target: Path
    force: bool
    report: Callable[[FormatError], None]
    count: int = 0
    written: Path | None = None
    _file: BinaryIO | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> None:
        if self.mode not in ("stop", "skip", "collect"):
            raise RequestError(f"--on-error is stop, skip or collect, not {self.mode!r}.")
        if self.mode == "collect" and self.target.exists() and not self.force:
            raise RequestError(f"{self.target}, where bad rows would go, exists: move it, or replace it with --force.",
                               path=self.target)

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)    # type: ignore[arg-type]

    def add(self, error: FormatError, raw: bytes) -> None:
        if self.mode == "stop":
            raise error
        self.count += 1
        self.report(error)
        if self.mode == "collect":
            if self._file is None:
                staging = self._stack.enter_context(staged_file(self.target, force=self.force))
                self._file = self._stack.enter_context(open(staging, "wb"))
                self.written = self.target
            self._file.write(raw)


@contextmanager
def _folder_writer(folder: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A function that writes a new file; its name is resolved from the open folder, not from the root each time."""
    if os.open not in os.supports_dir_fd:       # Windows
        yield lambda name, content: _write(os.open(folder / name, _NEW, 0o666), content)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lambda name, content: _write(os.open(name, _NEW, 0o666, dir_fd=descriptor), content)
    finally:
        os.close(descriptor)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _write(file: int, content: bytes) -> None:
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest):]
    finally:
        os.close(file)
