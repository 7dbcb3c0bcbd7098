"""Move a model from hub to hub, file by file, without room for the whole of it here.

  danqing mirror ms:a/b hf:c/d
  danqing mirror ms:a/b hf:c/d --convert diffusers      pickles become safetensors on the way; needs room for both
"""

from __future__ import annotations

import argparse
import sys

from danqing.transfers import say, transfers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing mirror``."""
    parser.add_argument("source", metavar="SOURCE", help="such as ms:org/name or ms:org/name@v1.0.0")
    parser.add_argument("target", metavar="TARGET", help="such as hf:org/name")
    parser.add_argument("--convert", metavar="LAYOUT", help="write another layout on the way: diffusers, easynlp or single-file")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="with --convert: cast the weights")
    parser.add_argument("--tag", metavar="TAG", help="give the result a name that stays")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument("--private", action="store_true", help="a repository that is made here is private")
    parser.add_argument("--dry-run", action="store_true", help="list what would travel, touch nothing")


def run(args: argparse.Namespace) -> None:
    """Mirror, and say in one line what is there now."""
    if args.dtype and not args.convert:
        from danqing_pack.errors import RequestError

        raise RequestError("--dtype goes with --convert: without it every byte stays as it is.")
    with transfers():
        from danqing_pack.mirroring import mirror

        done = mirror(args.source, args.target, to=args.convert, dtype=args.dtype, tag=args.tag, message=args.message,
                      private=args.private, dry_run=args.dry_run, say=say)
    if args.dry_run:
        for file in done.changed:
            print(f"{file.size:>15,}  {file.name}")
    for note in done.notes:
        print(note, file=sys.stderr)
    print(done.describe())
