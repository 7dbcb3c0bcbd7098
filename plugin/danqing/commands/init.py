"""Write configuration.json into a checkpoint folder, so that modelscope.pipeline(...) takes it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing init``."""
    parser.add_argument("path", metavar="DIR", help="a checkpoint folder of any layout")
    parser.add_argument("--task", metavar="TASK", help="its ModelScope task (default: the family's first)")
    parser.add_argument("--force", action="store_true", help="replace a configuration.json that is there")


def run(args: argparse.Namespace) -> None:
    """Write the file and name it."""
    from danqing_pack.initialising import initialise

    print(f"Wrote {initialise(args.path, task=args.task, force=args.force)}.")
