"""Bring a model from a hub into a folder: verified, and only what is missing there.

  danqing pull hf:org/name DIR
  danqing pull ms:org/name@v1.0.0 DIR

A pull that was interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys

from danqing.transfers import say, transfers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing pull``."""
    parser.add_argument("source", metavar="HUB:ORG/NAME", help="hf:org/name or ms:org/name, with @revision behind it if need be")
    parser.add_argument("target", metavar="DIR", help="the folder; one that exists is completed")
    parser.add_argument("--revision", metavar="NAME", help="a branch, a tag or a commit")
    parser.add_argument("--include", metavar="PATTERN", action="append", default=[], help="fetch only these; may be repeated")
    parser.add_argument("--exclude", metavar="PATTERN", action="append", default=[], help="leave these out; may be repeated")
    parser.add_argument("--force", action="store_true", help="replace files of DIR that differ from the hub's")


def run(args: argparse.Namespace) -> None:
    """Pull, and say in one line what is there now and what it is."""
    with transfers():
        from danqing_pack.pulling import pull

        done = pull(args.source, args.target, revision=args.revision, include=args.include, exclude=args.exclude,
                    force=args.force, say=say)
    print(done.describe())
    if not (args.include or args.exclude):
        print(_what(args.target), file=sys.stderr)


def _what(folder: str) -> str:
    """What a model is; a foreign one may be none that Danqing reads."""
    from danqing_pack.additions import recognise
    from danqing_pack.detection import detect
    from danqing_pack.errors import DanqingError

    try:
        return (recognise(folder) or detect(folder)).describe()
    except DanqingError as error:
        return f"It was pulled as it is: {error}"
