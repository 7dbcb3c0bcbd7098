"""Make a bundle for PAI-EAS: a flat tar.gz, the same bytes every time."""

from __future__ import annotations

import argparse

from danqing.progress import byte_progress, size_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing pack``."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder of any layout")
    parser.add_argument("bundle", metavar="BUNDLE", help="the file to write, such as model.tar.gz")
    parser.add_argument("--flavor", choices=("easynlp", "diffusers"), help="layout inside (default: that of MODEL)")
    parser.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")
    parser.add_argument("--force", action="store_true", help="replace BUNDLE if it exists")


def run(args: argparse.Namespace) -> None:
    """Pack, and say in one line what was written."""
    from danqing_pack.eas import pack

    with byte_progress("packing", size_of(args.model)) as progress:
        done = pack(args.model, args.bundle, flavor=args.flavor, force=args.force, progress=progress,
                    text_length=args.text_length)
    print(done.describe())
