"""List the problems of a folder or a bundle, not the first alone. Exit code 1 if there is any.

What cannot be read at all may hide further ones.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing check``."""
    parser.add_argument("path", metavar="PATH", help="a checkpoint folder of any layout, or a bundle")
    parser.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")


def run(args: argparse.Namespace) -> int:
    """Print a line per problem, or one that says all is well."""
    from danqing_pack.checking import check

    problems = check(args.path, args.text_length)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{args.path}: no problem found.")
    return 1 if problems else 0
