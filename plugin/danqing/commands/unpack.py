"""Unpack a bundle into a new folder. Whatever would leave the folder, or does not match its digest, is refused."""

from __future__ import annotations

import argparse

from danqing.progress import byte_progress, size_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing unpack``."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a tar.gz (also .tar, .tar.bz2, .zip)")
    parser.add_argument("target", metavar="DIR", help="the folder to write")
    parser.add_argument("--limit", type=int, metavar="BYTES",
                        help="bytes that all files together may have (default: 100 times the bundle, at most 100 GiB)")
    parser.add_argument("--force", action="store_true", help="replace DIR if it exists")


def run(args: argparse.Namespace) -> None:
    """Unpack, and say in one line what was written."""
    from danqing_pack.eas import unpack

    with byte_progress("unpacking", size_of(args.bundle)) as progress:
        done = unpack(args.bundle, args.target, force=args.force, progress=progress,
                      limit=args.limit)
    print(done.describe())
