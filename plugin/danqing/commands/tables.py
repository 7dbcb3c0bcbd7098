"""Turn an EasyNLP table of texts and images into an image folder that datasets loads, and back.

  danqing tables to-folder train.tsv train/
  danqing tables to-tsv train/ train.tsv

A table is TSV without a header: (idx, text, image in base64) or (text, image). Images are copied byte for byte. What
`danqing easynlp --mode=predict` writes is such a table, too.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from danqing_pack.errors import FormatError

SHOWN = 20
"""Bad rows that are told one by one; the rest is counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing tables``."""
    directions = parser.add_subparsers(dest="direction", metavar="to-folder|to-tsv", required=True)
    forth = directions.add_parser("to-folder", help="a table to an image folder", allow_abbrev=False)
    forth.add_argument("source", metavar="TABLE", help="a TSV file")
    forth.add_argument("target", metavar="DIR", help="the folder to write: images and metadata.jsonl")
    forth.add_argument("--input-schema", metavar="NAME:TYPE:LENGTH,...",
                       help="the columns (default: idx,text,imgbase64 or text,imgbase64, by the first row)")
    forth.add_argument("--text-column", default="text", metavar="NAME", help="the column of the text (default: text)")
    forth.add_argument("--skip-first-line", action="store_true", help="the first line is a header")
    forth.add_argument("--encoding", default="utf-8", help="utf-8, gbk, gb18030, big5 ... (default: utf-8)")
    back = directions.add_parser("to-tsv", help="an image folder to a table", allow_abbrev=False)
    back.add_argument("source", metavar="DIR", help="a folder with images and metadata.jsonl")
    back.add_argument("target", metavar="TABLE", help="the TSV file to write, UTF-8")
    back.add_argument("--output-schema", metavar="NAME,...",
                      help="the columns and their order (default: as in the first line of metadata.jsonl)")
    for direction, bad in ((forth, "DIR.bad.tsv"), (back, "TABLE.bad.jsonl")):
        direction.add_argument("--image-column", default="imgbase64", metavar="NAME",
                               help="the column of the image (default: imgbase64)")
        direction.add_argument("--on-error", choices=("stop", "skip", "collect"), default="stop",
                               help="what a row that cannot be read does: stop everything, be left out, or be left out "
                                    "and written to a file (default: stop)")
        direction.add_argument("--bad-rows", metavar="FILE", help=f"where such rows are collected (default: {bad})")
        direction.add_argument("--allow", action="append", default=[], choices=("empty-text", "repeated-idx"),
                               help="keep such rows, which are errors otherwise; may be given twice")
        direction.add_argument("--force", action="store_true", help="replace the target if it exists")


def run(args: argparse.Namespace) -> None:
    """Convert, name each bad row, and say in one line what was written."""
    from danqing_pack.table_conversion import to_folder, to_tsv

    told = _Told()
    options: dict[str, Any] = {
        "image_column": args.image_column, "on_error": args.on_error, "bad_rows": args.bad_rows, "allow": args.allow,
        "force": args.force, "report": told}
    if args.direction == "to-folder":
        done = to_folder(args.source, args.target, args.input_schema, text_column=args.text_column,
                         skip_first_line=args.skip_first_line, encoding=args.encoding, **options)
    else:
        done = to_tsv(args.source, args.target, args.output_schema, **options)
    told.rest()
    left = f"; {done.bad} bad rows were left out" if done.bad else ""
    where = f" and stand in {done.bad_rows}" if done.bad_rows else ""
    print(f"Wrote {args.target}: {done.rows:,} rows, {done.images:,} images of {_size(done.image_bytes)}"
          f"{left}{where}.")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


class _Told:
    """Bad rows on stderr, as many as somebody reads."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, error: FormatError) -> None:
        self._count += 1
        if self._count <= SHOWN:
            print(error, file=sys.stderr)

    def rest(self) -> None:
        if self._count > SHOWN:
            print(f"... and {self._count - SHOWN} more.", file=sys.stderr)
