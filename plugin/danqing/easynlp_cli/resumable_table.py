"""An output table that a killed run can go on with.

While a run writes `out.tsv`, its rows stand in `out.tsv.partial`, beside `out.tsv.partial.json`, which says what they
were made from. When the last row is written, the file is flushed and takes its name. A run that goes on keeps the
complete rows, drops a torn last one, and refuses rows that were made from something else. A table that is complete
stays where nobody asks for another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from danqing_pack.errors import RequestError
from danqing_pack.staging import staged_file

MAKER = "danqing easynlp --mode=predict"


class ResumableTable:
    """Rows appended one by one. `rows`: the complete ones so far, those of an earlier run included."""

    def __init__(self, target: Path, columns: int, settings: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """settings: what the rows depend on; JSON values. Raises RequestError: another run's rows are there."""
        self.target, self._columns = target, columns
        self.partial = target.with_name(f"{target.name}.partial")
        self._state = target.with_name(f"{target.name}.partial.json")
        self._begun = False
        with _telling(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_alone(self.partial)
        try:
            self.rows, end = _complete_rows(self.partial, columns)
            if self.rows and not resume and not force:
                raise RequestError(f"{self.partial} holds {self.rows} rows of an interrupted run: go on with --resume, "
                                   "or start over with --force.", path=self.partial, rows=self.rows)
            if self.rows and resume:
                self._refuse_others(settings)
            else:
                self.rows = end = 0
                self._write_state(settings)
            self._file.truncate(end)
            self._file.seek(end)
            self._begun = True
        except BaseException:
            self.close()
            raise

    def write(self, cells: list[str]) -> None:
        """Append a row; it is with the operating system when this returns."""
        if len(cells) != self._columns or any(separator in cell for cell in cells for separator in "\t\r\n"):
            raise RequestError(f"Row {self.rows + 1} of {self.target} cannot be written: a cell holds a tab or a line "
                               "end.", row=self.rows + 1)
        line = memoryview(("\t".join(cells) + "\n").encode())
        with _telling(self.target):
            while line:
                line = line[self._file.write(line):]
        self.rows += 1

    def flush(self) -> None:
        """Bring the rows to the disk."""
        with _telling(self.target):
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Every row is written: the table takes its name."""
        self.flush()
        with _telling(self.target):
            os.replace(self.partial, self.target)
        self._state.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go; without `finish` the rows stay for another run, and no rows leave no file."""
        if not self._file.closed:
            if self._begun and self.rows == 0:
                self.partial.unlink(missing_ok=True)
                self._state.unlink(missing_ok=True)
            self._file.close()

    def _write_state(self, settings: Mapping[str, Any]) -> None:
        self._file.truncate(0)      # first: rows must never stand beside the settings of other rows
        with staged_file(self._state, force=True) as staging:
            state = {"made_by": MAKER, "settings": settings}
            staging.write_text(json.dumps(state, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def _refuse_others(self, settings: Mapping[str, Any]) -> None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            before = state["settings"] if state["made_by"] == MAKER else None
        except (OSError, ValueError, KeyError, TypeError):
            before = None
        if not isinstance(before, dict):
            raise RequestError(f"{self._state} does not say what the rows of {self.partial.name} were made from: start "
                               "over with --force.", path=self._state)
        names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if names:
            raise RequestError(f"{self.partial} was begun with another {' and '.join(names)}: go on with the same, or "
                               "start over with --force.", path=self.partial, settings=names)


def complete_rows(target: Path, columns: int) -> int | None:
    """The rows of a table that is there; None: there is none, or an interrupted run is about to replace it."""
    if not target.is_file() or target.with_name(f"{target.name}.partial").exists():
        return None
    return _complete_rows(target, columns)[0]


def _complete_rows(path: Path, columns: int) -> tuple[int, int]:
    """How many rows are whole, and where they end: after a power cut a row may lack its end or hold zeros."""
    rows = end = 0
    with open(path, "rb", buffering=1 << 20) as file:
        for line in file:
            if not line.endswith(b"\n") or line.count(b"\t") != columns - 1 or b"\0" in line:
                break
            rows, end = rows + 1, end + len(line)
    return rows, end


@contextmanager
def _telling(target: Path) -> Iterator[None]:
    """What the operating system refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror}; what is complete stays for --resume.",
                           path=target, errno=error.errno) from error


def _open_alone(path: Path) -> BinaryIO:
    """A file to append to that no other run writes."""
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RequestError(f"Another run is writing {path}: wait for it, or choose another output.",
                               path=path) from None
        except OSError:
            pass        # a file system without locks
    return file
