"""Let a host's own command line run Danqing: `hf danqing VERB ...`.

  danqing integrate hf
  danqing integrate hf --remove

ModelScope's command line needs nothing: `modelscope danqing VERB ...` works where Danqing is installed.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing integrate``."""
    parser.add_argument("host", choices=("hf",), help="the command line of the Hugging Face hub")
    parser.add_argument("--remove", action="store_true", help="take the extension away again")


def run(args: argparse.Namespace) -> None:
    """Write or remove the extension, and name its place."""
    from danqing.hub_extension import install, remove

    print(remove() if args.remove else install())
