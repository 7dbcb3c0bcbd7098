"""--mode=predict: a table of texts in, a table of pictures out, row by row.

Row r of the input (from 0) is drawn with the seeds random_seed + r * n ... + n - 1, n images to a row, so its pictures
depend neither on the rows beside it nor on where an interrupted run went on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from danqing_pack.errors import FormatError, RequestError
from danqing_pack.tables import Line, Schema, Table

from danqing.easynlp_cli.resumable_table import ResumableTable, complete_rows

Record = dict[str, str]


class Predictor(Protocol):
    """What a family does for one batch."""

    columns: Sequence[str]
    """What --output_schema may name."""

    def rows(self, records: Sequence[Record], first: int) -> list[dict[str, Any]]:
        """`rows_per_record` results for each record, in their order; `first` is the number of the first record, from
        0."""


class Family(Protocol):
    """The part of a family's module that predicting needs."""

    COLUMNS: Sequence[str]

    def settings(self, args: argparse.Namespace, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What the pictures depend on besides text, seed and checkpoint."""

    def rows_per_record(self, parameters: Mapping[str, Any]) -> int:
        """Rows of the result for a row of the input."""

    def inputs(self, parameters: Mapping[str, Any]) -> Sequence[str]:
        """Columns that are read besides the text and `idx`."""

    def checker(self, parameters: Mapping[str, Any]) -> Callable[[Record], None]:
        """A function that raises ValueError, the second half of a sentence, for a row that cannot be drawn."""

    def predictor(self, args: argparse.Namespace, parameters: Mapping[str, Any]) -> Predictor:
        """The loaded model."""


def predict(family: Family, args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Carry out one command line."""
    table, target = _input(args), Path(needed(args, "outputs"))
    _refuse_target(target, table.path)
    columns = Schema.parse(args.output_schema or ",".join(family.COLUMNS)).names
    appended = Schema.parse(args.append_cols).names if args.append_cols else ()
    for name in columns:
        if name not in family.COLUMNS:
            raise RequestError(f"--output_schema: there is no column {name!r}; this model gives "
                               f"{', '.join(family.COLUMNS)} (columns of the input go to --append_cols).")
    each, inputs = family.rows_per_record(parameters), family.inputs(parameters)
    for name in (args.first_sequence, *inputs, *appended):
        table.schema.index(name)
    wanted = {name for name in (args.first_sequence, "idx", *inputs, *appended) if name in table.schema.names}
    records, digest = _survey(table, wanted, family.checker(parameters))
    total = records * each
    there = None if args.force else complete_rows(target, len(columns) + len(appended))
    if args.resume and there == total:
        print(f"{target} already has all of its {total:,} rows: nothing is left to draw. --force draws them anew.")
        return
    if there is not None:
        raise RequestError(f"{target} exists: name another output, or replace it with --force.", path=target)
    settings = {"table": digest, "checkpoint": fingerprint(args.checkpoint_dir), "encoding": table.encoding,
                "input_schema": list(table.schema.names), "output_schema": list(columns),
                "append_cols": list(appended), "first_sequence": args.first_sequence,
                "random_seed": args.random_seed, **family.settings(args, parameters)}
    output = ResumableTable(target, len(columns) + len(appended), settings, resume=args.resume, force=args.force)
    try:
        before = output.rows
        if before:
            print(f"Going on after {before:,} of {total:,} rows.", file=sys.stderr)
        if before < total:
            job = _Job(table, wanted, columns, appended, each, total)
            _draw(family.predictor(args, parameters), job, output, args)
        output.finish()
    finally:
        output.close()
    print(f"Wrote {target}: {total:,} rows{f', {before:,} of them by an earlier run' if before else ''}.")


@dataclass(frozen=True)
class _Job:
    """What is read and written: `each` rows of the result for a row of the input, `total` in all."""

    table: Table
    wanted: set[str]
    columns: Sequence[str]
    appended: Sequence[str]
    each: int
    total: int


def _draw(predictor: Predictor, job: _Job, output: ResumableTable, args: argparse.Namespace) -> None:
    """Batches begin at multiples of their size wherever the run began: a batch that was torn is drawn again as a whole,
    and only its missing rows are written. So rounding that depends on the batch is the same, too."""
    size, start, done = args.micro_batch_size, time.monotonic(), output.rows
    first = done // job.each // size * size
    records = (_record(job.table, line, job.wanted) for line in islice(job.table.lines(), first, None))
    for step, batch in enumerate(iter(lambda: list(islice(records, size)), []), 1):
        for number, record in enumerate(batch, first + 1):
            record.setdefault("idx", str(number))
        drawn = predictor.rows(batch, first)
        sources = (record for record in batch for _ in range(job.each))
        for number, (record, row) in enumerate(zip(sources, drawn, strict=True), first * job.each):
            if number >= output.rows:
                output.write([str(row[name]) for name in job.columns] + [record[name] for name in job.appended])
        output.flush()
        first += len(batch)
        if step % args.logging_steps == 0 or sys.stderr.isatty():
            seconds = (time.monotonic() - start) / (output.rows - done)
            print(f"{output.rows:,} of {job.total:,} rows, {seconds:.2f} s each", file=sys.stderr)


def _input(args: argparse.Namespace) -> Table:
    path = needed(args, "tables").split(",")[-1].strip()
    needed(args, "checkpoint_dir")
    if not args.input_schema:
        raise RequestError("--mode=predict needs --input_schema, such as idx:str:1,text:str:1.")
    return Table(local(path), args.input_schema, encoding=args.encoding, skip_first_line=args.skip_first_line)


def _refuse_target(target: Path, table: Path) -> None:
    """RequestError for a place that the result cannot take, before anything is drawn."""
    if target.is_dir():
        raise RequestError(f"{target} is a folder: --outputs names the table to write.", path=target)
    if target.exists() and target.samefile(table):
        raise RequestError(f"--outputs names {table}, the table that is read: choose another name.", path=target)


def needed(args: argparse.Namespace, flag: str) -> str:
    """The value of a flag that the mode cannot do without."""
    value: str | None = getattr(args, flag)
    if not value:
        raise RequestError(f"--mode={args.mode} needs --{flag}.")
    return value


def local(path: str) -> str:
    """A path on this machine; RequestError for the stores that the original could read."""
    remedies = {"odps://": "export the table as a TSV file", "oss://": "copy the file, or mount the bucket"}
    for store, remedy in remedies.items():
        if path.startswith(store):
            raise RequestError(f"{path} is not read here: {remedy}.", path=path)
    return path


def _record(table: Table, line: Line, wanted: set[str]) -> Record:
    cells = dict(zip(table.schema.names, table.cells(line), strict=True))
    return {name: table.text(line, cells[name], name) for name in wanted}


def _survey(table: Table, wanted: set[str], check: Callable[[Record], None]) -> tuple[int, str]:
    """The number of rows and their digest; every row is looked at before a model is loaded."""
    digest, rows = hashlib.sha256(), 0
    for line in table.lines():
        record = _record(table, line, wanted)
        try:
            check(record)
        except ValueError as error:
            raise table.problem(line, str(error)) from None
        digest.update(line.raw)
        rows += 1
    if not rows:
        raise FormatError(f"{table.path} has no rows.", path=table.path)
    return rows, digest.hexdigest()


def fingerprint(checkpoint: str) -> str:
    """Which model lies at a path: names, sizes and ends of its files; a name that is no path stands for itself."""
    place = Path(checkpoint)
    if not place.exists():
        return checkpoint
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(
        found for found in place.rglob("*") if found.suffix in (".bin", ".safetensors", ".json", ".txt"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if file == place else file.relative_to(place)}\0{size}\0".encode())
        for part in _ends(file, size):
            digest.update(part)
    return digest.hexdigest()


def _ends(file: Path, size: int) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        yield opened.read(1 << 16)
        opened.seek(max(0, size - (1 << 16)))
        yield opened.read()
