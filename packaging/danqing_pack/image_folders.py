"""An image folder as `datasets` loads it (`imagefolder`): image files beside a metadata.jsonl with a line for each.

    {"idx": "17", "text": "一只可爱的小狗", "file_name": "00000017.jpg"}

The keys stand in the order of the table's columns, so the way back needs no schema. Names are read relative to the
folder and may not leave it.
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from .errors import FormatError
from .tables import ROW_LIMIT, Line

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"
_SEPARATOR = re.compile(r"[/\\:\0]")


class ImageFolder:
    """An image folder, read from front to back in bounded memory.

    Raises FormatError for what is wrong with the folder or a line of its metadata, then with `line` set.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metadata = self.path / METADATA
        if not self.metadata.is_file():
            raise FormatError(f"There is no {METADATA} in {self.path}{_elsewhere(self.path)}.", path=self.path)

    def lines(self) -> Iterator[Line]:
        """Every line of the metadata that is not blank."""
        offset = 0
        with open(self.metadata, "rb", buffering=1 << 20) as file:
            for number, raw in enumerate(iter(lambda: file.readline(ROW_LIMIT), b""), 1):
                if not raw.isspace():
                    yield Line(number, offset, raw)
                offset += len(raw)

    def record(self, line: Line) -> dict[str, Any]:
        """A line as an object with a file name that stays inside the folder."""
        try:
            record = json.loads(line.raw.decode("utf-8-sig"))
        except ValueError as error:
            raise self.problem(line, f"not a JSON object ({error})") from None
        if not isinstance(record, dict):
            raise self.problem(line, "not a JSON object")
        name = record.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise self.problem(line, f"it names no {FILE_NAME}")
        if not stays_inside(name):
            raise self.problem(line, f"the {FILE_NAME} {name!r} leaves the folder")
        return record

    def text(self, line: Line, record: Mapping[str, Any], key: str) -> str:
        """A value as the text of a table's cell."""
        value = record.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.problem(line, f"its {key} is neither text nor a number" if key in record else
                               f"it names no {key}")
        return value if isinstance(value, str) else json.dumps(value)

    def image(self, line: Line, record: Mapping[str, Any]) -> bytes:
        """The image file of a record."""
        name = str(record[FILE_NAME])
        try:
            with open(os.path.join(self.path, name), "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise self.problem(line, unreadable(name, error)) from None

    def problem(self, line: Line, reason: str) -> FormatError:
        """The error for a line of the metadata."""
        return FormatError(f"Line {line.number} of {self.metadata}: {reason}.", line=line.number, reason=reason,
                           path=self.metadata)


def stays_inside(name: str) -> bool:
    """Whether a relative name, in the spelling of any system, stays below its folder."""
    if not _SEPARATOR.search(name):
        return name not in ("", ".", "..")
    path = PureWindowsPath(name)        # it splits at both separators and knows drives
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


def unreadable(name: str, error: OSError) -> str:
    """Why an image file could not be read, as the second half of a sentence."""
    return f"the image {name} is missing" if isinstance(error, FileNotFoundError) else \
        f"the image {name} cannot be read ({error.strerror})"


def _elsewhere(folder: Path) -> str:
    """Where the metadata could be instead."""
    if not folder.is_dir():
        return ", which is no folder"
    below = sorted(found.parent.name for found in folder.glob(f"*/{METADATA}"))
    if below:
        return f"; there is one in {', '.join(below)}"
    others = sorted(found.name for found in folder.glob("metadata.*"))
    return f"; {others[0]} is not read, rewrite it as {METADATA}" if others else ""
