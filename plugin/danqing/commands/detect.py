"""Say what lies at a path: family, layout, sizes. Nothing is changed."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing detect``."""
    parser.add_argument("path", metavar="DIR", help="a checkpoint folder of any layout, or a bundle")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a line")
    parser.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")


def run(args: argparse.Namespace) -> None:
    """Print one line, or one JSON object."""
    from danqing_pack.additions import recognise
    from danqing_pack.detection import detect

    found = recognise(args.path) or detect(args.path, args.text_length)
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if args.json else found.describe())
