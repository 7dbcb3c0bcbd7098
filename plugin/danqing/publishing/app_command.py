"""What ``danqing hf-space`` and ``danqing ms-studio`` have in common: arguments, and the line at the end."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of both commands."""
    parser.add_argument("model", metavar="DIR", help="a checkpoint folder or bundle, or hf:org/name or ms:org/name")
    parser.add_argument("target", metavar="OUT", help="the folder to write")
    parser.add_argument("--repository", metavar="HUB:ORG/NAME",
                        help="fetch the model from there (default: a copy of DIR lies in OUT/model)")
    parser.add_argument("--title", help="of the page (default: the model's name)")
    parser.add_argument("--requirement", metavar="SPEC",
                        help="how pip finds Danqing on the host, such as an address of a wheel (default: this version)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(kind: str, args: argparse.Namespace) -> None:
    """Write the app, and say in one line what was written."""
    from danqing_pack.apps import write_app

    done = write_app(kind, args.model, args.target, repository=args.repository, title=args.title,
                     requirement=args.requirement, force=args.force)
    if done.note:
        print(done.note, file=sys.stderr)
    print(done.describe())
