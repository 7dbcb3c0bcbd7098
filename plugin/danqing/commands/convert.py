"""Write a checkpoint in another layout; every tensor is carried over bit for bit, and the way back restores it.

  danqing convert pai-painter-base-zh OUT --to diffusers
  danqing convert OUT BACK --to easynlp
"""

from __future__ import annotations

import argparse
import sys

from danqing.progress import byte_progress, size_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing convert``."""
    parser.add_argument("source", metavar="DIR", help="a checkpoint folder of any layout, or a bundle")
    parser.add_argument("target", metavar="OUT", help="the folder to write")
    parser.add_argument("--to", required=True, metavar="LAYOUT",
                        help="diffusers, easynlp or single-file (`danqing families` says which)")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="cast the weights (default: as stored)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list what would be written, write nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--drop-unused", action="store_true",
                        help="leave out what has no home in the new layout; the way back is then partial")
    parser.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")
    parser.add_argument("--weights", choices=("auto", "ema", "plain"), default="auto",
                        help="which weights to take where a checkpoint holds both (default: what the original sampled with)")


def run(args: argparse.Namespace) -> None:
    """Convert, and say in one line what was written."""
    from danqing_pack.conversion import convert

    with byte_progress("converting", size_of(args.source) if args.dtype is None else 0) as progress:
        done = convert(
            args.source, args.target, args.to, dtype=args.dtype, force=args.force, drop_unused=args.drop_unused,
            text_length=args.text_length, weights=args.weights, dry_run=args.dry_run, progress=progress)
    if args.dry_run:
        for name, size in done.files.items():
            print(f"{size:>15,}  {name}")
    for note in done.notes:
        print(note, file=sys.stderr)
    print(done.describe())
