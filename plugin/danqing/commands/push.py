"""Publish a checkpoint folder on a hub, in one commit; pushing again sends only what changed.

  danqing push DIR hf:org/name                  the Hugging Face hub
  danqing push DIR ms:org/name --tag v1.0.0     ModelScope
  danqing push DIR hf:org/name --dry-run        what would go where, and how large it is
  danqing push DIR hf:org/name --self-contained a painter that runs with diffusers and transformers alone

Tokens, caches, mirrors and proxies are those of the hubs' own clients: HF_TOKEN or `hf auth login`, HF_ENDPOINT;
MODELSCOPE_API_TOKEN or `modelscope login`, MODELSCOPE_ENDPOINT.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danqing.transfers import say, transfers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing push``."""
    parser.add_argument("folder", metavar="DIR", help="a checkpoint folder of any layout")
    parser.add_argument("target", metavar="HUB:ORG/NAME", help="hf:org/name or ms:org/name, with @branch behind it if need be")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch (default: main on hf, master on ms)")
    parser.add_argument("--tag", metavar="TAG", help="give the result a name that stays, such as v1.0.0")
    parser.add_argument("--include", metavar="PATTERN", action="append", default=[],
                        help="send only files that fit, those beside the checkpoint too; may be repeated")
    parser.add_argument("--exclude", metavar="PATTERN", action="append", default=[], help="leave these out; may be repeated")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument("--private", action="store_true", help="a repository that is made here is private")
    parser.add_argument("--no-card", action="store_true", help="neither write nor send README.md")
    parser.add_argument("--self-contained", action="store_true",
                        help="send a variant of a painter that brings its code, for trust_remote_code=True without Danqing")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list what would be sent, touch nothing")


def run(args: argparse.Namespace) -> None:
    """Push, and say in one line what is there now and that it was compared."""
    with transfers(), _variant(Path(args.folder), args.self_contained) as folder:
        from danqing_pack.pushing import push

        include = args.include or ["*"] * args.self_contained   # the code lies beside the checkpoint
        done = push(folder, args.target, revision=args.revision, tag=args.tag, include=include,
                    exclude=args.exclude, message=args.message, private=args.private, dry_run=args.dry_run,
                    card=not args.no_card, called="the self-contained variant" if args.self_contained else None, say=say)
    if args.dry_run:
        changed = {file.name for file in done.changed}
        for file in done.files:
            print(f"{file.size:>15,}  {file.name}" + ("" if file.name in changed else "  (there already)"))
        for name in done.removed:
            print(f"{'removed':>15}  {name}")
    for note in done.notes:
        print(note, file=sys.stderr)
    print(done.describe())


@contextmanager
def _variant(folder: Path, self_contained: bool) -> Iterator[Path]:
    """The folder to send: itself, or its variant with code, which lies in a temporary place while the block runs."""
    if not self_contained:
        yield folder
        return
    from danqing_pack.layouts.layout import relative_files
    from danqing_pack.links import own_file

    from danqing.publishing.self_contained import write_self_contained

    for name in relative_files(folder):         # the variant holds copies, which are links no more
        own_file(folder, name)
    with tempfile.TemporaryDirectory(prefix="danqing-") as scratch:
        variant = Path(scratch) / folder.resolve().name
        write_self_contained(folder, variant)
        yield variant
